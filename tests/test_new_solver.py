"""docs/new-solver.md as it stands: its code in a copy of the project, its commands, and a benchmark with it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.readme import ROOT, Reader, Told, fences

PAGE = "docs/new-solver.md"
BENCHMARK = """
store: {golden}/kept
tracking_uri: sqlite:///{golden}/mlflow.db
name: kutta
out: {golden}/out
checkpoint: {{training: golden}}
sweep: {{sampler.solver: [{{kind: heun}}, {{kind: kutta}}], sampler.timesteps.num_steps: [4]}}
seeds: {{count: 32}}
metrics: {{extractors: [{{kind: classifier, width: 2, epochs: 2, num_features: 4}}]}}
timing: null
execution: {{batch_size: 8, chunk_size: 16, device: cpu}}
actors: {{num_actors: 0}}
"""
IGNORED = (".git", ".venv", "runs", "__pycache__", ".*_cache", "build", "*.egg-info")


@pytest.mark.slow
def test_the_solver_of_the_page_is_picked_up_by_tests_settings_catalogue_and_benchmark(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*IGNORED))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    reader, told = Reader(copy, environment, skip=("python -m jobs.benchmark",)), Told()
    for fence in fences(PAGE):
        reader.follow(fence, told)
    assert [command for command, _ in told.left] != []  # on the demo's store; here on a smaller one
    assert "| `kutta` | 3 | 3 | no |" in (copy / "docs" / "catalogue.md").read_text()
    assert "kutta" in (copy / "docs" / "settings.md").read_text()

    golden = tmp_path / "golden"
    shutil.copytree(ROOT / "tests" / "data" / "golden", golden)
    (tmp_path / "kutta.yaml").write_text(BENCHMARK.format(golden=golden))
    command = [sys.executable, "-m", "jobs.benchmark", str(tmp_path / "kutta.yaml")]
    subprocess.run(command, cwd=copy, env=environment, check=True)
    rows = json.loads((golden / "out" / "table.json").read_text())["rows"]
    assert {row["name"].split(",")[0]: row["nfe"] for row in rows} == {"heun": 7.0, "kutta": 10.0}
