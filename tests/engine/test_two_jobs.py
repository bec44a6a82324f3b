"""Two jobs on the same store at once."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from pipeline.data.store import Store
from pipeline.training.checkpoint import newest_position
from pipeline.training.loop import train_in_process
from tests.engine.processes import wait_for
from tests.engine.test_generation import run
from tests.engine.tiny import contents, tiny_store
from tests.object_server import ObjectServer
from tests.training.toys import make_dataset, make_job, make_settings, state_digests, store_at

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]
REPOSITORY = Path(__file__).parents[2]
PATIENCE_S = 300
GENERATION = """
import sys
from tests.engine.test_generation import Store, run, tiny_points
run(Store(sys.argv[1]), points=tiny_points()[:: int(sys.argv[2])])
"""


@contextmanager
def python(*arguments: str) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("where", ["local", "s3"])
def test_two_generations_of_the_same_points_at_once_both_end_well_with_the_content_of_one(
    where: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    undisturbed = tiny_store(tmp_path / "undisturbed")
    run(undisturbed)
    store = Store(tmp_path / "shared")
    if where == "s3":
        server: ObjectServer = request.getfixturevalue("s3")
        store = server.store()
    for key in undisturbed.committed("checkpoints"):
        snapshot = undisturbed.manifest(key)
        store.commit(key, {name: undisturbed.blob(snapshot, name) for name in snapshot.blobs}, snapshot.meta)
    with python("-c", GENERATION, store.uri, "1") as one, python("-c", GENERATION, store.uri, "-1") as other:
        told = [process.communicate(timeout=PATIENCE_S)[1] for process in (one, other)]
    assert (one.returncode, other.returncode) == (0, 0), told
    assert contents(store) == contents(undisturbed)
    assert store.keys("damaged") == []
    assert "set aside" not in "".join(told)


def test_of_two_train_jobs_the_second_is_refused_and_takes_over_when_the_first_was_killed(tmp_path: Path) -> None:
    store, settings = store_at(tmp_path), make_settings(10**6, checkpoint_kimg=1.6, log_kimg=1.6)
    make_dataset(store)
    job = make_job(store, settings)
    config = tmp_path / "train.yaml"
    content = {
        "store": store.uri,
        "name": "toy",
        "dataset": "toy",
        "model": {"network": {"kind": "mlp", "hidden": 32, "num_layers": 1}},
        "training": settings.model_dump(mode="json"),
        "workers": {"num_workers": 0},
    }
    config.write_text(yaml.safe_dump(content))
    with python("-m", "jobs.train", str(config)) as first:
        wait_for(lambda: newest_position(store, job.folder) is not None, first)
        with python("-m", "jobs.train", str(config)) as second:
            _, refused = second.communicate(timeout=PATIENCE_S)
        assert second.returncode == 2
        sentence = (
            rf"error: trainings/{job.folder}: is held by process {first.pid} on \S+ since .*, which is at work: .*\n"
        )
        assert re.fullmatch(sentence, refused)
        assert first.poll() is None
        first.kill()
        first.wait()
    position = newest_position(store, job.folder)
    assert position is not None
    kimg = (position + 3200) / 1000
    with python("-m", "jobs.train", str(config), "--set", f"training.duration_kimg={kimg}") as third:
        told, problem = third.communicate(timeout=PATIENCE_S)
    assert third.returncode == 0, problem
    assert f"process {first.pid} on " in told
    assert "is gone; its place is taken" in told
    lengthy = make_settings(10**6, duration_kimg=kimg, checkpoint_kimg=1.6, log_kimg=1.6)
    whole = make_job(store_at(tmp_path / "whole"), lengthy)
    train_in_process(whole.store, whole.dataset, whole.model, whole.settings, whole.reporter, "toy")
    assert state_digests(store, job.folder) == state_digests(whole.store, whole.folder)
    assert os.environ.get("MLFLOW_TRACKING_URI") is None  # else the job would have told another server
