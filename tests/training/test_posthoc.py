"""Weights rebuilt from stored snapshots, by the way that every job takes: a reference to a checkpoint."""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from pipeline.data.dry_store import DryStore
from pipeline.data.store import Store
from pipeline.errors import CheckpointError
from pipeline.networks import MLP
from pipeline.training import loop
from pipeline.training.ema import Averages
from pipeline.training.place import Place
from pipeline.training.settings import EMA, ModelSpec
from pipeline.training.snapshot import CheckpointRef, build_denoiser, commit_snapshot, find_snapshot, read_weights
from tests.training.toys import BATCH, make_job, make_model, make_settings, quiet, store_at

STEPS = 1024
FOLDER = "unit-00000000"
MODEL = ModelSpec.model_validate(
    {"network": MLP(), "preconditioning": {"kind": "edm"}, "sigma_data": 0.5, "resolution": 2, "channels": 1,
     "num_classes": 0}
)  # fmt: skip


class _Moments(nn.Module):
    """A network whose weights are the k-th unit vector after step k: its average is the profile, value by value."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(STEPS))
        self.register_buffer("table", torch.rand(5, generator=torch.Generator().manual_seed(0)))


def _train_moments(store: Store, num_snapshots: int) -> Tensor:
    """Stores so many snapshots with the stds 0.05 and 0.1; returns the profile of std 0.075, tracked all along."""
    network = _Moments()
    averages = Averages(EMA(halflife_kimg=(), power_stds=(0.05, 0.1, 0.075)), network)
    for step in range(STEPS):
        network.weight.data.zero_()[step] = 1.0
        averages.update(100, 100 * step)
        if (step + 1) % (STEPS // num_snapshots) == 0:
            states = {name: state for name, state in averages.state_dicts().items() if name != "power-0.075"}
            commit_snapshot(store, FOLDER, 100 * (step + 1), MODEL, states, {"dataset": {"name": "x", "digest": "y"}})
    return averages.state_dicts()["power-0.075"]["weight"].double()


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than the training."""
    monkeypatch.setattr(loop, "sample_picture", lambda *arguments: np.zeros((8, 8, 3), np.uint8))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], tuple[Store, Tensor]]:
    """Makes each training once."""

    @cache
    def make(num_snapshots: int) -> tuple[Store, Tensor]:
        store = store_at(tmp_path_factory.mktemp("trained"))
        return store, _train_moments(store, num_snapshots)

    return make


Trained = Callable[[int], tuple[Store, Tensor]]


def _state(store: Store, ema: str, at: int | str = "latest", training: str = "unit") -> dict[str, Tensor]:
    return dict(safetensors.torch.load(read_weights(store, find_snapshot(store, CheckpointRef(training, at, ema)))))


@pytest.mark.parametrize(("num_snapshots", "published"), [(8, 1.2e-2), (16, 3.5e-3), (32, 9e-4)])
def test_what_is_rebuilt_is_off_by_what_theory_predicts(trained: Trained, num_snapshots: int, published: float) -> None:
    store, tracked = trained(num_snapshots)
    rebuilt = _state(store, "posthoc-0.075")
    error = (rebuilt["weight"].double() - tracked).norm() / tracked.norm()
    assert error.item() == pytest.approx(published, rel=0.2)
    for std in ("0.05", "0.1"):
        torch.testing.assert_close(
            _state(store, f"posthoc-{std}")["weight"], _state(store, f"power-{std}")["weight"], rtol=1e-6, atol=1e-9
        )
    assert rebuilt["weight"].dtype == torch.float32
    assert torch.equal(rebuilt["table"], _Moments().table)  # a buffer stays as it is


def test_the_moment_may_be_any_snapshots_and_nothing_later_takes_part(trained: Trained) -> None:
    (store, _), at = trained(32), 100 * STEPS // 2
    found = find_snapshot(store, CheckpointRef("unit", at, "posthoc-0.075"))
    assert (found.num_images, found.weights) == (at, "posthoc-0.075")
    assert found.manifest.meta["profile_error"] == pytest.approx(3.5e-3, rel=0.05)
    assert len(found.manifest.meta["made_of"]["sources"]) == 2 * 16
    early = _state(store, "posthoc-0.075", at)["weight"]
    assert early[STEPS // 2 :].abs().max() == 0
    assert early.sum().item() == pytest.approx(1, abs=1e-5)


def test_rebuilt_weights_are_made_once_and_kept_in_the_store(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    store, _ = trained(8)
    first = find_snapshot(store, CheckpointRef("unit", "latest", "posthoc-0.075"))
    assert re.fullmatch(r"checkpoints/unit-00000000/posthoc/000000102400-0\.075-[0-9a-f]{8}", first.manifest.key)
    assert first.title == "unit-00000000@102400/posthoc-0.075"
    assert first.dataset == {"name": "x", "digest": "y"}
    before = store.keys("")
    monkeypatch.setattr(Store, "commit", None)
    again = find_snapshot(store, CheckpointRef("unit", 102400, "posthoc-0.0750"))
    assert again.manifest == first.manifest
    assert again.weights_sha256 == first.weights_sha256
    assert store.keys("") == before


def test_a_training_that_went_on_keeps_what_was_rebuilt_of_its_past(tmp_path: Path, trained: Trained) -> None:
    short, (long, _) = store_at(tmp_path), trained(8)
    for manifest in [long.manifest(key) for key in long.committed("checkpoints/unit-00000000/snapshots")][:4]:
        short.commit(manifest.key, {name: long.blob(manifest, name) for name in manifest.blobs}, manifest.meta)
    ref = CheckpointRef("unit", 51200, "posthoc-0.075")
    assert find_snapshot(short, ref).weights_sha256 == find_snapshot(long, ref).weights_sha256
    assert find_snapshot(short, ref).manifest.key == find_snapshot(long, ref).manifest.key


def test_damaged_rebuilt_weights_are_rebuilt_where_they_are_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, ref = store_at(tmp_path), CheckpointRef("unit", "latest", "posthoc-0.075")
    _train_moments(store, 8)
    made = find_snapshot(store, ref)
    whole = read_weights(store, made)
    [blob] = made.manifest.blobs.values()
    for damaged in (whole[:-9], whole[:-1] + bytes([whole[-1] ^ 1])):
        store.write(blob.key, damaged)
        caplog.clear()
        assert read_weights(store, made) == whole  # by who found it before it was damaged
        assert [record.getMessage() for record in caplog.records] == [
            f"{store.title}/{blob.key}: is damaged: its content is not what its manifest says; the weights are rebuilt"
        ]
        assert read_weights(store, made) == whole  # which is there now
        assert len(caplog.records) == 1
        made = find_snapshot(store, ref)
        [blob] = made.manifest.blobs.values()
    assert len(store.committed("damaged")) == 2


def test_a_dry_run_rebuilds_weights_and_writes_nothing(tmp_path: Path) -> None:
    store, ref = store_at(tmp_path), CheckpointRef("unit", "latest", "posthoc-0.075")
    _train_moments(store, 8)
    before = store.keys("")
    dry = find_snapshot(DryStore(store.uri), ref)
    assert store.keys("") == before
    assert dry.weights_sha256 == find_snapshot(store, ref).weights_sha256
    assert store.keys("") != before


def test_a_damaged_snapshot_is_named_and_a_damaged_manifest_of_rebuilt_weights_made_again(tmp_path: Path) -> None:
    store, ref = store_at(tmp_path), CheckpointRef("unit", "latest", "posthoc-0.075")
    _train_moments(store, 8)
    made = find_snapshot(store, ref)
    store.write(f"{made.manifest.key}.json", b"{}")
    assert find_snapshot(store, ref).weights_sha256 == made.weights_sha256
    source = store.manifest("checkpoints/unit-00000000/snapshots/000000051200")
    store.write(source.blobs["power-0.1.safetensors"].key, b"nothing")
    with pytest.raises(CheckpointError, match=r"unit-00000000@102400: a snapshot is damaged \(.*000000051200-"):
        find_snapshot(store, CheckpointRef("unit", "latest", "posthoc-0.07"))


@pytest.mark.parametrize(
    ("num_snapshots", "ema", "at", "problem"),
    [
        (8, "posthoc-0.3", "latest", r"must be above 0 and at most 0\.289 \(got 0\.3\)"),
        (8, "posthoc-wide", "latest", r"must be posthoc-<std>, such as posthoc-0\.075 \(got 'posthoc-wide'\)"),
        (8, "posthoc-0.01", "latest", r"cannot be rebuilt from 8 snapshots: its profile would be off by \d+%;"),
        (1, "posthoc-0.2", "latest", r"cannot be rebuilt from one snapshot: .* to those tracked \(0\.05, 0\.1\), or"),
        (8, "posthoc-0.075", 102401, r"has no snapshot at 102401 images \(it has 12800, "),
    ],
)  # fmt: skip
def test_what_cannot_be_rebuilt_is_refused_in_a_sentence(
    trained: Trained, num_snapshots: int, ema: str, at: int | str, problem: str
) -> None:
    store, _ = trained(num_snapshots)
    with pytest.raises(CheckpointError, match=problem):
        find_snapshot(store, CheckpointRef("unit", at, ema))


def test_a_real_training_is_rebuilt_sampled_from_and_resumed_to_the_bit(tmp_path: Path) -> None:
    ema = EMA(halflife_kimg=(0.05,), ramp_up=0.5, power_stds=(0.1, 0.2), power_precision="fp16")
    stores = [store_at(tmp_path / name) for name in ("whole", "broken")]
    for store, parts in zip(stores, ([6], [2, 6]), strict=True):
        for steps in parts:
            settings = make_settings(steps, snapshot_kimg=2 * BATCH / 1000, checkpoint_kimg=None, ema=ema)
            loop.train(make_job(store, settings), Place(), quiet())
    found = [find_snapshot(store, CheckpointRef("toy", "latest", "posthoc-0.15")) for store in stores]
    assert found[0].weights_sha256 == found[1].weights_sha256
    build_denoiser(found[0].model, read_weights(stores[0], found[0]), torch.float32, "cpu")
    for name, dtype in (("ema-0.05", torch.float32), ("power-0.1", torch.float16)):
        assert all(value.dtype == dtype for value in _state(stores[0], name, training="toy").values())


def test_a_training_without_power_averages_says_what_would_be_needed(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    job = make_job(store, make_settings(1))
    loop.train(job, Place(), quiet())
    assert job.model == make_model(job.dataset)
    with pytest.raises(
        CheckpointError, match=r"no power-function averages to rebuild posthoc-0\.05 .* ema\.power_stds"
    ):
        find_snapshot(store, CheckpointRef("toy", "latest", "posthoc-0.05"))
