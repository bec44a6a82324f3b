from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.data.store import Store
from pipeline.errors import RunFailedError, SettingsError
from pipeline.networks import DDPMpp
from pipeline.reporting import MemoryReporter, MemoryRun
from pipeline.training import checkpoint
from pipeline.training.job import TrainingJob
from pipeline.training.loop import train, train_in_process
from pipeline.training.place import Place
from pipeline.training.settings import EMA, TrainingSettings
from pipeline.training.snapshot import CheckpointRef, build_denoiser, find_snapshot, read_weights
from tests.training.toys import BATCH, make_dataset, make_job, make_model, make_settings, quiet, state_digests, store_at


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return store_at(tmp_path)


def _train(store: Store, settings: TrainingSettings, network: Any = None) -> TrainingJob:
    job = make_job(store, settings, network)
    train(job, Place(), quiet())
    return job


def _run(job: TrainingJob) -> MemoryRun:
    assert isinstance(job.reporter, MemoryReporter)
    (run,) = job.reporter.runs.values()
    return run


def _digests(folder: Path, steps: int, network: Any = None, **fields: Any) -> dict[str, str]:
    job = make_job(store_at(folder), make_settings(steps, **fields), network)
    return state_digests(job.store, job.folder)


def test_a_prolonged_training_is_the_longer_training(tmp_path: Path) -> None:
    _train(store_at(tmp_path / "whole"), make_settings(5))
    for steps in (2, 5):
        _train(store_at(tmp_path / "parts"), make_settings(steps))
    assert _digests(tmp_path / "parts", 5) == _digests(tmp_path / "whole", 5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training_with_operators_of_our_own_goes_on_with_the_same_bits(tmp_path: Path, precision: str) -> None:
    network = DDPMpp(model_channels=32, channel_mult=(1, 2), num_blocks=1, attn_resolutions=(8,))
    fields = {"norm": "native", "convolution": "winograd", "precision": precision}
    _train(store_at(tmp_path / "whole"), make_settings(4, **fields), network)
    for steps in (2, 4):
        _train(store_at(tmp_path / "parts"), make_settings(steps, **fields), network)
    assert _digests(tmp_path / "parts", 4, network, **fields) == _digests(tmp_path / "whole", 4, network, **fields)


@pytest.mark.parametrize("damage", ["truncated", "bit", "no manifest", "manifest"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_taken(tmp_path: Path, damage: str) -> None:
    _train(store_at(tmp_path / "whole"), make_settings(5))
    job = _train(store_at(tmp_path / "hurt"), make_settings(3))
    key = job.store.committed(checkpoint.states_prefix(job.folder))[-1]
    root = tmp_path / "hurt" / "store"
    manifest, blob = root / f"{key}.json", root / job.store.manifest(key).blobs["exp_avg.safetensors"].key
    data = bytearray(blob.read_bytes())
    if damage == "truncated":
        blob.write_bytes(data[:-10])
    elif damage == "bit":
        data[len(data) // 2] ^= 1
        blob.write_bytes(data)
    elif damage == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text(manifest.read_text().replace('"num_updates": 3', '"num_updates": 4'))
    told: list[str] = []
    state = checkpoint.newest(job.store, job.folder, told.append)
    assert state is not None
    assert state.position == 2 * BATCH
    assert len(told) == 1
    assert ("has no manifest" if damage == "no manifest" else "damaged") in told[0]
    assert "\n" not in told[0]
    assert bool(job.store.keys("damaged")) == (damage != "no manifest")
    _train(store_at(tmp_path / "hurt"), make_settings(5))
    assert _digests(tmp_path / "hurt", 5) == _digests(tmp_path / "whole", 5)


def test_the_last_two_checkpoints_are_kept_and_nothing_else_of_them(store: Store) -> None:
    job = _train(store, make_settings(5))
    prefix = checkpoint.states_prefix(job.folder)
    assert store.committed(prefix) == [f"{prefix}/{4 * BATCH:012d}", f"{prefix}/{5 * BATCH:012d}"]
    assert len(store.keys(prefix)) == 2 * (1 + len(store.manifest(store.committed(prefix)[0]).blobs))


def test_a_checkpoint_with_nan_is_never_written(store: Store) -> None:
    job = make_job(store, make_settings(2))
    state = checkpoint.Checkpoint(16, {"raw": {"w": torch.tensor([1.0, float("nan")])}}, {}, 1)
    with pytest.raises(RunFailedError, match="at 16 images raw holds NaN or infinity"):
        checkpoint.save(store, job.folder, state, {})
    assert store.keys("checkpoints") == []


def test_snapshots_come_on_time_and_can_be_sampled_from(store: Store) -> None:
    network = DDPMpp(model_channels=8, channel_mult=(1, 2), num_blocks=1, attn_resolutions=())
    settings = make_settings(5, snapshot_kimg=2 * BATCH / 1000, checkpoint_kimg=None)
    job = _train(store, settings, network)
    result = job.result()
    assert job.snapshots() == [2 * BATCH, 4 * BATCH, 5 * BATCH]
    assert result.snapshots[-1] == f"checkpoints/{job.folder}/snapshots/{5 * BATCH:012d}"
    assert (result.training, result.num_images) == (job.folder, 5 * BATCH)
    snapshot = find_snapshot(store, CheckpointRef("toy"))
    assert (snapshot.model, snapshot.weights) == (job.model, "ema-0.05")
    assert snapshot.dataset["digest"] == job.dataset.info.digest
    assert TrainingSettings.model_validate(snapshot.manifest.meta["settings"]) == settings
    state = checkpoint.newest(store, job.folder, print)
    assert state is not None
    for name in ("raw", "ema-0.05", "ema-0.5"):
        found = find_snapshot(store, CheckpointRef("toy", 5 * BATCH, name))
        denoiser = build_denoiser(found.model, read_weights(store, found), torch.float32, "cpu")
        for parameter, value in denoiser.network.state_dict().items():
            assert torch.equal(value, state.tensors[name][parameter])


def test_the_run_is_told_losses_by_noise_level_pictures_and_settings(store: Store) -> None:
    job = _train(store, make_settings(4, log_kimg=2 * BATCH / 1000, checkpoint_kimg=1))
    run = _run(job)
    assert run.status == "FINISHED"
    assert run.key == job.key
    assert run.all_tags.items() >= {"kind": "training", "dataset": "toy"}.items()
    assert run.all_params["settings"]["batch_size"] == BATCH
    steps = {key: [step for step, name, _ in run.history if name == key] for _, key, _ in run.history}
    assert steps["train/loss"] == [2 * BATCH, 4 * BATCH]
    assert [key for key in steps if key.startswith("train/loss_sigma_")] == [
        "train/loss_sigma_0.0943", "train/loss_sigma_0.301", "train/loss_sigma_0.962",
    ]  # fmt: skip
    values = {key: value for _, key, value in run.history}
    assert values["train/nan_losses"] == 0
    assert values["train/learning_rate"] == pytest.approx(1e-3)
    assert values["train/images_per_second"] > 0
    picture = run.images["samples", 4 * BATCH]
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3


def test_a_training_that_is_done_is_left_alone_and_says_so(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    job = make_job(store, make_settings(2))
    arguments = (store, job.dataset, job.model, job.settings, job.reporter, "toy")
    first = train_in_process(*arguments)
    before = {key: store.read(key) for key in store.keys("")}
    capsys.readouterr()
    assert train_in_process(*arguments) == first
    assert "is trained already, 32 images; raise duration_kimg to go on" in capsys.readouterr().out
    assert {key: store.read(key) for key in store.keys("")} == before


def test_progress_is_one_line_with_what_is_left(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    job = make_job(store, make_settings(4, log_kimg=2 * BATCH / 1000, checkpoint_kimg=1))
    train_in_process(store, job.dataset, job.model, job.settings, job.reporter, "toy")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"{job.folder}: 32 of 64 images, loss ")
    assert lines[1].endswith("images/s, 0 s left")


def test_a_failed_training_leaves_its_checkpoint_and_a_failed_run(store: Store) -> None:
    _train(store, make_settings(2))
    job = make_job(store, make_settings(4, optimizer={"lr": 1e30, "ramp_up_kimg": 0}))
    with pytest.raises(RunFailedError):
        train(job, Place(), quiet())
    assert _run(job).status == "FAILED"


def test_training_leaves_torchs_own_generator_and_threads_alone(store: Store) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    job = make_job(store, make_settings(1))
    train_in_process(store, job.dataset, job.model, job.settings, job.reporter, "toy", threads=2)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def test_the_duration_is_rounded_up_to_whole_steps(store: Store) -> None:
    assert make_job(store, make_settings(duration_kimg=0.017)).num_images == 2 * BATCH
    assert make_job(store, make_settings(duration_kimg=0.032)).num_images == 2 * BATCH
    with pytest.raises(SettingsError, match="duration_kimg: must be at most 4,294,967"):
        make_job(store, make_settings(duration_kimg=5e6))


def test_labels_that_are_not_there_cannot_be_dropped(tmp_path: Path) -> None:
    dataset = make_dataset(store_at(tmp_path), num_classes=0)
    settings = make_settings(label_dropout=0.1)
    with pytest.raises(SettingsError, match=r"training.label_dropout: must be 0, .* toy have no labels .* \(got 0.1\)"):
        TrainingJob("toy", store_at(tmp_path), dataset, make_model(dataset), settings, MemoryReporter())


def test_other_settings_are_another_training_beside_it(store: Store) -> None:
    first = _train(store, make_settings(2))
    second = _train(store, make_settings(2, ema=EMA(halflife_kimg=(7.0,))))
    assert first.folder != second.folder
    assert (
        state_digests(store, first.folder)["raw.safetensors"] == state_digests(store, second.folder)["raw.safetensors"]
    )
