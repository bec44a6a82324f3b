"""NCSN++, ADM and the augmentation condition: counts and names, a second implementation, types and layouts."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.digests import digest
from pipeline.networks import ADM, DDPMpp, NCSNpp
from pipeline.networks.layers import FourierEmbedding, resampling
from tests.networks.plain_unets import Kind, unet
from tests.networks.test_ddpmpp import count, filled

FIR = (1, 3, 3, 1)
SIZES: dict[str, Any] = {"model_channels": 16, "channel_mult": (1, 2), "num_blocks": 1, "attn_resolutions": (8,)}
CASES = [
    (DDPMpp(**SIZES, augment_dim=9), Kind()),
    (NCSNpp(**SIZES, augment_dim=9), Kind(taps=FIR)),
    (NCSNpp(**{**SIZES, "channel_mult": (1, 2, 1)}, channels_per_head=8), Kind(channels_per_head=8, taps=FIR)),
    (ADM(**SIZES, channels_per_head=8, augment_dim=9), Kind(channels_per_head=8, adm=True)),
    (ADM(**{**SIZES, "channel_mult": (2, 2)}, channels_per_head=None), Kind(adm=True)),
]
NEW = [NCSNpp(**SIZES, augment_dim=9), ADM(**SIZES, channels_per_head=8, augment_dim=9)]


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    x, augment = torch.randn(5, 3, 16, 16, generator=random), torch.randn(5, 9, generator=random)
    return x, torch.linspace(-1.5, 1.2, 5), torch.arange(5) % 5 - 1, augment


def meta(settings: Any, resolution: int, num_classes: int) -> nn.Module:
    with torch.device("meta"):
        built: nn.Module = settings.build(resolution, 3, num_classes)
    return built


def kind(value: Any) -> str | None:
    return getattr(value, "kind", None)


def test_adm_has_the_published_number_of_parameters() -> None:
    """296 M in the paper for ImageNet-64; PhysicsNeMo's class of the same network has exactly as many."""
    assert count(meta(ADM(), 64, 1000)) == 295_899_267


def test_ncsnpp_has_the_parameters_of_an_independent_implementation() -> None:
    """Counted in PhysicsNeMo's SongUNet (Fourier, residual, FIR), with its augmentation input."""
    assert count(meta(NCSNpp(augment_dim=9), 32, 0)) == 56_397_827
    assert count(meta(NCSNpp(channel_mult=(1, 2, 2, 2), augment_dim=9), 64, 0)) == 62_761_091


def test_ncsnpp_is_ddpmpp_with_a_wider_noise_embedding_and_a_residual_path() -> None:
    """From 3 to 256 and from 256 to 256 channels, 3x3; every other parameter is the same."""
    wider = 128 * 512
    residual = 9 * 3 * 256 + 256 + 9 * 256 * 256 + 256
    assert count(meta(NCSNpp(), 32, 0)) == count(meta(DDPMpp(), 32, 0)) + wider + residual


def test_parameters_have_the_published_names() -> None:
    ncsnpp = set(meta(NCSNpp(num_blocks=1, augment_dim=9), 32, 10).state_dict())
    assert {"map_noise.freqs", "map_augment.weight", "map_label.bias", "enc.16x16_aux_residual.weight"} <= ncsnpp
    assert {"enc.8x8_aux_residual.bias", "dec.32x32_aux_norm.weight", "dec.32x32_aux_conv.bias"} <= ncsnpp
    assert not [name for name in ncsnpp if "filter" in name or "kernel" in name or name == "map_augment.bias"]
    adm = set(meta(ADM(num_blocks=1, augment_dim=9), 32, 10).state_dict())
    assert {"map_augment.weight", "map_label.weight", "out_norm.weight", "out_conv.bias"} <= adm
    assert {"enc.32x32_block0.qkv.weight", "dec.16x16_block0.proj.bias", "dec.4x4_in0.norm2.weight"} <= adm
    assert not adm & {"map_noise.freqs", "map_label.bias", "map_augment.bias", "enc.16x16_down.skip.weight"}
    assert meta(ADM(), 64, 0).enc["32x32_block1"].num_heads == 384 // 64


@pytest.mark.parametrize(("settings", "style"), CASES)
def test_the_output_is_that_of_the_plain_formulas(settings: Any, style: Kind) -> None:
    net = filled(settings.build(16, 3, 4).double())
    x, c_noise, labels, augment = inputs()
    condition = augment.double() if settings.augment_dim else None
    out = net(x.double(), c_noise.double(), labels, condition)
    expected = unet(net.state_dict(), x.double(), c_noise.double(), labels, style, condition)
    assert expected.std() > 0.1
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("settings", [CASES[0][0], *NEW], ids=kind)
def test_the_condition_changes_the_output_of_its_sample_and_none_is_zeros(settings: Any) -> None:
    net = filled(settings.build(16, 3, 4))
    x, c_noise, labels, augment = inputs()
    out = net(x, c_noise, labels)
    torch.testing.assert_close(net(x, c_noise, labels, torch.zeros(5, 9)), out, rtol=0, atol=0)
    augment[:3] = 0
    changed = (net(x, c_noise, labels, augment) - out).abs().amax((1, 2, 3))
    assert changed[:3].max() < 1e-5
    assert changed[3:].min() > 1e-2


@pytest.mark.parametrize("settings", NEW, ids=kind)
def test_a_gradient_reaches_every_parameter(settings: Any) -> None:
    net = filled(settings.build(16, 3, 4)).train()
    x, c_noise, labels, augment = inputs()
    net(x, c_noise, labels, augment).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())


@pytest.mark.parametrize("settings", NEW, ids=kind)
def test_layouts_types_and_graphs_agree(settings: Any) -> None:
    net = filled(settings.build(16, 3, 4))
    x, c_noise, labels, _ = inputs()
    expected = net(x, c_noise, labels)
    with torch.inference_mode():
        torch.testing.assert_close(net(x, c_noise, labels), expected, rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert (net(x, c_noise, labels).float() - expected).norm() < 0.05 * expected.norm()
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, c_noise, labels), expected, rtol=1e-5, atol=1e-5)
    net.to(memory_format=torch.channels_last)
    out = net(x.to(memory_format=torch.channels_last), c_noise, labels)
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    narrow = net.to(torch.bfloat16)(x, c_noise, labels)
    assert narrow.dtype == torch.bfloat16
    assert (narrow.float() - expected).norm() < 0.05 * expected.norm()


def test_the_fourier_embedding_keeps_its_frequencies_whatever_type_the_network_gets() -> None:
    torch.manual_seed(0)
    embedding = FourierEmbedding(512)
    freqs = embedding.freqs.clone()
    assert freqs.std().item() == pytest.approx(16, rel=0.15)
    c_noise = torch.tensor([0.9, -1.2], dtype=torch.float64)
    angles = torch.outer(c_noise, 2 * math.pi * freqs.double())
    expected = torch.cat([angles.sin(), angles.cos()], 1)
    for dtype in (torch.bfloat16, torch.float64):
        assert torch.equal(embedding.to(dtype).freqs, freqs)
        torch.testing.assert_close(embedding(c_noise), expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(embedding(c_noise.float()).double(), expected, rtol=0, atol=1e-3)


def test_frequencies_are_drawn_from_the_seed_and_stored_in_the_weights() -> None:
    settings = NCSNpp(**SIZES)
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(settings.build(16, 3, 0).state_dict())
    assert torch.equal(states[0]["map_noise.freqs"], states[1]["map_noise.freqs"])
    assert not torch.equal(states[0]["map_noise.freqs"], states[2]["map_noise.freqs"])
    other = settings.build(16, 3, 0)
    other.load_state_dict(states[2])
    assert torch.equal(other.state_dict()["map_noise.freqs"], states[2]["map_noise.freqs"])


def test_fir_resampling_keeps_a_constant_but_at_the_border_and_halves_and_doubles() -> None:
    x = torch.ones(1, 2, 8, 8)
    down, up = resampling("down", FIR)(x), resampling("up", FIR)(x)
    assert down.shape == (1, 2, 4, 4)
    assert up.shape == (1, 2, 16, 16)
    assert torch.equal(down[..., 1:-1, 1:-1], torch.ones(1, 2, 2, 2))
    assert torch.equal(up[..., 1:-1, 1:-1], torch.ones(1, 2, 14, 14))
    assert down[0, 0, 0, 0].item() == pytest.approx((7 / 8) ** 2)
    ramp = resampling("up", FIR)(torch.arange(8.0).expand(1, 1, 8, 8))[0, 0, 8, 1:-1]
    assert ramp.tolist() == pytest.approx([k / 2 + 0.25 for k in range(14)])  # linear interpolation between centres


def test_adm_begins_as_torch_layers_do_with_zeros_at_the_end_of_every_path() -> None:
    torch.manual_seed(0)
    net = ADM(**SIZES, channels_per_head=8, augment_dim=9).build(16, 3, 1000)
    block = net.enc["8x8_block0"]
    assert 0.98 / math.sqrt(9 * 16) < block.conv0.weight.abs().max() <= 1 / math.sqrt(9 * 16)
    assert 0.5 / math.sqrt(9 * 16) < block.conv0.bias.abs().max() <= 1 / math.sqrt(9 * 16)
    for last in (block.conv1.weight, block.proj.bias, net.out_conv.weight, net.out_conv.bias, net.map_augment.weight):
        assert last.abs().max() == 0
    assert net.map_label.weight.std().item() == pytest.approx(1.0, rel=0.02)


def test_settings_from_before_the_condition_keep_their_digest() -> None:
    assert digest(DDPMpp()) == digest(DDPMpp(augment_dim=0)) == "93a180fb9e8391c116ff96d9b08893a5"
    assert digest(DDPMpp(augment_dim=9)) != digest(DDPMpp())


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^channel_mult_noise: must be at least 1 \(got 0\)"):
        NCSNpp(channel_mult_noise=0)
    with pytest.raises(ValueError, match=r"^channels_per_head: must divide"):
        ADM(model_channels=32)
    with pytest.raises(ValueError, match=r"4 levels need a resolution that is a multiple of 8 \(got 28\)"):
        ADM().build(28, 1, 0)
