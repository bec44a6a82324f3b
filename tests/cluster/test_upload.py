"""What travels with `ray job submit --working-dir .`, packed by Ray's own code, of a checkout with work in it."""

import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
MOST_BYTES = 5 * 2**20
LEFT_AT_HOME = (
    ".venv/lib/python3.11/site-packages/torch/lib/libtorch_cpu.so",
    "venv/bin/python",
    "runs/demo/store/samples/0123/chunk-000000-images.parquet",
    "runs/demo/mlflow.db",
    "runs/demo/mlflow-spool/0123/status.json",
    "store/datasets/digits.json",
    "mlruns/0/meta.yaml",
    "mlartifacts/1/0123/artifacts/report.html",
    "mlflow.db",
    "reports/steps/index.html",
    "pipeline/__pycache__/errors.cpython-311.pyc",
    "sigmasweep.egg-info/PKG-INFO",
    ".mypy_cache/3.11/cache.db",
    ".git/objects/pack/pack-0123.pack",
)
OF_THE_USER = ("conf.yaml", "my-images/7.png", "grids/steps-08.json")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that is under version control, and what piles up beside it: a megabyte each."""
    root = tmp_path_factory.mktemp("checkout")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, root / name)
    for name in LEFT_AT_HOME:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(bytes(2**20))
    for name in OF_THE_USER:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"small")
    return root


def packed(folder: Path, target: Path) -> list[str]:
    """Packs a folder as the command line of Ray Jobs does, and tells what is in it."""
    from ray._private.runtime_env.packaging import create_package
    from ray._private.runtime_env.working_dir import upload_working_dir_if_needed

    def keep(path: str, excludes: list[str] | None = None, **_: Any) -> None:
        create_package(path, target, include_gitignore=True, excludes=excludes)

    upload_working_dir_if_needed({"working_dir": str(folder)}, True, str(target.parent), upload_fn=keep)
    with zipfile.ZipFile(target) as archive:
        return [name for name in archive.namelist() if not name.endswith("/")]


def test_code_settings_and_small_data_travel_and_the_rest_stays_at_home(checkout: Path, tmp_path: Path) -> None:
    names = set(packed(checkout, tmp_path / "package.zip"))
    assert names.isdisjoint(LEFT_AT_HOME)
    assert names.issuperset(OF_THE_USER)
    code = {str(path.relative_to(ROOT)) for part in ("pipeline", "jobs") for path in (ROOT / part).rglob("*.py")}
    settings = {str(path.relative_to(ROOT)) for path in (ROOT / "jobs" / "configs").rglob("*.yaml")}
    assert names.issuperset(code | settings | {"pipeline/networks/winograd.cpp", "pipeline/report/page.html"})


def test_the_upload_stays_under_five_megabytes(checkout: Path, tmp_path: Path) -> None:
    packed(checkout, tmp_path / "package.zip")
    assert (tmp_path / "package.zip").stat().st_size < MOST_BYTES
