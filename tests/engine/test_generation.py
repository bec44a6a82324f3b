"""Generation: the same bytes whoever does the work, nothing done twice, nothing lost; every fault is a real one."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch

from pipeline.data.features import committed_features, read_features
from pipeline.data.samples import chunk_key, read_samples
from pipeline.data.store import Store
from pipeline.diffusion.labels import Balanced, Fixed, Unlabelled
from pipeline.diffusion.sampling import Sampler, sample
from pipeline.diffusion.solvers import BogackiShampine
from pipeline.diffusion.stochasticity import Restart
from pipeline.diffusion.timesteps import AdaptiveSteps, EDMSteps, ExplicitSteps
from pipeline.engine import fleet, one_worker, starting
from pipeline.engine.actor import Actor, ChunkWorker
from pipeline.engine.denoisers import Denoisers
from pipeline.engine.devices import family, fixed_arithmetic
from pipeline.engine.generation import PointResult, find_settings, generate
from pipeline.engine.placement import place
from pipeline.engine.session import Resources
from pipeline.engine.timing import time_points
from pipeline.engine.work import Actors, ExtractorPlan, Point, Seeds, Setting, Task, WorkerSettings
from pipeline.errors import CheckpointError, DataError, RunFailedError, SettingsError, StoreError
from pipeline.metrics.extractors.classifier import ClassifierNetwork, to_bytes
from pipeline.training.snapshot import CheckpointRef, build_denoiser, find_snapshot, read_weights
from tests.engine.processes import below, is_running, meanwhile, stop_once, wait_until
from tests.engine.tiny import (
    EXECUTION,
    MODEL,
    classifier_plan,
    contents,
    put_snapshot,
    tiny_points,
    tiny_store,
)

HERE = Actors(num_actors=0)
SEEDS = Seeds(0, 64)  # four chunks a point


def run(store: Store, actors: Actors = HERE, **changes: Any) -> list[PointResult]:
    settings: dict[str, Any] = {"points": tiny_points(), "seeds": SEEDS, "execution": EXECUTION, "progress": False}
    return generate(store, actors=actors, **{**settings, **changes})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What every run of `tiny_points` must come to."""
    store = tiny_store(tmp_path_factory.mktemp("undisturbed"))
    run(store)
    return contents(store)


# -- the same bytes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_actors", [1, 2, 4])
def test_chunks_are_equal_for_any_number_of_actors_and_any_order(
    tmp_path: Path, ray_session: Resources, undisturbed: dict[str, str], num_actors: int
) -> None:
    store = tiny_store(tmp_path)
    points = tiny_points() if num_actors == 1 else tiny_points()[::-1]
    results = run(store, Actors(num_actors=num_actors), points=points)
    assert contents(store) == undisturbed
    assert [result.point for result in results] == points
    assert len(undisturbed) == 16


def test_a_chunk_is_what_a_plain_loop_makes_of_its_seeds(tmp_path: Path) -> None:
    """Its images are those of the sampler alone, quantized; up to one level, as batches are other ones here."""
    store = tiny_store(tmp_path, 1)
    [result] = run(store, points=tiny_points(1, (4,)))
    snapshot = find_snapshot(store, CheckpointRef("net0"))
    denoiser = build_denoiser(snapshot.model, read_weights(store, snapshot), torch.float32, "cpu")
    seeds = torch.arange(20, 45)
    plain = sample(
        denoiser, denoiser.levels, Sampler(timesteps=EDMSteps(num_steps=4)), seeds, MODEL.shape, labels=seeds % 10
    )
    expected = np.clip(np.trunc(plain.images.numpy() * 127.5 + 128), 0, 255)
    found = read_samples(store, result.samples_digest, 20, 25)
    assert np.abs(found.images.astype(int) - expected).max() <= 1
    assert np.array_equal(found.labels, (seeds % 10).numpy())
    assert set(found.nfe) == {7}
    assert expected.std() > 10  # there is something to compare


def test_the_format_of_images_and_the_name_of_a_point_change_nothing(
    tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    store = tiny_store(tmp_path)
    points = [replace(point, name=f"another {i}") for i, point in enumerate(tiny_points())]
    run(store, points=points, image_format="raw")
    assert contents(store) == undisturbed


def test_a_namespace_keeps_samples_apart_and_equal(tmp_path: Path, undisturbed: dict[str, str]) -> None:
    store = tiny_store(tmp_path, 1)
    points = tiny_points(1, (3,))
    run(store, points=points)
    [result] = run(store, points=points, namespace="anew")
    assert result.generated == 64
    both = contents(store)
    assert len(both) == 8
    assert {digest: list(both.values()).count(digest) for digest in both.values()} == dict.fromkeys(both.values(), 2)
    assert set(both.values()) <= set(undisturbed.values())


# -- nothing twice -----------------------------------------------------------------------------------------------------


def test_growing_computes_what_is_missing_and_nothing_else(tmp_path: Path) -> None:
    store = tiny_store(tmp_path, 1)
    points = tiny_points(1, (3,))
    [first] = run(store, points=points, seeds=Seeds(0, 32))
    assert (first.generated, first.reused) == (32, 0)
    before = set(store.keys("samples"))
    [second] = run(store, points=points, seeds=Seeds(0, 70))  # five chunks
    assert (second.generated, second.reused) == (48, 32)
    added = set(store.keys("samples")) - before
    assert len([key for key in added if key.endswith(".parquet")]) == 3
    assert before <= set(store.keys("samples"))


def test_a_second_run_computes_nothing_and_starts_nothing(tmp_path: Path) -> None:
    store = tiny_store(tmp_path)
    plan = classifier_plan()
    first = run(store, extractors=[plan])
    before = store.keys("")
    second = run(store, Actors(num_actors=2), extractors=[plan], seeds=Seeds(5, 40))  # would need Ray
    assert store.keys("") == before
    assert [result.generated for result in second] == [0] * 4
    assert [result.nfe for result in second] == [result.nfe for result in first] == [5.0, 9.0, 5.0, 9.0]


def test_the_nfe_of_adaptive_steps_is_the_mean_of_what_was_counted(tmp_path: Path) -> None:
    store = tiny_store(tmp_path, 1)
    sampler = Sampler(timesteps=AdaptiveSteps(rtol=0.1, atol=0.1), solver=BogackiShampine())
    point = replace(tiny_points(1)[0], sampler=sampler)
    [first] = run(store, points=[point], seeds=Seeds(4, 20))
    counted = read_samples(store, first.samples_digest, 4, 20).nfe
    assert first.nfe == counted.mean()
    [again] = run(store, points=[point], seeds=Seeds(4, 20))
    assert (again.generated, again.nfe) == (0, first.nfe)


def test_points_that_differ_in_name_only_are_computed_once(tmp_path: Path) -> None:
    store = tiny_store(tmp_path, 1)
    point = tiny_points(1, (3,))[0]
    one, other = run(store, points=[point, replace(point, name="again")])
    assert one.samples_digest == other.samples_digest
    assert (one.generated, other.generated) == (64, 0)


def test_a_point_is_told_of_while_others_are_at_work(tmp_path: Path) -> None:
    store = tiny_store(tmp_path)
    told: list[tuple[str, int]] = []

    def on_point(result: PointResult) -> None:
        told.append((result.point.name, len(contents(store))))

    run(store, on_point=on_point)
    assert told == [(point.name, 4 * (i + 1)) for i, point in enumerate(tiny_points())]


def test_features_are_equal_whether_taken_along_or_later(tmp_path: Path, ray_session: Resources) -> None:
    plan = classifier_plan()
    along, later = tiny_store(tmp_path / "along", 1), tiny_store(tmp_path / "later", 1)
    points = tiny_points(1)
    run(along, points=points, extractors=[plan])
    run(later, points=points)
    results = run(later, Actors(num_actors=2), points=points, extractors=[plan])
    assert [result.generated for result in results] == [0] * 2
    for result in results:
        one, other = (read_features(s, result.samples_digest, plan.digest, 0, 64, 16) for s in (along, later))
        assert np.array_equal(one.features, other.features)
        assert one.logits is not None
        assert np.array_equal(one.logits, other.logits)  # type: ignore[arg-type]
        assert one.features.shape == (64, 6)
        assert one.features.std() > 0


def test_a_second_extractor_takes_its_features_and_leaves_the_first_ones(tmp_path: Path) -> None:
    store = tiny_store(tmp_path, 1)
    one, other = classifier_plan(0), classifier_plan(1)
    [result] = run(store, points=tiny_points(1, (3,)), extractors=[one])
    before = store.keys("features")
    run(store, points=tiny_points(1, (3,)), extractors=[other, one])
    assert set(before) < set(store.keys("features"))
    assert committed_features(store, result.samples_digest, other.digest) == {0, 1, 2, 3}
    assert len(store.keys("features")) == 2 * len(before)


# -- nothing lost ------------------------------------------------------------------------------------------------------


def test_a_worker_that_is_killed_loses_nothing(
    tmp_path: Path, ray_session: Resources, undisturbed: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    store = tiny_store(tmp_path)
    killed: list[int] = []

    def kill() -> None:
        wait_until(lambda: len(store.committed("samples")) >= 6)  # four of them are settings
        killed.append(wait_until(lambda: below(os.getpid(), "ray::Actor"))[0])
        os.kill(killed[0], signal.SIGKILL)

    with meanwhile(kill):
        results = run(store, Actors(num_actors=2), extractors=[classifier_plan()])
    assert killed
    assert contents(store) == undisturbed
    assert "an actor was lost" in capfd.readouterr().err
    for result in results:
        assert committed_features(store, result.samples_digest, classifier_plan().digest) == {0, 1, 2, 3}


def test_a_worker_that_is_stopped_is_noticed_and_its_chunks_are_done_by_another(
    tmp_path: Path, ray_session: Resources, undisturbed: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    store = tiny_store(tmp_path)
    stopped: list[int] = []

    def stop() -> None:
        wait_until(lambda: len(store.committed("samples")) >= 6)
        stopped.append(wait_until(lambda: below(os.getpid(), "ray::Actor"))[0])
        os.kill(stopped[0], signal.SIGSTOP)

    with meanwhile(stop):
        run(store, Actors(num_actors=2, hang_after_s=6))
    assert contents(store) == undisturbed
    assert "an actor was lost (it made no progress for 6 s)" in capfd.readouterr().err
    wait_until(lambda: not is_running(stopped[0]), 30)


def test_workers_that_all_stop_while_they_start_are_replaced(
    tmp_path: Path, ray_session: Resources, undisturbed: dict[str, str], capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    marks = [tmp_path / "stopped 0", tmp_path / "stopped 1"]

    class StopsAtItsStart(Actor):
        def __init__(self, *arguments: Any) -> None:
            stop_once(marks)
            super().__init__(*arguments)

    monkeypatch.setattr(fleet, "Actor", StopsAtItsStart)
    monkeypatch.setattr(starting, "LEAST_S", 15.0)
    store = tiny_store(tmp_path / "store")
    run(store, Actors(num_actors=2, hang_after_s=15))
    assert all(mark.exists() for mark in marks)
    assert contents(store) == undisturbed
    assert capfd.readouterr().err.count("an actor was lost (it did not start within 15 s)") == 2


@pytest.mark.slow
def test_a_timed_worker_that_stops_while_it_starts_is_replaced(
    tmp_path: Path, ray_session: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "stopped"

    class StopsAtItsStart(Actor):
        def __init__(self, *arguments: Any) -> None:
            stop_once([mark])
            super().__init__(*arguments)

    monkeypatch.setattr(one_worker, "Actor", StopsAtItsStart)
    monkeypatch.setattr(starting, "LEAST_S", 15.0)
    [timing] = time_points(
        tiny_store(tmp_path / "store", 1), tiny_points(1, (3,)), EXECUTION, Actors(1, hang_after_s=15), progress=False
    )
    assert mark.exists()
    assert timing.seconds_per_1000 > 0


@dataclass(frozen=True)
class Endless:
    """Labels that never come for those of one chunk."""

    kind: Literal["endless"] = "endless"
    revision: ClassVar[int] = 1

    def of(self, seeds: torch.Tensor, num_classes: int) -> torch.Tensor:
        while 16 in seeds.tolist():
            time.sleep(1)
        return seeds % num_classes


@pytest.mark.slow
def test_a_chunk_that_never_ends_is_named_after_finite_tries(tmp_path: Path, ray_session: Resources) -> None:
    store = tiny_store(tmp_path, 1)
    bad = replace(tiny_points(1, (3,))[0], name="bad", labels=Endless())  # type: ignore[arg-type]
    with pytest.raises(
        RunFailedError, match=r"bad: chunk 1 \(seeds 16 to 31\) lost each of the 3 workers .*no progress"
    ):
        run(store, Actors(num_actors=1, hang_after_s=4), points=[bad, *tiny_points(1)], seeds=Seeds(0, 32))
    assert len(contents(store)) == 5  # all others


@pytest.mark.slow
def test_a_network_that_is_timed_and_never_answers_is_given_up_in_a_sentence(
    tmp_path: Path, ray_session: Resources
) -> None:
    point = replace(tiny_points(1, (3,))[0], labels=Endless())  # type: ignore[arg-type]
    store, actors = tiny_store(tmp_path, 1), Actors(num_actors=1, hang_after_s=4, max_chunk_deaths=1)
    with pytest.raises(RunFailedError, match=r"the worker for seconds: was lost 1 times \(it made no progress for 4 s"):
        time_points(store, [point], EXECUTION, actors, images=17, progress=False)


DRIVER = """
import sys
from tests.engine.test_generation import Actors, Seeds, Store, run, tiny_points
points = tiny_points(2, [int(steps) for steps in sys.argv[3:]])
run(Store(sys.argv[1]), Actors(num_actors=2), points=points, seeds=Seeds(0, int(sys.argv[2])))
"""


def test_a_driver_that_is_killed_leaves_whole_chunks_and_the_rest_is_done_by_the_next(
    tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    store = tiny_store(tmp_path)
    repository = Path(__file__).parents[2]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path), str(SEEDS.count), "3", "5"], cwd=repository, env=environment
    ) as driver:
        wait_until(lambda: len(store.committed("samples")) >= 6 or driver.poll() is not None, 240)
        assert driver.poll() is None
        driver.send_signal(signal.SIGKILL)
    time.sleep(1)  # its actors end on their own
    there = contents(store)
    assert 0 < len(there) < 16
    results = run(store)
    assert contents(store) == undisturbed
    assert sum(result.generated for result in results) <= 16 * (16 - len(there))


def flip(store: Store, key: str, name: str) -> None:
    blob = store.manifest(key).blobs[name].key
    data = bytearray(store.read(blob))
    data[len(data) // 2] ^= 1
    store.write(blob, bytes(data))


def test_a_chunk_damaged_at_rest_is_computed_again_and_only_it(
    tmp_path: Path, undisturbed: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    store = tiny_store(tmp_path)
    first = run(store)
    flip(store, chunk_key(first[1].samples_digest, 2), "images.parquet")
    results = run(store)
    assert [result.generated for result in results] == [0, 16, 0, 0]
    assert contents(store) == undisturbed
    assert len(store.committed("damaged")) == 1
    told = [line for line in capfd.readouterr().err.splitlines() if "set aside" in line]
    assert len(told) == 1
    assert "chunk-000002" in told[0]


class ReadStore(Store):
    """Remembers which files of it were read."""

    def __init__(self, uri: str | Path) -> None:
        super().__init__(uri)
        self.were_read: list[str] = []

    def read(self, key: str) -> bytes:
        self.were_read.append(key)
        return super().read(key)


def test_chunks_that_were_verified_are_not_read_again_and_damaged_ones_are_still_found(tmp_path: Path) -> None:
    adaptive = Sampler(timesteps=AdaptiveSteps(rtol=0.1, atol=0.1), solver=BogackiShampine())
    points = [*tiny_points(1, (3,)), replace(tiny_points(1)[0], name="adaptive", sampler=adaptive)]
    tiny_store(tmp_path, 1)
    found = [run(store := ReadStore(tmp_path), points=points, extractors=[classifier_plan()]) for _ in range(3)]
    assert not [key for key in store.were_read if "chunk-" in key]
    assert [result.nfe for result in found[2]] == [result.nfe for result in found[0]]
    assert [result.reused for result in found[2]] == [64, 64]
    flip(store, chunk_key(found[0][1].samples_digest, 2), "images.parquet")
    assert [result.generated for result in run(store, points=points)] == [0, 16]


def test_a_chunk_without_its_file_or_with_a_broken_manifest_is_computed_again(
    tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    store = tiny_store(tmp_path)
    first = run(store)
    key = chunk_key(first[0].samples_digest, 0)
    store.delete(store.manifest(key).blobs["images.parquet"].key)
    store.write(chunk_key(first[2].samples_digest, 1) + ".json", b'{"format": 1')
    results = run(store)
    assert [result.generated for result in results] == [16, 0, 16, 0]
    assert contents(store) == undisturbed


def test_damaged_features_are_taken_again_from_the_images(tmp_path: Path) -> None:
    store = tiny_store(tmp_path, 1)
    plan = classifier_plan()
    [first] = run(store, points=tiny_points(1, (3,)), extractors=[plan])
    whole = read_features(store, first.samples_digest, plan.digest, 0, 64, 16)
    flip(store, f"features/{first.samples_digest}/{plan.digest}/chunk-000003", "features.safetensors")
    [second] = run(store, points=tiny_points(1, (3,)), extractors=[plan])
    assert second.generated == 0
    again = read_features(store, first.samples_digest, plan.digest, 0, 64, 16)
    assert np.array_equal(again.features, whole.features)


def test_a_task_done_twice_writes_the_same_once(tmp_path: Path) -> None:
    """As when a worker is lost after it has committed a chunk and before it could tell."""
    store = tiny_store(tmp_path, 1)
    [result] = run(store, points=tiny_points(1, (3,)))
    before = store.keys("samples")
    point = result.point
    key = store.manifest(f"samples/{result.samples_digest}/setting").meta["key"]
    setting = Setting(point.name, result.snapshot, point.sampler, point.labels, key)
    settings = WorkerSettings(store, EXECUTION, "cpu", family("cpu", "fp32"))
    with fixed_arithmetic(1):
        done = ChunkWorker(settings, ()).work(Task(setting, 1, generate=True))
    assert store.keys("samples") == before
    assert set(done.nfe) == {5}


class MeetingStore(Store):
    """Writes the images of a chunk only when those of another are there to be written too."""

    meeting = threading.Barrier(2, timeout=100)

    def write(self, key: str, data: bytes | memoryview) -> None:
        if key.endswith("images.parquet"):
            self.meeting.wait()
        super().write(key, data)


def test_the_device_is_at_the_next_chunk_while_one_is_written(tmp_path: Path, undisturbed: dict[str, str]) -> None:
    tiny_store(tmp_path, 1)
    store = MeetingStore(tmp_path)
    settings = WorkerSettings(store, EXECUTION, "cpu", family("cpu", "fp32"))
    [setting] = find_settings(store, tiny_points(1, (3,)), EXECUTION, place(EXECUTION, HERE))
    actor = Actor(settings, [classifier_plan()])
    with ThreadPoolExecutor(2) as calls:  # as Ray's threads are
        tasks = [Task(setting, index, generate=True, extract=(0,)) for index in range(4)]
        done = list(calls.map(lambda task: actor.work(task, {}), tasks))
    assert [set(one.nfe) for one in done] == [{5}] * 4
    assert contents(store).items() <= undisturbed.items()
    assert committed_features(store, setting.digest, classifier_plan().digest) == {0, 1, 2, 3}


def test_images_are_kept_where_their_features_cannot_be_taken(tmp_path: Path) -> None:
    store = tiny_store(tmp_path, 1)
    wrong = ExtractorPlan(classifier_plan().settings, to_bytes(ClassifierNetwork((3, 8, 8), 10, 4, 6)))
    run(store, points=tiny_points(1, (3,)))
    with pytest.raises(DataError, match="was trained on images of shape"):
        run(store, points=tiny_points(1, (3,)), extractors=[wrong])
    assert len(contents(store)) == 4


# -- what cannot be done is said ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Poisoned:
    """Labels that raise for one chunk."""

    kind: Literal["poisoned"] = "poisoned"
    seed: int = 16
    revision: ClassVar[int] = 1

    def of(self, seeds: torch.Tensor, num_classes: int) -> torch.Tensor:
        if self.seed in seeds.tolist():
            raise RuntimeError("poison")
        return seeds % num_classes


def test_a_chunk_that_raises_each_time_is_named_after_finite_tries_and_the_others_are_kept(
    tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    store = tiny_store(tmp_path)
    bad = replace(tiny_points()[0], name="bad", labels=Poisoned())  # type: ignore[arg-type]
    told: list[str] = []
    with pytest.raises(RunFailedError, match=r"bad: chunk 1 \(seeds 16 to 31\).*RuntimeError: poison"):
        run(store, points=[bad, *tiny_points()], on_point=lambda result: told.append(result.point.name))
    assert undisturbed.items() <= contents(store).items()
    assert told == [point.name for point in tiny_points()]


def test_a_poisoned_chunk_is_named_by_actors_too(tmp_path: Path, ray_session: Resources) -> None:
    store = tiny_store(tmp_path, 1)
    bad = replace(tiny_points(1, (3,))[0], name="bad", labels=Poisoned())  # type: ignore[arg-type]
    with pytest.raises(RunFailedError, match=r"bad: chunk 1 \(seeds 16 to 31\).*poison"):
        run(store, Actors(num_actors=1, max_task_retries=1), points=[bad])


@dataclass(frozen=True)
class Deadly:
    """Labels that kill the process that asks for those of one chunk."""

    kind: Literal["deadly"] = "deadly"
    revision: ClassVar[int] = 1

    def of(self, seeds: torch.Tensor, num_classes: int) -> torch.Tensor:
        if 16 in seeds.tolist():
            os.kill(os.getpid(), signal.SIGKILL)
        return seeds % num_classes


def test_a_chunk_that_takes_its_worker_with_it_each_time_is_named_after_finite_tries(
    tmp_path: Path, ray_session: Resources
) -> None:
    store = tiny_store(tmp_path, 1)
    bad = replace(tiny_points(1, (3,))[0], name="bad", labels=Deadly())  # type: ignore[arg-type]
    with pytest.raises(RunFailedError, match=r"bad: chunk 1 \(seeds 16 to 31\) lost each of the [23] workers that had"):
        run(store, Actors(num_actors=1, max_chunk_deaths=2), points=[bad, *tiny_points(1)], seeds=Seeds(0, 32))
    assert len(contents(store)) == 5  # all others


def test_an_actor_on_a_device_of_another_family_takes_no_part(
    tmp_path: Path, ray_session: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tiny_store(tmp_path, 1)
    other = {**family("cpu", "fp32"), "instructions": "ANCIENT"}
    monkeypatch.setattr("pipeline.engine.placement.family", lambda device, precision: other)
    with pytest.raises(SettingsError, match=r"cannot do the work of a device of cpu .* ANCIENT"):
        run(store, Actors(num_actors=1), points=tiny_points(1))
    assert contents(store) == {}


def test_an_image_that_is_not_finite_is_named_and_never_kept(tmp_path: Path) -> None:
    store = tiny_store(tmp_path, 1)
    put_snapshot(store, "spoilt", 7, spoilt=True)
    point = Point("spoilt net", CheckpointRef("spoilt"), Sampler(timesteps=EDMSteps(num_steps=2)), Balanced())
    with pytest.raises(RunFailedError, match=r"spoilt net: the image of seed 0 is not finite"):
        run(store, points=[point])
    assert contents(store) == {}


def test_adaptive_steps_that_do_not_arrive_are_told_with_their_setting(tmp_path: Path) -> None:
    steps = AdaptiveSteps(max_steps=2)
    point = replace(POINT, sampler=Sampler(timesteps=steps, solver=BogackiShampine()))
    with pytest.raises(RunFailedError, match=r"^net0 3 steps: .* 8 of 8 samples .* raise .*max_steps"):
        run(tiny_store(tmp_path, 1), points=[point])


def test_two_settings_that_fail_are_counted(tmp_path: Path) -> None:
    store = tiny_store(tmp_path, 1)
    put_snapshot(store, "spoilt", 7, spoilt=True)
    points = [replace(point, checkpoint=CheckpointRef("spoilt")) for point in tiny_points(1, (2, 3))]
    with pytest.raises(RunFailedError, match=r"2 of 3 settings: failed, all others are kept"):
        run(store, points=[*points, *tiny_points(1, (2,))])
    assert len(contents(store)) == 4


POINT = tiny_points(1, (3,))[0]
MISTAKES: dict[str, tuple[Point, type[Exception], str]] = {
    "no such training": (
        replace(POINT, checkpoint=CheckpointRef("nothing")), CheckpointError, "net0 3 steps: nothing: no such training",
    ),
    "no such moment": (
        replace(POINT, checkpoint=CheckpointRef("net0", at=5)), CheckpointError, "has no snapshot at 5 images",
    ),
    "no such weights": (
        replace(POINT, checkpoint=CheckpointRef("net0", ema="ema-9")), CheckpointError, "has no weights 'ema-9'",
    ),
    "label out of range": (
        replace(POINT, labels=Fixed(label=10)), SettingsError, "net0 3 steps: labels: .* 10 classes",
    ),
    "no level to restart from": (
        replace(POINT, sampler=Sampler(timesteps=EDMSteps(num_steps=1), stochasticity=Restart())), SettingsError,
        "net0 3 steps: sampler.stochasticity: segments",
    ),
    "repeated steps": (
        replace(POINT, sampler=Sampler(timesteps=EDMSteps(num_steps=3, rho=1e18))), SettingsError, "sampler.timesteps",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_before_anything_is_computed(tmp_path: Path, mistake: str) -> None:
    point, error, words = MISTAKES[mistake]
    store = tiny_store(tmp_path, 1)
    before = store.keys("")
    with pytest.raises(error, match=words):
        run(store, points=[*tiny_points(1), point])
    assert store.keys("") == before


def test_a_damaged_checkpoint_is_told_before_anything_is_computed(tmp_path: Path) -> None:
    store = tiny_store(tmp_path)
    flip(store, find_snapshot(store, CheckpointRef("net1")).manifest.key, "raw.safetensors")
    with pytest.raises(CheckpointError, match="net1-00000001@1000/raw: the weights are damaged"):
        run(store)
    assert contents(store) == {}


def test_a_store_that_cannot_be_written_is_told_before_anything_is_computed(tmp_path: Path) -> None:
    store = tiny_store(tmp_path / "store", 1)
    (tmp_path / "store").chmod(0o555)
    try:
        if os.access(tmp_path / "store", os.W_OK):
            pytest.skip("this user may write anywhere")
        with pytest.raises(StoreError, match="cannot be read or written"):
            run(store, points=tiny_points(1))
    finally:
        (tmp_path / "store").chmod(0o755)


def test_a_disk_that_fills_up_ends_the_run_with_one_error_and_the_next_run_goes_on(
    tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    """A limit on the size of files stands in for the full disk: small ones can be written, a chunk cannot."""
    store = tiny_store(tmp_path, 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        with pytest.raises(StoreError, match=r"chunk-000000.*cannot be read or written \(File too large\)"):
            run(store, points=tiny_points(1), image_format="png")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [key for key in store.keys("samples") if "chunk" in key] == []
    run(store, points=tiny_points(1))
    assert contents(store).items() <= undisturbed.items()
    assert len(contents(store)) == 8


def test_more_threads_than_the_cluster_has_are_refused(tmp_path: Path, ray_session: Resources) -> None:
    store = tiny_store(tmp_path, 1)
    with pytest.raises(SettingsError, match="asks for 64 CPUs an actor, and the cluster has 4"):
        run(store, Actors(), points=tiny_points(1), execution=replace(EXECUTION, threads=64))


def test_gpus_that_are_not_there_are_refused(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(SettingsError, match="asks for GPUs, and there are none"):
        run(tiny_store(tmp_path, 1), points=tiny_points(1), execution=replace(EXECUTION, device="cuda"))


# -- variants ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"precision": "bf16"}, {"channels_last": False}, {"threads": 2}])
def test_every_way_of_computing_is_repeatable_and_has_its_own_name(
    tmp_path: Path, change: dict[str, Any], undisturbed: dict[str, str]
) -> None:
    found = []
    for folder in ("one", "other"):
        store = tiny_store(tmp_path / folder, 1)
        run(store, points=tiny_points(1, (3,)), seeds=Seeds(0, 16), execution=replace(EXECUTION, **change))
        found.append(contents(store))
    assert found[0] == found[1]
    assert not found[0].keys() & undisturbed.keys()


def test_half_precision_and_a_fixed_list_of_steps_give_nearly_the_same_images(tmp_path: Path) -> None:
    store = tiny_store(tmp_path, 1)
    point = replace(
        tiny_points(1)[0], sampler=Sampler(timesteps=ExplicitSteps(sigmas=(80.0, 10.0, 1.0))), labels=Unlabelled()
    )
    full, half = (
        run(store, points=[point], execution=replace(EXECUTION, precision=precision))[0]
        for precision in ("fp32", "bf16")
    )
    one, other = (read_samples(store, result.samples_digest, 0, 64) for result in (full, half))
    assert set(one.labels) == {-1}
    difference = np.abs(one.images.astype(int) - other.images.astype(int))
    assert 0 < difference.mean() < 4


def test_a_worker_holds_networks_within_its_budget(tmp_path: Path) -> None:
    store = tiny_store(tmp_path, 3)
    snapshots = [find_snapshot(store, CheckpointRef(f"net{i}")) for i in range(3)]
    size = sum(len(read_weights(store, snapshot)) for snapshot in snapshots[:2]) * 1.1
    settings = WorkerSettings(store, EXECUTION, "cpu", {}, denoiser_memory_gb=size / 1e9)
    held = Denoisers(settings)
    for index in (0, 1, 0, 1, 2, 1, 2, 0):
        held.get([snapshots[index]], lambda snapshot: read_weights(store, snapshot))
    assert held.loads == 4  # 0, 1, 2 (which drops 0), and 0 again
    with pytest.raises(CheckpointError, match="damaged on their way"):
        held.get([snapshots[1]], lambda snapshot: read_weights(store, snapshots[0]))


def test_the_same_weights_in_another_model_are_another_denoiser(tmp_path: Path) -> None:
    store = tiny_store(tmp_path, 1)
    snapshot = find_snapshot(store, CheckpointRef("net0"))
    other = replace(snapshot, model=snapshot.model.model_copy(update={"sigma_data": 0.9}))
    held = Denoisers(WorkerSettings(store, EXECUTION, "cpu", {}))
    found = held.get([snapshot, other], lambda one: read_weights(store, one))
    assert [denoiser.sigma_data for denoiser in found] == [0.5, 0.9]


# -- timing ------------------------------------------------------------------------------------------------------------


def test_timings_are_measured_once_a_device_and_rise_with_the_work(tmp_path: Path, ray_session: Resources) -> None:
    store = tiny_store(tmp_path, 1)
    points = tiny_points(1, (2, 40))
    few, many = time_points(store, points, EXECUTION, Actors(num_actors=1), progress=False)
    assert len(few.repeats) == 3
    assert few.batch_size == 8
    assert few.seconds_per_1000 == pytest.approx(1000 * sorted(few.repeats)[1] / 8)
    assert many.seconds_per_1000 > 3 * few.seconds_per_1000
    before = store.keys("timings")
    assert time_points(store, points, EXECUTION, HERE, progress=False) == [few, many]
    assert store.keys("timings") == before
    anew = time_points(store, points[:1], EXECUTION, HERE, images=16, repeats=4, anew=True, progress=False)
    assert (anew[0].batch_size, len(anew[0].repeats)) == (16, 4)
