"""The layers hold, and the check that says so is one that can fail."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("lint-imports")
    return subprocess.run([program, "--no-cache"], cwd=folder, capture_output=True, text=True, check=False)


def test_the_contracts_hold() -> None:
    told = lint_imports(ROOT)
    assert told.returncode == 0, told.stdout


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("pipeline/diffusion/flow.py", "import mlflow", "The math is torch and the standard library BROKEN"),
        ("pipeline/training/loss.py", "import ray", "Ray is met in the engine only BROKEN"),
        ("pipeline/data/order.py", "from pipeline.engine import policy", "Layers point one way BROKEN"),
        ("pipeline/newcomer.py", "X = 1", "Every package of the pipeline has its layer BROKEN"),
    ],
)
def test_the_contracts_fail_where_they_should(tmp_path: Path, file: str, line: str, contract: str) -> None:
    for name in ("pipeline", "jobs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    path = tmp_path / file
    path.write_text((path.read_text() if path.exists() else "") + f"\n{line}\n")
    told = lint_imports(tmp_path)
    assert told.returncode == 1
    assert contract in " ".join(told.stdout.split())
