"""`jobs.search` as a person runs it: mistakes, a dry run, and a process that is killed on the way."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs import cli, search
from pipeline.config.search import SearchJob
from pipeline.data.store import Store
from pipeline.engine.search_state import ROOT
from tests.engine.gaussian import put_data, put_extractor, put_network
from tests.engine.processes import wait_for

pytest.importorskip("optuna", reason="the extra `search` brings it")
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("search")
    for name in ("store", "undisturbed"):
        put_network(Store(root / name))
        put_data(Store(root / name))
    extractor = put_extractor(root)
    content: dict[str, Any] = {
        "store": str(root / "store"), "experiment": "tests", "out": str(root / "out"), "name": "toy",
        "checkpoint": {"training": "gaussian"},
        "space": {
            "sampler.solver": [{"kind": "euler"}, {"kind": "heun"}, {"kind": "dpmpp_2m"}],
            "sampler.timesteps.num_steps": {"low": 3, "high": 12},
        },
        "budget": {"nfe": 30000}, "images": [100, 200], "generation": 5,
        "final": {"seeds": {"first": 1000, "count": 200}, "most": 3},
        "execution": {"batch_size": 50, "chunk_size": 50}, "actors": {"num_actors": 0},
        "metrics": {
            "extractors": [{"kind": "file", "path": extractor.path, "sha256": extractor.sha256, "name": "pixels"}],
            "dataset": "gaussian", "trajectory": {"num_seeds": 50},
        },
    }  # fmt: skip
    (root / "search.yaml").write_text(yaml.safe_dump(content))
    return root


def attempt(root: Path, *arguments: str) -> int:
    return cli.run(SearchJob, search.main, None, search.dry_run, [str(root / "search.yaml"), *arguments])


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("checkpoint.training=nobody", "nobody: no such training"),
        ("budget.nfe=-1", "budget.nfe: input should be greater than 0 (got -1)"),
        ("space={sampler.solver: [{kind: huen}]}", "did you mean 'heun'"),
        ("space={sampler.timesteps.num_steps: {low: 4, hihg: 9}}", "a range has no hihg"),
        ("metrics.dataset=nothing", "nothing"),
        ("final.seeds.first=150", "overlap those of the search"),
    ],
)
def test_a_mistake_is_one_sentence_and_nothing_is_generated(
    root: Path, capsys: pytest.CaptureFixture[str], setting: str, told: str
) -> None:
    assert attempt(root, "--set", setting) == 2
    error = capsys.readouterr().err
    assert told in error
    assert len(error.strip().splitlines()) == 1
    assert not Store(root / "store").committed("samples")


def test_a_dry_run_tells_the_budget_and_what_brute_force_would_take(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert attempt(root, "--dry-run") == 0
    told = capsys.readouterr().out
    assert "# spends at most 30,000 network evaluations; a generation of 5 settings at 100 images" in told
    assert "a grid of 12 settings at 200 images" in told
    assert SearchJob.model_validate(yaml.safe_load(told)).name == "toy"
    assert not Store(root / "store").committed("samples")


@pytest.mark.slow
def test_a_search_whose_process_is_killed_ends_as_one_that_was_not(root: Path) -> None:
    store, command = Store(root / "store"), [sys.executable, "-m", "jobs.search", str(root / "search.yaml")]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    for steps in (1, 3):
        process = subprocess.Popen(command, env=environment, start_new_session=True, text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
        wait_for(lambda steps=steps: len(store.committed(ROOT)) >= steps, process)  # type: ignore[misc]
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert attempt(root) == 0
    assert attempt(root, "--set", f"store={root}/undisturbed", "--set", f"out={root}/other") == 0
    one, two = (json.loads((root / name / "trials.json").read_text()) for name in ("out", "other"))
    assert one["trials"] == two["trials"]
    assert one["front"] == two["front"]
    contents = [{key: Store(root / name).manifest(key).meta.get("content") for key in Store(root / name).committed(
        "samples") if "/chunk-" in key} for name in ("store", "undisturbed")]  # fmt: skip
    assert contents[0] == contents[1]


@pytest.mark.slow
def test_the_search_and_its_trials_are_runs_and_its_folder_tells_of_it(root: Path) -> None:
    from mlflow import MlflowClient

    assert attempt(root) == 0
    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    kinds = [run.data.tags["kind"] for run in runs]
    trials = json.loads((root / "out" / "trials.json").read_text())["trials"]
    assert kinds.count("search") >= len(trials)
    assert kinds.count("search_summary") >= 1
    assert "on seeds that nothing was chosen by" in (root / "out" / "front.md").read_text()
    assert (root / "out" / "search.png").stat().st_size > 10_000
