"""SIGTERM ends a job as Ctrl-C does: what it holds is let go, and it says how to go on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from jobs.context import alone, tracked
from jobs.stopping import Terminated, stoppable
from pipeline.config.generation import GenerateJob
from pipeline.config.upkeep import PruneJob
from pipeline.data import lease
from pipeline.data.store import Store
from pipeline.errors import StoreError
from tests.engine.processes import wait_until

GIVEN_S = 3 + 3  # by Ray; and as much again for a machine at other work
ROOT = Path(__file__).parents[2]
JOB = """
import sys, time
from jobs import cli
from jobs.context import alone, open_store, tracked
from pipeline.config.upkeep import PruneJob
def main(settings):
    store = open_store(settings)
    with tracked(settings) as reporter, alone(store, "test", settings), reporter.run("key", "name", {}) as run:
        reporter.flush(60)
        print("at work", flush=True)
        time.sleep(60)
sys.exit(cli.run(PruneJob, main, None))
"""


def work(**settings: object) -> GenerateJob:
    return GenerateJob.model_validate({"checkpoint": {"training": "net"}, **settings})


@pytest.mark.slow
def test_a_job_that_is_told_to_end_lets_go_and_ends_within_the_time_that_ray_gives(tmp_path: Path) -> None:
    config = tmp_path / "conf.yaml"
    config.write_text(yaml.safe_dump({"store": str(tmp_path / "store")}))
    command = [sys.executable, "-c", JOB, str(config)]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "at work\n"
        begin = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=30)
    assert time.monotonic() - begin < GIVEN_S
    assert process.returncode == 143
    assert told.splitlines()[-1] == "stopped; run the same command again to go on"
    assert "Traceback" not in told
    assert [key for key in Store(tmp_path / "store").keys("leases") if key.endswith("-beat")] == []
    wait_until(lambda: statuses(tmp_path) == ["KILLED"], 30)  # sent by the process that sends, which was not stopped


def statuses(folder: Path) -> list[str]:
    """Of the runs in the tracker; none where it is being made."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    if not (folder / "mlflow.db").exists():
        return []
    try:
        client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
        experiment = client.get_experiment_by_name("sigmasweep")
        return [run.info.status for run in client.search_runs([experiment.experiment_id])] if experiment else []
    except MlflowException:
        return []


def test_the_second_signal_does_not_disturb_what_the_first_one_began() -> None:
    before, done = signal.getsignal(signal.SIGTERM), list[str]()

    def job() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)
            done.append("let go")

    with pytest.raises(Terminated), stoppable():
        job()
    assert done == ["let go"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_same_work_is_refused_while_a_job_is_at_it_wherever_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.2)
    store = Store(tmp_path)
    with (
        alone(store, "generation", work()),
        pytest.raises(StoreError, match=r"^jobs/generation-\w+: is held by process \d+ on \S+ since .* at work"),
        alone(store, "generation", work(experiment="other", export="/elsewhere")),
    ):
        pass


def test_other_work_and_work_that_is_computed_anew_are_not_held_up(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with alone(store, "generation", work()), alone(store, "generation", work(seeds={"first": 1000, "count": 10})):
        pass
    with alone(store, "generation", work(reuse="none")), alone(store, "generation", work(reuse="none")):
        pass


def test_the_tracker_is_not_waited_for_by_a_job_that_is_stopped(tmp_path: Path) -> None:
    job = PruneJob(store=str(tmp_path / "store"), tracking_uri="http://127.0.0.1:1")  # nobody listens
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt), tracked(job) as reporter, reporter.run("key", "name", {}):
        raise KeyboardInterrupt
    assert time.monotonic() - begin < 2.5
