import math
from dataclasses import replace
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
from pipeline.networks import EDM2, MLP, DDPMpp
from pipeline.networks.edm2_layers import MPConv, magnitude
from pipeline.training.batches import Batches
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.place import Place
from pipeline.training.settings import Optimizer, TrainingSettings
from pipeline.training.trainer import Trainer
from pipeline.training.uncertainty import Uncertainty, balanced
from tests.training.toys import BATCH, make_dataset, make_model, make_settings, store_at

UNET = DDPMpp(model_channels=8, channel_mult=(1, 2), num_blocks=1, attn_resolutions=(), dropout=0.2)

FAST = Optimizer(lr=3e-3, ramp_up_kimg=0)
MAGNITUDE = EDM2(model_channels=8, channel_mult=(1, 2), num_blocks=1, attn_resolutions=(), channels_per_head=8)


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


@pytest.mark.slow
@pytest.mark.parametrize("how", [True, "reduce-overhead"])
def test_a_compiled_training_learns_the_same_and_goes_on_with_the_same_bits(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: Any
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "to be restored")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    torch._dynamo.reset()
    still = DDPMpp(**{**UNET.__dict__, "dropout": 0.0})
    eager, compiled = _trainer(dataset, still), _trainer(dataset, still, compile=how)
    for trainer in (eager, compiled):
        trainer._backward()
    for one, other in zip(eager._network.parameters(), compiled._network.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-3, atol=1e-3)
    assert (tmp_path / "sigmasweep" / "inductor").is_dir()
    through, resumed = _trainer(dataset, UNET, compile=how), _trainer(dataset, UNET, compile=how)
    through.step()
    resumed.restore(through.checkpoint())
    torch.rand(100)
    for trainer in (through, resumed):
        trainer.step()
    for name, value in _weights(through).items():
        assert torch.equal(_weights(resumed)[name], value)


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


def test_a_learning_rate_falls_as_one_over_the_root_of_the_images_seen_after_its_ramp(dataset: Dataset) -> None:
    adam = Optimizer(lr=0.01, ramp_up_kimg=0.08, decay_kimg=0.16)  # of 5 and 10 steps of 16 images
    trainer = _trainer(dataset, optimizer=adam)
    rates = []
    for step in range(40):
        trainer.position = step * BATCH
        rates.append(trainer.lr)
    expected = [0.01 * min((k + 1) / 5, 1) / math.sqrt(max((k + 1) / 10, 1)) for k in range(40)]
    assert rates == pytest.approx(expected)
    assert rates[39] == pytest.approx(0.005)


def test_weights_of_magnitude_preserving_layers_are_normalized_before_each_step_and_stay_so(dataset: Dataset) -> None:
    trainer = _trainer(dataset, MAGNITUDE, optimizer=Optimizer(lr=1e-9, ramp_up_kimg=0))
    layers = [module for module in trainer._network.modules() if isinstance(module, MPConv)]
    assert any(float((magnitude(layer.weight, 1) - 1).abs().max()) > 0.1 for layer in layers)  # as they are drawn
    trainer.step()
    for layer in layers:
        sizes = magnitude(layer.weight, tuple(range(1, layer.weight.dim())))
        torch.testing.assert_close(sizes, torch.ones_like(sizes), rtol=2e-4, atol=0)


@pytest.mark.parametrize("network", [MAGNITUDE, MLP(hidden=32, num_layers=1)])
def test_uncertainty_and_forced_weights_are_resumed_to_the_bit(dataset: Dataset, network: Any) -> None:
    fields = {"uncertainty": True, "optimizer": Optimizer(lr=0.01, ramp_up_kimg=0)}
    through, broken = _trainer(dataset, network, **fields), _trainer(dataset, network, **fields)
    for _ in range(2):
        through.step()
        broken.step()
    torch.manual_seed(12345)
    resumed = _trainer(dataset, network, **fields)
    resumed.restore(broken.checkpoint())
    for trainer in (through, resumed):
        trainer.step()
    one, other = through.checkpoint().tensors, resumed.checkpoint().tensors
    assert set(one) == {"ema-0.05", "ema-0.5", "raw", "exp_avg", "exp_avg_sq", "uncertainty"}
    assert "uncertainty" not in through.weights()
    assert one["uncertainty"]["logvar_linear.weight"].abs().max() > 0
    assert one["exp_avg"]["uncertainty.logvar_linear.weight"].abs().max() > 0
    for name, tensors in one.items():
        assert all(torch.equal(other[name][key], value) for key, value in tensors.items()), name


def test_a_balanced_loss_is_least_where_the_uncertainty_is_the_mean_loss_of_a_pixel() -> None:
    losses, num_values = torch.tensor([3.0, 64.0, 500.0], dtype=torch.float64), 64
    u = (losses / num_values).log().requires_grad_()
    total = balanced(losses, u, num_values)
    torch.autograd.backward(total.sum())
    assert u.grad is not None
    assert u.grad.abs().max() < 1e-12
    torch.testing.assert_close(total.detach() - num_values * u.detach(), torch.full_like(losses, num_values))
    for shift in (-0.1, 0.1):
        assert (balanced(losses, u + shift, num_values) > total).all()


def test_uncertainty_starts_at_nothing_and_finds_the_loss_of_each_noise_level() -> None:
    """Losses that are a known function of sigma, with noise of unit mean on them."""
    torch.manual_seed(0)
    head = Uncertainty()
    adam = torch.optim.Adam(head.parameters(), lr=0.02, betas=(0.9, 0.99))
    sigma = torch.exp(torch.linspace(-5, 3, 64, dtype=torch.float64))
    expected = (0.02 + 0.9 / (1 + sigma.float() ** 2)) * 48
    assert head(sigma).abs().max() == 0
    for step in range(600):
        for group in adam.param_groups:
            group["lr"] = 0.02 / math.sqrt(1 + step / 30)
        noise = -torch.log1p(-torch.rand(64))
        adam.zero_grad()
        torch.autograd.backward(balanced(expected * noise, head(sigma), 48).mean() / 48)
        adam.step()
    error = head(sigma).exp() * 48 / expected - 1
    assert error[4:-4].abs().max() < 0.25


def test_the_loss_that_is_told_is_the_plain_one_and_the_gradient_the_balanced_one(dataset: Dataset) -> None:
    plain, other = _trainer(dataset), _trainer(dataset, uncertainty=True)
    assert other._uncertainty is not None
    torch.nn.init.constant_(other._uncertainty.logvar_linear.weight, 0.3)
    for trainer in (plain, other):
        trainer._backward()
    batch = plain._batches.make(0, BATCH)
    u = other._uncertainty(batch.sigma).detach()
    assert other.summary().mean == pytest.approx(plain.summary().mean, rel=1e-6)
    losses = plain._losses(batch).detach()
    plain._adam.zero_grad()
    torch.autograd.backward((plain._losses(batch) / u.exp()).mean())
    for one, two in zip(plain._network.parameters(), other._network.parameters(), strict=True):
        torch.testing.assert_close(two.grad, one.grad, rtol=1e-4, atol=1e-5)
    features = other._uncertainty.logvar_fourier((batch.sigma.log() / 4).float())
    slope = ((64 - losses / u.exp())[:, None] * features).mean(0) / math.sqrt(128)
    found = other._uncertainty.logvar_linear.weight.grad
    assert found is not None
    torch.testing.assert_close(found[0], slope, rtol=1e-4, atol=1e-4)


def test_kernels_of_our_own_are_refused_where_they_cannot_be(dataset: Dataset) -> None:
    with pytest.raises(
        SettingsError, match=r"convolution: winograd is for fp32 and bf16 on a CPU \(got precision fp16"
    ):
        _trainer(dataset, UNET, convolution="winograd", precision="fp16")
    with pytest.raises(SettingsError, match=r"norm: native is for fp32 and bf16 on a CPU \(got .*\); set it to torch"):
        _trainer(dataset, UNET, norm="native", precision="fp16")


@pytest.mark.parametrize(
    "fields",
    [
        {"precision": "bf16"}, {"precision": "fp16"}, {"channels_last": False}, {"convolution": "winograd"},
        {"convolution": "winograd", "precision": "bf16"}, {"norm": "native"}, {"norm": "native", "precision": "bf16"},
    ],
)  # fmt: skip
def test_other_precisions_and_layouts_learn_much_the_same(dataset: Dataset, fields: dict[str, Any]) -> None:
    network = replace(UNET, model_channels=32)  # as many as Winograd's convolution takes
    plain, other = _trainer(dataset, network), _trainer(dataset, network, **fields)
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
