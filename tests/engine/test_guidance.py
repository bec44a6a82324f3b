"""Guided points: two networks in every worker, in the key and in what is told; and what cannot be guided is said."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.data.samples import read_samples
from pipeline.data.store import Store
from pipeline.diffusion.guidance import Autoguidance, ClassifierFree, Unguided
from pipeline.diffusion.labels import Balanced, Unlabelled
from pipeline.diffusion.preconditioning import EDMPreconditioning, VEPreconditioning
from pipeline.diffusion.sampling import Sampler, sample
from pipeline.diffusion.solvers import Euler
from pipeline.diffusion.timesteps import EDMSteps, ExplicitSteps
from pipeline.engine.denoisers import Denoisers
from pipeline.engine.devices import fixed_arithmetic
from pipeline.engine.generation import PointResult, find_settings, generate
from pipeline.engine.placement import place
from pipeline.engine.point_summary import checkpoint_tags, point_params, solver_title
from pipeline.engine.session import Resources
from pipeline.engine.timing import seconds_per_evaluation, time_points
from pipeline.engine.work import Actors, Point, Seeds, Task, WorkerSettings
from pipeline.errors import CheckpointError, SettingsError
from pipeline.training.settings import ModelSpec
from pipeline.training.snapshot import CheckpointRef, build_denoiser, find_snapshot, read_weights
from tests.engine.tiny import EXECUTION, MODEL, contents, put_snapshot, tiny_store

HERE = Actors(num_actors=0)
SEEDS = Seeds(0, 32)  # two chunks a point
MAIN, GUIDE, BLIND = CheckpointRef("net0"), CheckpointRef("net1"), CheckpointRef("blind")
STEPS = EDMSteps(num_steps=4)  # 80, 10.3, 0.57, 0.002
BY_GUIDE = Sampler(STEPS, Euler(), guidance=Autoguidance(weight=2.0, sigma_lo=0.1, sigma_hi=20.0))  # at two levels
BY_LABEL = Sampler(STEPS, Euler(), guidance=ClassifierFree(weight=3.0))


def changed(**changes: Any) -> ModelSpec:
    return MODEL.model_copy(update=changes)


def guided_store(root: Path) -> Store:
    """Two networks, and one without classes."""
    store = tiny_store(root)
    put_snapshot(store, "blind", 9, model=changed(num_classes=0))
    return store


POINTS = [
    Point("plain", MAIN, Sampler(STEPS, Euler()), Balanced()),
    Point("cfg", MAIN, BY_LABEL, Balanced()),
    Point("guided", MAIN, BY_GUIDE, Balanced(), GUIDE),
    Point("other way round", GUIDE, BY_GUIDE, Balanced(), MAIN),
    Point("blind guide", MAIN, BY_GUIDE, Balanced(), BLIND),
]
NFE = [4.0, 8.0, 6.0, 6.0, 6.0]


def run(store: Store, points: list[Point], actors: Actors = HERE, **changes: Any) -> list[PointResult]:
    return generate(store, points, SEEDS, EXECUTION, actors, progress=False, **changes)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, list[PointResult]]:
    store = guided_store(tmp_path_factory.mktemp("guided"))
    return store, run(store, POINTS)


def test_a_guided_chunk_is_what_a_plain_loop_makes_with_both_networks(done: tuple[Store, list[PointResult]]) -> None:
    """Written out: Euler, and the formula where the level lies in the interval; up to one level of 255."""
    store, results = done
    networks = {}
    for ref in (MAIN, GUIDE, BLIND):
        snapshot = find_snapshot(store, ref)
        networks[ref] = build_denoiser(snapshot.model, read_weights(store, snapshot), torch.float32, "cpu")
    seeds = torch.arange(8)
    labels, nobody = seeds % 10, torch.full((8,), -1)
    pictures = []
    for point, result in zip(POINTS, results, strict=True):

        def denoise(x: torch.Tensor, sigma: torch.Tensor, _: Any, point: Point = point) -> torch.Tensor:
            own = networks[point.checkpoint](x, sigma, labels)
            if point.name == "cfg":
                return 3 * own - 2 * networks[MAIN](x, sigma, nobody)
            if point.guide is None or not 0.1 < sigma[0] <= 20:
                return own
            return 2 * own - networks[point.guide](x, sigma, labels)

        with torch.inference_mode(), fixed_arithmetic(1):
            plain = sample(denoise, networks[MAIN].levels, Sampler(STEPS, Euler()), seeds, MODEL.shape).images
        expected = np.clip(np.trunc(plain.numpy() * 127.5 + 128), 0, 255)
        found = read_samples(store, result.samples_digest, 0, 8)
        assert np.abs(found.images.astype(int) - expected).max() <= 1
        assert np.array_equal(found.labels, labels.numpy())
        pictures.append(expected)
    assert len({picture.tobytes() for picture in pictures}) == 5


def test_evaluations_of_both_networks_are_counted(done: tuple[Store, list[PointResult]]) -> None:
    store, results = done
    assert [result.nfe for result in results] == NFE
    settings = find_settings(store, POINTS, EXECUTION, place(EXECUTION, HERE))
    assert [setting.count_nfe() for setting in settings] == NFE


def test_two_actors_make_the_same_bytes(
    tmp_path: Path, ray_session: Resources, done: tuple[Store, list[PointResult]]
) -> None:
    store = guided_store(tmp_path)
    results = run(store, POINTS[::-1], Actors(num_actors=2))
    assert contents(store) == contents(done[0])
    assert [result.nfe for result in results] == NFE[::-1]
    assert [result.generated for result in run(store, POINTS)] == [0] * 5


def test_the_guide_is_in_the_key_where_one_is_asked_and_nowhere_else(done: tuple[Store, list[PointResult]]) -> None:
    store, _ = done
    settings = find_settings(store, POINTS, EXECUTION, place(EXECUTION, HERE))
    assert [set(setting.key["networks"]) for setting in settings] == [{"main"}] * 2 + [{"main", "guide"}] * 3
    guided = settings[2]
    assert guided.key["networks"]["guide"] == {
        "weights": find_snapshot(store, GUIDE).weights_sha256,
        "model": settings[3].key["networks"]["main"]["model"],
    }
    assert len({setting.digest for setting in settings}) == 5
    told = store.manifest(f"samples/{guided.digest}/setting").meta
    assert (told["checkpoint"], told["guide"]) == ("net0-00000000@1000/raw", "net1-00000001@1000/raw")


def test_tasks_are_handed_out_by_the_networks_that_they_need(done: tuple[Store, list[PointResult]]) -> None:
    settings = find_settings(done[0], POINTS, EXECUTION, place(EXECUTION, HERE))
    checkpoints = [Task(setting, 0, generate=True).checkpoint for setting in settings]
    assert checkpoints[0] == checkpoints[1]
    assert len(set(checkpoints)) == 4


def test_runs_in_the_tracker_name_the_guide(done: tuple[Store, list[PointResult]]) -> None:
    plain, _, guided, *_ = done[1]
    assert checkpoint_tags(plain) == {"checkpoint": "net0-00000000@1000/raw"}
    assert checkpoint_tags(guided) == {**checkpoint_tags(plain), "guide": "net1-00000001@1000/raw"}
    assert "guide" not in point_params(plain, SEEDS, EXECUTION)
    params = point_params(guided, SEEDS, EXECUTION)
    assert params["guide"] == {"training": "net1-00000001", "at": 1000, "weights": "raw"}
    assert params["sampler"]["guidance"] == {"kind": "autoguidance", "weight": 2.0, "sigma_lo": 0.1, "sigma_hi": 20.0}
    assert solver_title(BY_LABEL) == "euler + cfg 3"


def test_a_network_and_its_guide_are_held_together_whatever_the_budget(tmp_path: Path) -> None:
    store = tiny_store(tmp_path, 3)
    one, two, three = (find_snapshot(store, CheckpointRef(f"net{index}")) for index in range(3))
    held = Denoisers(WorkerSettings(store, EXECUTION, "cpu", {}, denoiser_memory_gb=0.0))
    for _ in range(3):
        networks = held.get((one, two), lambda snapshot: read_weights(store, snapshot))
    assert held.loads == 2
    assert len({id(network) for network in networks}) == 2
    held.get((two, three), lambda snapshot: read_weights(store, snapshot))
    assert held.loads == 3
    assert held.get((two,), lambda snapshot: read_weights(store, snapshot)) == [networks[1]]
    held.get((one,), lambda snapshot: read_weights(store, snapshot))
    assert held.loads == 4


def test_a_guided_setting_is_timed_with_both_networks(tmp_path: Path) -> None:
    store = guided_store(tmp_path)
    time_points(store, [POINTS[2]], EXECUTION, HERE, images=8, repeats=1, progress=False)
    plain, cfg, guided, other, blind = find_settings(store, POINTS, EXECUTION, place(EXECUTION, HERE))
    [meta] = [store.manifest(key).meta for key in store.committed("timings")]
    assert meta["nfe"] == 6
    expected = meta["timing"]["seconds_per_1000"] / 1000 / 6
    assert seconds_per_evaluation(store, guided) == seconds_per_evaluation(store, other) == pytest.approx(expected)
    assert [seconds_per_evaluation(store, setting) for setting in (plain, cfg, blind)] == [None] * 3


# -- what cannot be guided is said -------------------------------------------------------------------------------------


GUIDED = POINTS[2]
NARROW = VEPreconditioning(sigma_min=90.0, sigma_max=99.0)
MISTAKES: dict[str, tuple[Point, str]] = {
    "no guide": (replace(GUIDED, guide=None), "guided: guide: is missing: autoguidance needs one"),
    "a guide nobody asks": (replace(POINTS[1], guide=GUIDE), "cfg: guide: is given, and cfg guidance asks none"),
    "another shape": (
        replace(GUIDED, guide=CheckpointRef("large")),
        r"guided: guide: the images of large-.*/raw are 1x16x16, those of net0-.*/raw are 1x8x8",
    ),
    "other classes": (replace(GUIDED, guide=CheckpointRef("three")), r"three-.* knows 3 classes and net0-.* 10"),
    "a guide with classes of a network without": (
        replace(GUIDED, checkpoint=BLIND),
        r"net1-.* knows 10 classes and blind-.* 0: a guide needs the same classes, or none",
    ),
    "no levels in common": (
        replace(GUIDED, checkpoint=CheckpointRef("narrow"), guide=CheckpointRef("apart")),
        r"guided: guide: the network takes noise levels in \[90, 99\], its guide in \[0.02, 50\]",
    ),
    "a grid beyond the guide's range": (
        replace(GUIDED, guide=CheckpointRef("apart"), sampler=replace(BY_GUIDE, timesteps=ExplicitSteps())),
        r"guided: sampler.timesteps: sigmas: 80 ... 2 lie outside what the network supports, \[0.02, 50\]",
    ),
    "labels that are not there": (
        replace(POINTS[1], labels=Unlabelled()),
        r"cfg: sampler.guidance: cfg guides by a label, and these samples have none \(net0-.*, labels none\)",
    ),
    "a network without classes": (replace(POINTS[1], checkpoint=BLIND), r"cfg guides by a label.*labels balanced"),
    "a network that always had a label": (
        replace(POINTS[1], checkpoint=CheckpointRef("certain")),
        r"cfg: sampler.guidance: .*certain-.* always had one: train with training.label_dropout",
    ),
}


@pytest.fixture(scope="module")
def mistaken(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = guided_store(tmp_path_factory.mktemp("mistaken"))
    put_snapshot(store, "large", 2, model=changed(resolution=16))
    put_snapshot(store, "three", 3, model=changed(num_classes=3))
    put_snapshot(store, "narrow", 4, model=changed(preconditioning=NARROW))
    put_snapshot(store, "apart", 5, model=changed(preconditioning=VEPreconditioning(sigma_max=50.0)))
    put_snapshot(store, "certain", 6, batch_size=512, label_dropout=0.0)
    put_snapshot(store, "trained", 7, batch_size=512, label_dropout=0.1)
    put_snapshot(store, "found", 8, kind="imported", origin="elsewhere")
    return store


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_before_anything_is_computed(mistaken: Store, mistake: str) -> None:
    point, words = MISTAKES[mistake]
    with pytest.raises(SettingsError, match=words):
        run(mistaken, [POINTS[0], point])
    assert contents(mistaken) == {}


@pytest.mark.parametrize("name", ["trained", "found"])
def test_label_dropout_in_training_or_an_origin_elsewhere_allows_classifier_free_guidance(
    mistaken: Store, name: str
) -> None:
    points = [replace(POINTS[1], checkpoint=CheckpointRef(name))]
    [setting] = find_settings(mistaken, points, EXECUTION, place(EXECUTION, HERE))
    assert setting.count_nfe() == 8


def test_a_guide_is_asked_within_its_own_range_only(mistaken: Store) -> None:
    points = [replace(GUIDED, guide=CheckpointRef("apart"))]
    [setting] = find_settings(mistaken, points, EXECUTION, place(EXECUTION, HERE))
    assert (setting.levels.sigma_min, setting.levels.sigma_max) == (0.02, 50.0)
    assert EDMPreconditioning().levels().sigma_max > 1e9


def test_a_guide_that_is_not_there_or_damaged_is_named(tmp_path: Path) -> None:
    store = guided_store(tmp_path)
    with pytest.raises(CheckpointError, match="guided: nobody: no such training"):
        run(store, [replace(GUIDED, guide=CheckpointRef("nobody"))])
    blob = find_snapshot(store, GUIDE).manifest.blobs["raw.safetensors"].key
    data = bytearray(store.read(blob))
    data[-1] ^= 1
    store.write(blob, bytes(data))
    with pytest.raises(CheckpointError, match=r"net1-.*: the weights are damaged"):
        run(store, [POINTS[0], GUIDED])
    assert contents(store) == {}


def test_a_weight_of_one_has_the_same_images_at_the_same_cost(done: tuple[Store, list[PointResult]]) -> None:
    store, results = done
    sampler = replace(BY_GUIDE, guidance=Autoguidance(weight=1.0))
    [same] = run(store, [replace(GUIDED, name="weight 1", sampler=sampler)])
    plain = read_samples(store, results[0].samples_digest, 0, 32)
    assert results[0].point.sampler.guidance == Unguided()
    assert np.array_equal(read_samples(store, same.samples_digest, 0, 32).images, plain.images)
    assert same.nfe == 4
