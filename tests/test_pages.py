"""What README.md and the journeys tell a reader to do can be done; `make readme` does it."""

import importlib
import re
import shlex
import shutil
import socket
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs import cli
from tests.readme import PAGES, ROOT, Fence, Reader, Told, fences

FOLLOWED = [fence for page in PAGES for fence in fences(page)]
COMMANDS = [
    pytest.param(fence, command, id=f"{fence.page}:{fence.line} {command[:60]}")
    for fence in FOLLOWED
    for command in fence.commands
]
ALL_PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
WITHOUT_STORE = r"no such training|no data set|is not in the store|no benchmark or search"
KNOWN_PROGRAMS = {"python", "make", "ls", ".", "export", "uv"}


def files_of(pages: tuple[str, ...]) -> set[str]:
    return {fence.file for fence in FOLLOWED if fence.page in pages and fence.file}


def test_every_command_of_the_journeys_runs_or_says_why_not() -> None:
    looks_like_a_command = re.compile(r"^(\S*python|make|ray|mlflow|git|pip|uv) ", re.MULTILINE)
    others = [fence for fence in FOLLOWED if fence.language != "sh" and not fence.file]
    assert [f"{one.page}:{one.line}" for one in others if looks_like_a_command.search(one.text)] == []
    assert sum(bool(fence.commands) and not fence.not_run for fence in FOLLOWED) >= 10


def test_the_settings_that_the_readme_shows_are_those_that_it_runs() -> None:
    (shown,) = (fence.text for fence in FOLLOWED if fence.page == "README.md" and fence.language == "yaml")
    assert yaml.safe_load(shown) == yaml.safe_load((ROOT / "jobs" / "configs" / "benchmark.yaml").read_text())


@pytest.mark.parametrize(("fence", "command"), COMMANDS)
def test_a_command_names_what_is_there(fence: Fence, command: str) -> None:
    words = shlex.split(command, comments=True)
    assert words[0] in KNOWN_PROGRAMS
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    if words[:2] == ["python", "-m"] and words[2].split(".")[0] in ("jobs", "tests", "pipeline", "benchmarks"):
        assert (ROOT / (words[2].replace(".", "/") + ".py")).is_file()
    yours = {"my-images.yaml", "my-training.yaml"} if fence.not_run else set()
    for word in words[1:]:
        if word.endswith((".yaml", ".py")):
            assert (ROOT / word).is_file() or word in files_of(PAGES) | yours, word


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: page.name)
def test_every_program_that_a_page_names_is_there(page: Path) -> None:
    """Also of pages that are not followed: their commands take hours, or machines that not everybody has."""
    text = page.read_text(encoding="utf-8")
    made_here = files_of((str(page.relative_to(ROOT)),))
    for path in re.findall(r"python (?:-m pytest )?(?:-\S+ )*((?:jobs|tests|benchmarks|pipeline)/[\w/-]+\.py)", text):
        assert (ROOT / path).is_file() or path in made_here, path
    for module in re.findall(r"python -m ((?:jobs|tests|pipeline|benchmarks)(?:\.\w+)+)", text):
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file() or module == "jobs.NAME", module


JOBS = [
    pytest.param(words[2], words[3:], id=" ".join(words[2:])[:80])
    for fence in FOLLOWED
    if fence.page != "docs/new-solver.md"
    for words in (shlex.split(command, comments=True) for command in fence.commands)
    if words[:2] == ["python", "-m"] and words[2].startswith("jobs.")
]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the pages show, and the settings that are shipped, in a folder without a store."""
    folder = tmp_path_factory.mktemp("pages")
    shutil.copytree(ROOT / "jobs" / "configs", folder / "jobs" / "configs")
    reader = Reader(folder, {})
    for fence in FOLLOWED:
        if fence.file and fence.page != "docs/new-solver.md":
            reader.follow(fence, Told())
    return folder


@pytest.mark.parametrize(("module", "arguments"), JOBS)
def test_the_settings_of_a_command_are_valid_and_its_dry_run_writes_nothing(
    written: Path,
    module: str,
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    job: Any = importlib.import_module(module)
    monkeypatch.chdir(written)
    monkeypatch.setenv("SIGMASWEEP_DATA", str(written / "data"))
    before = sorted(written.rglob("*"))
    model = re.search(r"cli\.run\((\w+),", Path(job.__file__).read_text())
    assert model is not None
    code = cli.run(
        getattr(job, model[1]), job.main, None, getattr(job, "dry_run", None), [*arguments, "--dry-run"]
    )  # fmt: skip
    told = capsys.readouterr().err
    assert code == 0 or re.search(WITHOUT_STORE, told), told
    assert sorted(written.rglob("*")) == before


def test_marks_are_understood_and_misspelt_ones_refused(tmp_path: Path) -> None:
    marked, settings = "<!-- not run: needs a GPU -->\n```sh\nmake demo\n```\n", "```yaml\n# a.yaml\nb: 1\n```\n"
    (tmp_path / "page.md").write_text(f"words\n{marked}\n{settings}")
    command, file = fences("page.md", tmp_path)
    assert (command.not_run, command.commands, command.line) == ("needs a GPU", ["make demo"], 3)
    assert (file.file, file.commands) == ("a.yaml", [])
    (tmp_path / "page.md").write_text("<!-- no run: needs a GPU -->\n```sh\nmake demo\n```\n")
    with pytest.raises(ValueError, match=r"page\.md:2: a comment before a fence"):
        list(fences("page.md", tmp_path))


def test_a_command_that_fails_ends_it_and_names_the_line(tmp_path: Path) -> None:
    reader, told = Reader(tmp_path, {"PATH": "/usr/bin:/bin"}, ("touch c",)), Told()
    reader.follow(Fence("page.md", 3, "sh", "touch a\n# words\ntouch \\\n  b\ntouch c\n"), told)
    assert [command for command, _ in told.done] == ["touch a", "touch   b"]
    assert told.left == [("touch c", "left out by --skip")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    with pytest.raises(SystemExit, match=r"page\.md:9: failed: false"):
        reader.follow(Fence("page.md", 9, "sh", "false\ntouch d\n"), told)
    assert not (tmp_path / "d").exists()


def test_a_server_is_stopped_when_it_answers(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address, command = f"http://127.0.0.1:{port}", f"python3 -m http.server --bind 127.0.0.1 {port}\n"
    reader = Reader(tmp_path, {"PATH": "/usr/bin:/bin"})
    reader.follow(Fence("page.md", 1, "sh", command, background=address), Told())
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(address, timeout=2)
