"""Non-leaky augmentation against what simple images must become, and the numbers that the network is told."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline.errors import SettingsError
from pipeline.networks import ADM, MLP, DDPMpp
from pipeline.training.augmentation import Augmentation, draw_augmentation
from pipeline.training.batches import Batches
from pipeline.training.place import Place
from pipeline.training.trainer import Trainer
from tests.training.toys import make_dataset, make_job, make_model, make_settings, store_at

CPU = torch.device("cpu")
SIZE = 16
NUM = 40_000


def of(**fields: float) -> Augmentation:
    """One image's."""
    zero = torch.zeros(1, dtype=torch.float64)
    return Augmentation(**{name: zero + fields.get(name, 0.0) for name in Augmentation._fields})


def noise_image() -> Tensor:
    return torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def ramp() -> Tensor:
    """x in one channel and y in the other, in pixels off the middle."""
    line = torch.arange(SIZE) - (SIZE - 1) / 2
    return torch.stack([line.expand(SIZE, SIZE), line[:, None].expand(SIZE, SIZE)])[None]


def middle(image: Tensor) -> Tensor:
    return image[..., 4:-4, 4:-4]


def test_flips_and_nothing_are_exact() -> None:
    y = noise_image()
    assert torch.equal(of().apply(y), y)
    assert torch.equal(of(mirrored=1).apply(y), y.flip(3))
    assert torch.equal(of(overturned=1).apply(y), y.flip(2))
    assert torch.equal(of(mirrored=1, overturned=1).apply(y), y.flip(2, 3))


def test_half_a_turn_is_both_flips_and_a_quarter_brings_x_to_y() -> None:
    y = noise_image()
    torch.testing.assert_close(of(angle=math.pi).apply(y), y.flip(2, 3), rtol=0, atol=1e-6)
    torch.testing.assert_close(of(angle=math.pi / 2).apply(y), y.transpose(2, 3).flip(3), rtol=0, atol=1e-6)


def test_a_move_by_whole_pixels_is_exact_and_mirrors_the_border() -> None:
    y = noise_image()
    moved = of(shift_x=1.5, shift_y=-0.5).apply(y)  # eighths of 16 pixels: 3 to the right, 1 up
    torch.testing.assert_close(moved[..., :-1, 3:], y[..., 1:, :-3], rtol=0, atol=1e-6)
    torch.testing.assert_close(moved[..., :-1, :3], y[..., 1:, :3].flip(3), rtol=0, atol=1e-6)


@pytest.mark.parametrize("angle", [0.0, 0.7, -2.5])
def test_scale_rotation_stretch_and_move_are_the_affine_map_of_coordinates(angle: float) -> None:
    """An image whose colours are coordinates shows where each pixel was taken from."""
    found = of(angle=angle, scale=0.5, stretch=-0.8, direction=0.4, shift_x=0.1, shift_y=-0.2).apply(ramp())[0]

    def turn(by: float) -> Tensor:
        return torch.tensor([[math.cos(by), -math.sin(by)], [math.sin(by), math.cos(by)]])

    stretch = turn(0.4) @ torch.diag(torch.tensor([2 ** (0.2 * -0.8), 2 ** (0.2 * 0.8)])) @ turn(-0.4)
    forward = stretch @ turn(angle) * 2 ** (0.2 * 0.5)
    shift = torch.tensor([0.1, -0.2]) * SIZE / 8
    source = torch.einsum("ij,jhw->ihw", torch.linalg.inv(forward), ramp()[0] - shift[:, None, None])
    # In pixels; torch's bicubic kernel (a = -0.75) does not keep a ramp quite straight.
    torch.testing.assert_close(middle(found), middle(source), rtol=0, atol=0.06)


def test_the_network_is_told_nine_numbers_that_are_zero_where_nothing_was_done() -> None:
    everything = {
        "mirrored": 1.0, "overturned": 1.0, "scale": 0.3, "angle": 0.7, "stretch": 2.0, "direction": -1.0,
        "shift_x": 0.5, "shift_y": -0.6,
    }  # fmt: skip
    expected = [1, 1, 0.3, math.cos(0.7) - 1, math.sin(0.7), 2 * math.cos(-1), 2 * math.sin(-1), 0.5, -0.6]
    assert of(**everything).condition[0].tolist() == pytest.approx(expected, rel=1e-6)
    assert of().condition[0].tolist() == [0.0] * 9


def test_every_change_has_its_probability_and_its_published_distribution() -> None:
    p = 0.3
    drawn = draw_augmentation(7, torch.arange(NUM), p)
    tolerance = 4 * 0.5 / NUM**0.5
    assert abs(drawn.mirrored.mean().item() - 0.5) < tolerance
    assert abs(drawn.overturned.mean().item() - p / 2) < tolerance
    gated = (drawn.scale, drawn.angle, drawn.stretch, drawn.shift_x)
    for values in gated:
        assert abs((values != 0).double().mean().item() - p) < tolerance
    for values in (drawn.scale, drawn.stretch, drawn.shift_x, drawn.shift_y):
        assert values[values != 0].std().item() == pytest.approx(1, abs=0.03)
    angles = drawn.angle[drawn.angle != 0]
    assert angles.var().item() == pytest.approx(math.pi**2 / 3, rel=0.03)
    assert angles.abs().max() < math.pi
    assert torch.equal(drawn.shift_x != 0, drawn.shift_y != 0)
    chosen = torch.stack([(values != 0).double() for values in gated])
    assert (torch.corrcoef(chosen) - torch.eye(4)).abs().max() < 0.03


def test_an_image_is_augmented_the_same_in_any_batch_and_none_is_where_the_probability_is_0(tmp_path: Path) -> None:
    dataset = make_dataset(store_at(tmp_path))
    batches = Batches(dataset, make_settings(augment=0.4), CPU)
    whole = batches.make(0, 32)
    parts = [batches.make(start, start + 8) for start in range(0, 32, 8)]
    assert torch.equal(torch.cat([part.y for part in parts]), whole.y)
    assert whole.augment is not None
    assert torch.equal(torch.cat([part.augment for part in parts if part.augment is not None]), whole.augment)
    plain = Batches(dataset, make_settings(), CPU).make(0, 32)
    assert plain.augment is None
    assert torch.equal(plain.n, whole.n)
    assert torch.equal(plain.u, whole.u)
    untouched = (whole.augment == 0).all(1)
    assert 0 < untouched.sum() < 32
    assert torch.equal(plain.y[untouched], whole.y[untouched])
    assert not torch.equal(plain.y, whole.y)


def test_the_network_is_told_in_training(tmp_path: Path) -> None:
    dataset = make_dataset(store_at(tmp_path))
    network = DDPMpp(model_channels=8, channel_mult=(1,), num_blocks=1, attn_resolutions=(), augment_dim=9)
    settings = make_settings(augment=0.4)
    trainer = Trainer(make_model(dataset, network), settings, dataset, Place())
    told: list[Tensor] = []
    trainer._network.register_forward_pre_hook(lambda _, args: told.append(args[3]))
    before = trainer.weights()["raw"]["map_augment.weight"].clone()
    trainer.step()
    expected = Batches(dataset, settings, CPU).make(0, settings.batch_size).augment
    assert expected is not None
    assert torch.equal(torch.cat(told), expected)
    assert not torch.equal(trainer.weights()["raw"]["map_augment.weight"], before)


def test_a_network_that_cannot_be_told_is_refused(tmp_path: Path) -> None:
    settings = make_settings(augment=0.1)
    for network in (MLP(hidden=8), ADM(model_channels=64, channel_mult=(1,), augment_dim=4)):
        with pytest.raises(SettingsError, match=r"training.augment: .*augment_dim: 9"):
            make_job(store_at(tmp_path), settings, network)
    make_job(store_at(tmp_path), settings, DDPMpp(model_channels=8, channel_mult=(1,), augment_dim=9))
