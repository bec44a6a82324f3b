"""The loss by noise level, against closed forms and a plain loop."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs import cli, suggest
from pipeline.config.suggest import SuggestJob
from pipeline.data.dataset import Dataset
from pipeline.data.samples import Execution
from pipeline.data.store import Store
from pipeline.diffusion.seeds import normal
from pipeline.engine import loss_curve
from pipeline.engine.loss_curve import loss_by_noise
from pipeline.errors import SettingsError
from pipeline.tracking.mlflow_reporter import MlflowReporter
from pipeline.training.settings import ModelSpec
from pipeline.training.snapshot import (
    CheckpointRef,
    Snapshot,
    build_denoiser,
    commit_snapshot,
    find_snapshot,
    read_weights,
)
from tests.engine.digits import put_dataset, put_snapshot

EXECUTION = Execution(batch_size=20, chunk_size=40, device="cpu")
SIGMAS = [0.05, 0.5, 5.0]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    put_dataset(store, "a", 0, 200)
    put_snapshot(store)
    return store


def snapshot(store: Store, training: str = "tiny") -> Snapshot:
    return find_snapshot(store, CheckpointRef(training))


def silent(store: Store) -> ModelSpec:
    """A network whose output is 0."""
    model = snapshot(store).model
    weights = {name: torch.zeros_like(value) for name, value in model.network.build(16, 1, 10).state_dict().items()}
    meta = {"settings": {}, "dataset": dict(snapshot(store).dataset)}
    commit_snapshot(store, "silent-01234567", 1000, model, {"raw": weights}, meta)
    return model


def test_a_network_that_says_nothing_has_the_loss_of_its_target(store: Store) -> None:
    """F's target is (y - c_skip (y + n)) / c_out: with n independent of y its mean square is in closed form, and 1 on
    data of second moment sigma_data^2 (Karras et al. 2022, B.6)."""
    model = silent(store)
    dataset = Dataset.open(store, "a")
    found = loss_by_noise(store, snapshot(store, "silent"), dataset, SIGMAS, 200, EXECUTION, progress=False)
    y = dataset.images(np.arange(200)).astype(np.float64) / 127.5 - 1
    for point, sigma in zip(found, SIGMAS, strict=True):
        c = model.preconditioning.coefficients(torch.tensor([sigma], dtype=torch.float64), model.sigma_data)
        skip, out = float(c.c_skip), float(c.c_out)
        expected = ((1 - skip) ** 2 * np.mean(y**2) + skip**2 * sigma**2) / out**2
        assert point.loss == pytest.approx(expected, abs=5 * point.standard_error + 1e-3)


def test_it_is_that_of_a_plain_loop_and_its_error_that_of_a_mean(store: Store) -> None:
    dataset, mine = Dataset.open(store, "a"), snapshot(store)
    found = loss_by_noise(store, mine, dataset, SIGMAS, 50, EXECUTION, progress=False)
    denoiser = build_denoiser(mine.model, read_weights(store, mine), torch.float32, "cpu")
    for point, sigma in zip(found, SIGMAS, strict=True):
        losses = []
        for index in range(0, 200, 4):
            y = torch.from_numpy(dataset.images(np.array([index]))).float() / 127.5 - 1
            n = normal(torch.tensor([index]), 0, y.shape[1:]).float()
            label = torch.from_numpy(dataset.labels(np.array([index])))
            with torch.inference_mode():
                error = denoiser(y + sigma * n, torch.tensor([sigma], dtype=torch.float64), label) - y
            losses.append(float(error.square().mean()) * (sigma**2 + 0.25) / (sigma * 0.5) ** 2)
        assert point.loss == pytest.approx(np.mean(losses), rel=1e-4)
        assert point.standard_error == pytest.approx(np.std(losses, ddof=1) / 50**0.5, rel=1e-3)


def test_it_is_measured_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = Dataset.open(store, "a")
    first = loss_by_noise(store, snapshot(store), dataset, SIGMAS, 40, EXECUTION, progress=False)
    monkeypatch.setattr(loss_curve, "load_denoiser", lambda *_: pytest.fail("measured again"))
    assert loss_by_noise(store, snapshot(store), dataset, SIGMAS, 40, EXECUTION, progress=False) == first


def test_images_that_do_not_fit_are_refused(store: Store) -> None:
    mine = snapshot(store)
    wide = replace(mine, model=mine.model.model_copy(update={"resolution": 32}))
    with pytest.raises(SettingsError, match=r"a: its images are 1x16x16, those of .* are 1x32x32"):
        loss_by_noise(store, wide, Dataset.open(store, "a"), SIGMAS, 40, EXECUTION)


def run(root: Path, *settings: str) -> int:
    (root / "job.yaml").write_text(f"store: {root}/store\nexperiment: tests\nout: {root}/out\n")
    sets = [part for setting in settings for part in ("--set", setting)]
    return cli.run(SuggestJob, suggest.main, None, suggest.dry_run, argv=[str(root / "job.yaml"), *sets])


def test_the_job_suggests_measures_and_tells_the_tracker(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient

    assert run(tmp_path, "dataset=a") == 0
    told = capsys.readouterr().out
    assert "model.sigma_data: " in told
    assert "sampler.timesteps.sigma_max: " in told
    assert run(tmp_path, "checkpoint.training=tiny", "images=20", "levels=3", "execution.batch_size=16") == 0
    assert capsys.readouterr().out.count("±") == 4
    assert len((tmp_path / "out" / "losses.csv").read_text().splitlines()) == 4
    assert (tmp_path / "out" / "loss_by_noise.png").stat().st_size > 1000
    tracker = f"sqlite:///{tmp_path}/mlflow.db"
    # A machine with much else to do may not have sent it within the job's own patience.
    assert MlflowReporter(tracker, "tests", str(tmp_path / "mlflow-spool"), flush_timeout=120).flush()
    client = MlflowClient(tracker)
    [found] = client.search_runs([client.get_experiment_by_name("tests").experiment_id])
    assert found.data.tags["kind"] == "losses"
    assert {"loss_sigma_0.01", "loss_sigma_0.894", "loss_sigma_80"} <= set(found.data.metrics)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("images=20", "dataset: must be given where no checkpoint is"),
        ("dataset=b", "no data set 'b' in the store"),
        ("checkpoint.training=nobody", "no such training"),
    ],
)
def test_mistakes_are_one_sentence(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str, sentence: str
) -> None:
    assert run(tmp_path, setting) == 2
    assert sentence in capsys.readouterr().err
