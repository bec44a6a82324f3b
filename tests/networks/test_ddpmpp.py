"""DDPM++ against published counts, a second implementation, and what must hold for any network here."""

import math
import zlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pipeline.networks import DDPMpp
from tests.networks.plain_unets import Kind, unet

AUGMENT = 9 * 128  # weights of the published networks' augmentation input, built where the settings ask for it
GOLDEN_MEAN = 0.022960336624818015
GOLDEN = [0.7392141831911556, 0.3044660875539344, -0.9245193420072719, -0.17038694198826634, -0.24641765485860107]
SMALL = DDPMpp(model_channels=16, channel_mult=(1, 2), num_blocks=1, attn_resolutions=(8,), dropout=0.1)


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def filled(net: nn.Module) -> nn.Module:
    """The network with weights that are a fixed function of their names, large enough that every part shows."""
    for name, parameter in net.named_parameters():
        random = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        values = torch.rand(parameter.shape, generator=random, dtype=torch.float64) * 2 - 1
        scale = math.sqrt(3 / parameter[0].numel()) if parameter.dim() > 1 else 0.2
        parameter.data = (scale * values + ("norm" in name and name.endswith("weight"))).to(parameter.dtype)
    return net.eval()


def inputs(num: int = 5, channels: int = 3, resolution: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    x = torch.randn(num, channels, resolution, resolution, generator=random)
    return x, torch.linspace(-1.5, 1.2, num), torch.arange(num) % 5 - 1


def test_the_cifar_10_network_has_the_published_number_of_parameters() -> None:
    """55.7 M in the paper: 55,733,891 with the augmentation input."""
    assert count(DDPMpp(augment_dim=9).build(32, 3, 0)) == 55_733_891
    assert count(DDPMpp().build(32, 3, 0)) == 55_733_891 - AUGMENT == 55_732_739
    assert count(DDPMpp().build(32, 3, 10)) == 55_732_739 + 10 * 128 + 128


def test_the_ffhq_network_has_the_parameters_that_a_public_training_log_lists() -> None:
    """61,805,571 in all; the log also lists single blocks."""
    with torch.device("meta"):
        net = DDPMpp(channel_mult=(1, 2, 2, 2)).build(64, 3, 0)
    assert count(net) == 61_805_571 - AUGMENT
    listed = {"64x64_block1": 541_952, "64x64_block4": 541_952, "64x64_aux_norm": 256, "64x64_aux_conv": 3_459}
    assert {name: count(net.dec[name]) for name in listed} == listed


def test_the_cifar_10_network_needs_the_published_operations() -> None:
    """42.4 GFLOP an image, two for a multiplication and addition, products of the attention included."""
    with torch.device("meta"):
        net = DDPMpp().build(32, 3, 0).eval()
        x, c_noise = torch.zeros(1, 3, 32, 32), torch.zeros(1)
    with FlopCounterMode(display=False) as flops, sdpa_kernel(SDPBackend.MATH):
        net(x, c_noise)
    assert flops.get_total_flops() == 42_380_427_264


def test_parameters_have_the_published_names() -> None:
    names = set(DDPMpp(num_blocks=1).build(32, 3, 10).state_dict())
    block = {
        f"enc.16x16_block0.{part}.weight" for part in ("norm0", "conv0", "affine", "norm1", "conv1", "norm2", "qkv")
    }
    others = {
        "map_label.weight",
        "map_layer0.bias",
        "map_layer1.weight",
        "enc.32x32_conv.weight",
        "enc.8x8_down.skip.bias",
    }
    decoder = {
        "dec.8x8_in0.proj.bias",
        "dec.8x8_in1.conv0.weight",
        "dec.16x16_up.skip.weight",
        "dec.16x16_block1.qkv.bias",
    }
    assert block | others | decoder | {"dec.32x32_aux_norm.bias", "dec.32x32_aux_conv.weight"} <= names
    assert not [
        name
        for name in names
        if "dec.16x16_block0.qkv" in name or "in1.qkv" in name or ("32x32_block" in name and "qkv" in name)
    ]


@pytest.mark.parametrize(
    ("settings", "resolution", "channels", "num_classes"),
    [
        (SMALL, 16, 3, 4),
        (SMALL, 16, 1, 0),
        (DDPMpp(model_channels=16, channel_mult=(1, 2, 2), num_blocks=2, attn_resolutions=(14,)), 28, 1, 4),
        (DDPMpp(model_channels=16, channel_mult=(2, 1), num_blocks=1, channels_per_head=8), 16, 3, 4),
        (DDPMpp(model_channels=8, channel_mult=(1,), num_blocks=1, channel_mult_emb=2), 5, 3, 0),
    ],
)
def test_the_output_is_that_of_the_plain_formulas(
    settings: DDPMpp, resolution: int, channels: int, num_classes: int
) -> None:
    net = filled(settings.build(resolution, channels, num_classes).double())
    x, c_noise, labels = inputs(5, channels, resolution)
    out = net(x, c_noise.double(), labels)
    expected = unet(net.state_dict(), x.double(), c_noise.double(), labels, Kind(settings.channels_per_head))
    assert out.shape == x.shape
    assert expected.std() > 0.1
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)
    with torch.inference_mode():  # works in place where a gradient forbids it
        torch.testing.assert_close(net(x, c_noise.double(), labels), out, rtol=1e-12, atol=1e-12)


def test_the_output_of_a_fixed_network_does_not_change_without_a_new_revision() -> None:
    assert DDPMpp.revision == 1
    net = filled(SMALL.build(16, 3, 4).double())
    x, c_noise, labels = inputs()
    out = net(x, c_noise.double(), labels)
    assert out.mean().item() == pytest.approx(GOLDEN_MEAN, rel=1e-6)
    assert out[:, 1, 3, 7].tolist() == pytest.approx(GOLDEN, rel=1e-6)


def test_a_new_network_is_xavier_uniform_and_begins_near_zero() -> None:
    torch.manual_seed(0)
    net = SMALL.build(16, 3, 4)
    weight = net.enc["16x16_block0"].conv0.weight
    bound = math.sqrt(6 / (9 * 16 + 9 * 16))
    assert 0.99 * bound < weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert net.enc["8x8_block0"].qkv.weight.abs().max() <= math.sqrt(0.2) * math.sqrt(6 / (32 + 96))
    for last in (net.dec["16x16_aux_conv"], net.enc["8x8_block0"].conv1, net.enc["8x8_block0"].proj):
        assert 0 < last.weight.abs().max() < 1e-5
    assert all(p.abs().max() == 0 for name, p in net.named_parameters() if name.endswith("bias"))


def test_no_label_is_the_unconditional_network() -> None:
    """The bias of the label layer is what is left; folded into the next layer, it gives the network without labels."""
    net, plain_net = filled(SMALL.build(16, 3, 4)), SMALL.build(16, 3, 0).eval()
    state = {name: value.clone() for name, value in net.state_dict().items() if "map_label" not in name}
    state["map_layer0.bias"] += state["map_layer0.weight"] @ net.map_label.bias.detach()
    plain_net.load_state_dict(state)
    x, c_noise, _ = inputs()
    none = torch.full((5,), -1)
    torch.testing.assert_close(net(x, c_noise, none), plain_net(x, c_noise), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net(x, c_noise, none), net(x, c_noise), rtol=0, atol=0)
    torch.testing.assert_close(plain_net(x, c_noise), plain_net(x, c_noise, none + 1), rtol=0, atol=0)


def test_the_label_and_the_noise_level_change_the_output_of_their_sample_only() -> None:
    net = filled(SMALL.build(16, 3, 4))
    x, c_noise, labels = inputs()
    out = net(x, c_noise, labels)
    other_label, other_noise = labels.clone(), c_noise.clone()
    other_label[2], other_noise[3] = 3, 0.9
    changed = (
        (net(x, c_noise, other_label) - out).abs().amax((1, 2, 3)),
        (net(x, other_noise, labels) - out).abs().amax((1, 2, 3)),
    )
    assert changed[0][2] > 1e-2
    assert changed[1][3] > 1e-2
    assert changed[0][[0, 1, 3, 4]].max() < 1e-5
    assert changed[1][[0, 1, 2, 4]].max() < 1e-5


def test_the_order_of_the_batch_is_the_order_of_the_output() -> None:
    net = filled(SMALL.build(16, 3, 4))
    x, c_noise, labels = inputs()
    order = torch.tensor([3, 0, 4, 2, 1])
    torch.testing.assert_close(net(x, c_noise, labels)[order], net(x[order], c_noise[order], labels[order]))


def test_dropout_acts_in_training_only() -> None:
    net = filled(SMALL.build(16, 3, 4))
    x, c_noise, labels = inputs()
    assert torch.equal(net(x, c_noise, labels), net(x, c_noise, labels))
    net.train()
    assert not torch.allclose(net(x, c_noise, labels), net(x, c_noise, labels), atol=1e-3)


def test_a_gradient_reaches_every_parameter_and_agrees_with_differences() -> None:
    net = filled(SMALL.build(16, 3, 4).double())
    x, c_noise, labels = inputs()
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def loss() -> Tensor:
        return (net(x, c_noise.double(), labels) * weights).sum()

    loss().backward()
    random = torch.Generator().manual_seed(3)
    for name, p in net.named_parameters():
        assert p.grad is not None, name
        if name.endswith("qkv.bias"):
            continue  # a third of it, the keys' bias, moves no output
        direction = torch.randn(p.shape, generator=random, dtype=torch.float64)
        slope = (p.grad * direction).sum()
        assert slope.abs() > 1e-6, name
    with torch.no_grad():
        p = net.enc["8x8_down"].conv0.weight
        direction = torch.randn(p.shape, generator=random, dtype=torch.float64)
        slope, step = (p.grad * direction).sum().item(), 1e-5
        p += step * direction
        upper = loss().item()
        p -= 2 * step * direction
        assert (upper - loss().item()) / (2 * step) == pytest.approx(slope, rel=1e-5)


def test_channels_last_gives_the_same_output_in_its_own_layout() -> None:
    net = filled(SMALL.build(16, 3, 4))
    x, c_noise, labels = inputs()
    contiguous = net(x, c_noise, labels)
    assert contiguous.is_contiguous()
    net.to(memory_format=torch.channels_last)
    out = net(x.to(memory_format=torch.channels_last), c_noise, labels)
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out, contiguous, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.bfloat16, 0.03), (torch.float16, 0.004), (torch.float64, 1e-5)]
)
def test_other_types_are_close_to_float32(dtype: torch.dtype, tolerance: float) -> None:
    net = filled(SMALL.build(16, 3, 4))
    x, c_noise, labels = inputs()
    c_noise = c_noise * 300 + 500  # as large as the VP column's
    expected = net(x, c_noise, labels)
    out = net.to(dtype)(x, c_noise, labels)
    assert out.dtype == dtype
    assert (out.float() - expected).norm() < tolerance * expected.norm()


def test_autocast_is_close_to_float32_and_trains() -> None:
    net = filled(SMALL.build(16, 3, 4))
    x, c_noise, labels = inputs()
    expected = net(x, c_noise, labels)
    with torch.autocast("cpu", torch.bfloat16):
        out = net(x, c_noise, labels)
    assert out.dtype == torch.bfloat16
    assert (out.float() - expected).norm() < 0.03 * expected.norm()
    out.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_the_weights_survive_a_safetensors_file(tmp_path: Path) -> None:
    net = filled(SMALL.build(16, 3, 4))
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    again = SMALL.build(16, 3, 4).eval()
    again.load_state_dict(load_file(tmp_path / "net.safetensors"))
    x, c_noise, labels = inputs()
    assert torch.equal(again(x, c_noise, labels), net(x, c_noise, labels))


def test_the_whole_network_is_one_graph() -> None:
    net = filled(SMALL.build(16, 3, 4))
    x, c_noise, labels = inputs()
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, c_noise, labels), net(x, c_noise, labels))


@pytest.mark.slow
def test_compiled_code_gives_the_same_output() -> None:
    net = filled(SMALL.build(16, 3, 4))
    x, c_noise, labels = inputs()
    torch._dynamo.reset()
    with torch.inference_mode():
        compiled = torch.compile(net, fullgraph=True)
        torch.testing.assert_close(compiled(x, c_noise, labels), net(x, c_noise, labels), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"model_channels": 3}, "model_channels: must be even and at least 4 (got 3)"),
        ({"model_channels": 33}, "model_channels: must be even and at least 4 (got 33)"),
        ({"channel_mult": ()}, "channel_mult: must be one or more positive numbers (got ())"),
        ({"channel_mult": (1, 0)}, "channel_mult: must be one or more positive numbers (got (1, 0))"),
        ({"num_blocks": 0}, "num_blocks: must be at least 1 (got 0)"),
        ({"attn_resolutions": (-16,)}, "attn_resolutions: must be positive (got (-16,))"),
        ({"dropout": 1.0}, "dropout: must be at least 0 and below 1 (got 1.0)"),
        ({"dropout": float("nan")}, "dropout: must be at least 0 and below 1 (got nan)"),
        ({"channel_mult_emb": 0}, "channel_mult_emb: must be at least 1 (got 0)"),
        ({"augment_dim": -1}, "augment_dim: must be at least 0 (got -1)"),
        ({"channels_per_head": 0}, "channels_per_head: must be at least 1 (got 0)"),
        (
            {"channels_per_head": 48},
            "channels_per_head: must divide the channels of every level, 256 of them at one (got 48)",
        ),
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError) as error:
        DDPMpp(**values)  # type: ignore[arg-type]
    assert str(error.value) == problem


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"3 levels need a resolution that is a multiple of 4 \(got 30\)"):
        DDPMpp().build(30, 3, 0)
    with pytest.raises(ValueError, match=r"resolution: must be at least 1 \(got 0\)"):
        DDPMpp().build(0, 3, 0)
    with pytest.raises(ValueError, match=r"channels: must be at least 1 \(got 0\)"):
        DDPMpp().build(32, 0, 0)
    with pytest.raises(ValueError, match=r"num_classes: must be at least 0 \(got -1\)"):
        DDPMpp().build(32, 3, -1)


def test_settings_are_hashable_and_equal_by_value() -> None:
    assert len({DDPMpp(), DDPMpp(num_blocks=4), DDPMpp(num_blocks=2)}) == 2
