import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.data.dataset import Dataset
from pipeline.diffusion.noise import IDDPMLevels, InverseVariance, RectifiedFlowUniformTime, RectifiedFlowWeighting
from pipeline.diffusion.preconditioning import IDDPMPreconditioning, RectifiedFlowPreconditioning
from pipeline.diffusion.timesteps import iddpm_levels
from pipeline.errors import CheckpointError, RunFailedError, SettingsError
from pipeline.networks import MLP, DDPMpp
from pipeline.training.batches import Batches
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.place import Place
from pipeline.training.settings import Optimizer, TrainingSettings
from pipeline.training.trainer import Trainer
from tests.training.toys import BATCH, make_dataset, make_model, make_settings, store_at

UNET = DDPMpp(model_channels=8, channel_mult=(1, 2), num_blocks=1, attn_resolutions=(), dropout=0.2)

FAST = Optimizer(lr=3e-3, ramp_up_kimg=0)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_dataset(store_at(tmp_path_factory.mktemp("data")))


def _trainer(dataset: Dataset, network: Any = None, **fields: Any) -> Trainer:
    return Trainer(make_model(dataset, network), make_settings(**fields), dataset, Place())


def _weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.weights()["raw"].items()}


def _blow_up(trainer: Trainer) -> None:
    """Makes every loss NaN until the weight is given back."""
    with torch.no_grad():
        next(iter(trainer._network.parameters())).fill_(math.nan)


@pytest.mark.parametrize("microbatch", [1, 5, 16, 100])
def test_accumulated_microbatches_have_the_gradient_of_one_big_batch(dataset: Dataset, microbatch: int) -> None:
    whole, parts = _trainer(dataset), _trainer(dataset, microbatch=microbatch)
    whole._backward()
    parts._backward()
    for one, other in zip(whole._network.parameters(), parts._network.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-4)
    assert parts.summary().mean == pytest.approx(whole.summary().mean, rel=1e-5)


def test_a_step_is_adam_on_the_mean_loss(dataset: Dataset) -> None:
    """Against the formula of Kingma and Ba, written out, for two steps."""
    trainer = _trainer(dataset, optimizer=Optimizer(lr=0.01, betas=(0.8, 0.9), eps=1e-3, ramp_up_kimg=0.064))
    name, parameter = next(iter(trainer._network.named_parameters()))
    w, m, v = parameter.detach().double().clone(), torch.zeros(()), torch.zeros(())
    for step in (1, 2):
        trainer._backward()
        gradient = parameter.grad.double() if parameter.grad is not None else torch.zeros(())
        m, v = 0.8 * m + 0.2 * gradient, 0.9 * v + 0.1 * gradient**2
        rate = 0.01 * step * BATCH / 64
        assert trainer.lr == pytest.approx(rate)
        w = w - rate * (m / (1 - 0.8**step)) / ((v / (1 - 0.9**step)).sqrt() + 1e-3)
        trainer._update()
        trainer._adam.zero_grad()
        trainer.position += BATCH
    torch.testing.assert_close(trainer.weights()["raw"][name].double(), w, rtol=1e-5, atol=1e-6)


def test_dropout_needs_no_state_to_go_on(dataset: Dataset) -> None:
    through, broken = _trainer(dataset, UNET), _trainer(dataset, UNET)
    through.step()
    broken.step()
    torch.manual_seed(12345)  # whatever else draws in between
    torch.rand(100)
    resumed = _trainer(dataset, UNET)
    resumed.restore(broken.checkpoint())
    through.step()
    resumed.step()
    for name, value in _weights(through).items():
        assert torch.equal(_weights(resumed)[name], value)
    still = _trainer(dataset, DDPMpp(**{**UNET.__dict__, "dropout": 0.0}))
    still.step()
    assert any(not torch.equal(still.weights()["raw"][name], value) for name, value in _weights(broken).items())


def test_a_network_of_discrete_levels_is_trained_on_its_own_levels_and_told_their_index(dataset: Dataset) -> None:
    model = make_model(dataset, preconditioning=IDDPMPreconditioning(M=50), sigma_data=1.0)
    settings = make_settings(noise=IDDPMLevels(M=50), weighting=InverseVariance(), optimizer=FAST)
    trainer = Trainer(model, settings, dataset, Place())
    told: list[torch.Tensor] = []
    trainer._network.register_forward_pre_hook(lambda _, args: told.append(args[1]))
    losses = _learn(trainer, steps=100)
    indices = torch.cat(told)
    assert indices.unique().tolist() == list(range(50))
    sigma = Batches(dataset, settings, torch.device("cpu")).make(0, len(indices)).sigma
    table = iddpm_levels(50, 0.001, 0.008)
    assert torch.equal(table[49 - indices.long()], sigma)
    assert losses[-1] < 0.7 * losses[0]


def test_the_velocity_of_the_rectified_flow_is_learnt(tmp_path: Path) -> None:
    """Its loss is that of flow matching: at first, of a network that answers 0, the square of n - y."""
    images = np.linspace(30, 220, 64).reshape(1, 1, 8, 8).repeat(100, 0).astype(np.uint8)
    images[::2] = images[::2].swapaxes(2, 3)
    dataset = make_dataset(store_at(tmp_path), images=images)
    model = make_model(dataset, MLP(hidden=128), preconditioning=RectifiedFlowPreconditioning(), sigma_data=1.0)
    settings = make_settings(
        noise=RectifiedFlowUniformTime(), weighting=RectifiedFlowWeighting(), stratified=True, optimizer=FAST
    )
    trainer = Trainer(model, settings, dataset, Place())
    with torch.no_grad():
        for parameter in trainer._network.last.parameters():
            parameter.zero_()
    batch = Batches(dataset, settings, torch.device("cpu")).make(0, BATCH)
    losses = _learn(trainer, steps=100)
    assert losses[0] == pytest.approx((batch.n - batch.y).square().sum().item() / BATCH, rel=1e-5)
    assert sum(losses[-10:]) < 6.5 * losses[0]


def _learn(trainer: Trainer, steps: int) -> list[float]:
    losses = []
    for _ in range(steps):
        trainer.step()
        losses.append(trainer.summary().mean)
    return losses


@pytest.mark.parametrize("fields", [{"precision": "bf16"}, {"precision": "fp16"}, {"channels_last": False}])
def test_other_precisions_and_layouts_learn_much_the_same(dataset: Dataset, fields: dict[str, Any]) -> None:
    plain, other = _trainer(dataset, UNET), _trainer(dataset, UNET, **fields)
    for trainer in (plain, other):
        for _ in range(3):
            trainer.step()
    assert other.num_updates == 3
    assert other.summary().mean == pytest.approx(plain.summary().mean, rel=0.02)
    assert all(value.dtype == torch.float32 for value in other.weights()["ema-0.05"].values())
    assert any(not torch.equal(other.weights()["raw"][name], value) for name, value in _weights(plain).items())


def test_channels_last_is_kept_by_a_restored_training(dataset: Dataset) -> None:
    trainer = _trainer(dataset, UNET)
    trainer.step()
    resumed = _trainer(dataset, UNET)
    resumed.restore(trainer.checkpoint())
    for name, value in trainer._network.named_parameters():
        assert dict(resumed._network.named_parameters())[name].stride() == value.stride()


def test_a_loss_that_is_not_finite_stops_the_training_in_a_sentence(dataset: Dataset) -> None:
    trainer = _trainer(dataset)
    trainer.step()
    _blow_up(trainer)
    with pytest.raises(RunFailedError, match=r"step 1: .*not finite \(images 16 to 32, precision fp32.*optimizer.lr"):
        trainer.step()


def test_or_the_step_is_left_out_and_its_images_are_counted(dataset: Dataset) -> None:
    trainer = _trainer(dataset, on_nan="skip")
    trainer.step()
    good = trainer.checkpoint()
    before = {name: value.clone() for name, value in good.tensors["exp_avg"].items()}
    kept = _weights(trainer)
    _blow_up(trainer)
    trainer.step()
    trainer._network.load_state_dict(kept)
    summary = trainer.summary()
    assert summary.num_not_finite == trainer.num_not_finite == BATCH
    assert math.isfinite(summary.mean)
    assert trainer.position == 2 * BATCH
    assert trainer.num_updates == 1
    assert all(torch.equal(trainer.checkpoint().tensors["exp_avg"][name], value) for name, value in before.items())
    assert all(value.isfinite().all() for value in trainer.weights()["ema-0.05"].values())
    trainer.step()
    assert trainer.num_updates == 2


def test_fp16_gradients_that_overflow_lower_the_scale_and_leave_the_step_out(dataset: Dataset) -> None:
    trainer = _trainer(dataset, UNET, precision="fp16")
    trainer._scaler.load_state_dict({**trainer._scaler.state_dict(), "scale": 2.0**100})
    kept = _weights(trainer)
    trainer.step()
    assert trainer.num_updates == 0
    assert trainer._scaler.get_scale() == 2.0**99
    assert all(torch.equal(trainer.weights()["raw"][name], value) for name, value in kept.items())
    assert trainer.summary().num_not_finite == 0
    resumed = _trainer(dataset, UNET, precision="fp16")
    resumed.restore(trainer.checkpoint())
    assert resumed._scaler.get_scale() == 2.0**99


def test_a_checkpoint_of_another_model_is_refused(dataset: Dataset) -> None:
    state = _trainer(dataset).checkpoint()
    with pytest.raises(CheckpointError, match="does not fit the model"):
        _trainer(dataset, MLP(hidden=16)).restore(state)
    with pytest.raises(CheckpointError, match="does not fit the model"):
        _trainer(dataset).restore(Checkpoint(state.position, {"raw": state.tensors["raw"]}, state.counters, 1))


def test_more_workers_than_images_in_a_step_are_refused(dataset: Dataset) -> None:
    settings = TrainingSettings(batch_size=2)
    with pytest.raises(SettingsError, match=r"batch_size: must be at least the number of workers, 3 \(got 2\)"):
        Trainer(make_model(dataset), settings, dataset, Place(0, 3))


def test_gaussian_data_is_denoised_nearly_as_well_as_can_be(tmp_path: Path) -> None:
    """For y ~ N(mu, s^2) in each pixel the best D is the posterior mean, of variance s^2 sigma^2 / (s^2 + sigma^2)."""
    generator = np.random.default_rng(3)
    mu, s = 0.25, 0.3
    pixels = ((generator.normal(mu, s, (20_000, 1, 2, 2)) + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
    data = make_dataset(store_at(tmp_path), images=pixels, num_classes=0)
    model = make_model(data, MLP(hidden=32, num_layers=1), sigma_data=s)
    settings = make_settings(batch_size=512, optimizer=Optimizer(lr=3e-3, ramp_up_kimg=0), loss_bins=4)
    trainer = Trainer(model, settings, data, Place())
    for _ in range(400):
        trainer.step()
    trainer.summary()
    for _ in range(60):
        trainer.step()
    found = trainer.summary()
    # lambda = (sigma^2 + s^2) / (sigma s)^2 makes the least loss 1 a pixel at every sigma, for sigma_data = s.
    for loss in (found.mean, *found.by_noise):
        assert 0.97 * 4 < loss < 1.06 * 4
