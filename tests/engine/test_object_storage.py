"""The whole of it on object storage: what is generated and trained there is what comes of it on a local disk."""

import os
import signal
import time
from pathlib import Path

import pytest

from pipeline.data.features import committed_features
from pipeline.data.samples import chunk_key
from pipeline.data.store import Store
from pipeline.engine.session import Resources
from pipeline.engine.work import Actors, Seeds
from pipeline.errors import StoreError
from pipeline.training import checkpoint
from tests.engine.processes import below, meanwhile, wait_for, wait_until
from tests.engine.test_generation import flip, run
from tests.engine.test_ownership import driver, undisturbed
from tests.engine.tiny import classifier_plan, contents, put_snapshot, tiny_points, tiny_store
from tests.engine.train_driver import HELD
from tests.object_server import ObjectServer, object_server
from tests.training.group import NETWORK
from tests.training.toys import BATCH, make_job, make_settings, state_digests, store_at


def remote_store(s3: ObjectServer, num_checkpoints: int = 2) -> Store:
    store = s3.store()
    for seed in range(num_checkpoints):
        put_snapshot(store, f"net{seed}", seed)
    return store


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))


def test_chunks_on_object_storage_are_those_on_a_local_disk_and_a_damaged_one_is_made_again(
    tmp_path: Path, s3: ObjectServer, capfd: pytest.CaptureFixture[str]
) -> None:
    local, remote = tiny_store(tmp_path, 1), remote_store(s3, 1)
    points, plan = tiny_points(1, (3,)), classifier_plan()
    for store in (local, remote):
        [result] = run(store, points=points, seeds=Seeds(0, 48), extractors=[plan])
    assert contents(remote) == contents(local)
    assert len(contents(remote)) == 3
    flip(remote, chunk_key(result.samples_digest, 1), "images.parquet")
    flip(remote, f"features/{result.samples_digest}/{plan.digest}/chunk-000002", "features.safetensors")
    [again] = run(remote, points=points, seeds=Seeds(0, 48), extractors=[plan])
    assert again.generated == 16
    assert contents(remote) == contents(local)
    assert committed_features(remote, result.samples_digest, plan.digest) == {0, 1, 2}
    told = [line for line in capfd.readouterr().err.splitlines() if "set aside" in line]
    assert [line.split(":")[0:2] for line in told] == [["s3", told[0].split(":")[1]], ["s3", told[1].split(":")[1]]]
    assert "secret" not in "".join(told)


@pytest.mark.chaos
def test_an_actor_that_is_killed_while_it_works_on_object_storage_loses_nothing(
    tmp_path: Path, s3: ObjectServer, ray_session: Resources
) -> None:
    local, remote = tiny_store(tmp_path), remote_store(s3)
    run(local)
    killed: list[int] = []

    def kill() -> None:
        wait_until(lambda: len(remote.committed("samples")) >= 6)  # four of them are settings
        killed.append(wait_until(lambda: below(os.getpid(), "ray::Actor"))[0])
        os.kill(killed[0], signal.SIGKILL)

    with meanwhile(kill):
        run(remote, Actors(num_actors=2), extractors=[classifier_plan()])
    assert killed
    assert contents(remote) == contents(local)
    assert len(contents(remote)) == 16


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_training_on_object_storage_that_is_killed_ends_with_the_bits_of_one_on_a_local_disk(
    tmp_path: Path, s3: ObjectServer, num_workers: int
) -> None:
    store, hold = s3.store(), tmp_path / "hold"
    hold.mkdir()
    job = make_job(store, make_settings(4), NETWORK)
    with driver(store, num_workers, hold) as killed:
        wait_for((hold / HELD).exists, killed)
        assert checkpoint.newest_position(store, job.folder) == BATCH
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    with driver(store, num_workers) as successor:
        told, _ = successor.communicate(timeout=600)
    assert successor.returncode == 0, told
    assert f"process {killed.pid} on " in told
    assert "is gone; its place is taken" in told
    assert f"goes on at {BATCH} images" in told
    undisturbed(tmp_path / "whole", num_workers)
    assert state_digests(store, job.folder) == state_digests(store_at(tmp_path / "whole"), job.folder)
    assert store.keys("cache/ray_train") == [] or num_workers  # a killed driver leaves Ray Train's notes


@pytest.mark.chaos
def test_a_damaged_checkpoint_on_object_storage_is_set_aside_and_the_one_before_it_taken(
    s3: ObjectServer, tmp_path: Path
) -> None:
    store = s3.store()
    job = make_job(store, make_settings(3), NETWORK)
    with driver(store, 0) as first:
        first.communicate(timeout=600)
    key = store.committed(checkpoint.states_prefix(job.folder))[-1]
    flip(store, key, "exp_avg.safetensors")
    told: list[str] = []
    state = checkpoint.newest(store, job.folder, told.append)
    assert state is not None
    assert len(told) == 1
    assert "damaged and set aside" in told[0]
    assert state.position < int(key.rpartition("/")[2])


@pytest.mark.chaos
def test_a_server_that_is_killed_ends_the_run_with_one_error_and_the_next_run_goes_on(tmp_path: Path) -> None:
    local = tiny_store(tmp_path / "local", 1)
    run(local, points=tiny_points(1))
    with object_server(tmp_path / "s3") as server:
        store = remote_store(server, 1)

        def kill() -> None:
            wait_until(lambda: len(store.committed("samples")) >= 5)  # two of them are settings
            server.kill()

        before = time.monotonic()
        with meanwhile(kill), pytest.raises(StoreError, match="cannot be read or written"):
            run(store, points=tiny_points(1))
        print(f"\nended after {time.monotonic() - before:.0f} s")
        server.start()
        there = contents(store)
        assert 3 <= len(there) < 8
        results = run(store, points=tiny_points(1))
        assert sum(result.generated for result in results) == 16 * (8 - len(there))
        assert contents(store) == contents(local)
