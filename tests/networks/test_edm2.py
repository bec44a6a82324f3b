"""EDM2's U-Net against published counts, a second implementation, and what must hold for any network here."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.networks import EDM2
from pipeline.networks.edm2_layers import MPBlock, MPConv, magnitude, normalize_weights
from tests.networks.plain_edm2 import edm2 as plain
from tests.networks.test_ddpmpp import count, inputs

SMALL = EDM2(
    model_channels=16, channel_mult=(1, 2), num_blocks=1, attn_resolutions=(8,), channels_per_head=16, dropout=0.1
)
GOLDEN_MEAN = 0.1314977604410922
GOLDEN = [-1.740949350682101, 1.679361034987183, -0.41476585492741996, 0.22467828646658008, 2.3344716568210058]


def filled(net: nn.Module) -> nn.Module:
    """The network in evaluation with weights that are a function of their names, and gains that let all of it show."""
    values = torch.Generator().manual_seed(4)
    for name, value in sorted(net.state_dict().items()):
        random = torch.rand(value.shape, generator=values, dtype=torch.float64)
        value.copy_(0.7 + random if name.endswith("gain") else 6 * random - 3)
    return net.eval()


@pytest.mark.parametrize(
    ("channels", "millions"), [(128, 125), (192, 280), (256, 498), (320, 777), (384, 1119), (448, 1523)]
)
def test_xs_to_xxl_have_the_published_number_of_parameters(channels: int, millions: int) -> None:
    """For latents of 512x512 images, with 1,000 classes."""
    with torch.device("meta"):
        net = EDM2(model_channels=channels).build(64, 4, 1000)
    assert round(count(net) / 1e6) == millions


def test_a_network_for_small_grey_images_has_less_than_a_million_parameters() -> None:
    net = EDM2(model_channels=32, channel_mult=(1, 2), num_blocks=1, attn_resolutions=(14,), channels_per_head=32)
    assert count(net.build(28, 1, 10)) < 1_000_000


def test_parameters_have_the_published_names() -> None:
    names = set(EDM2(model_channels=64, num_blocks=1).build(64, 4, 10).state_dict())
    attention = {f"dec.16x16_block1.{part}.weight" for part in ("attn_qkv", "attn_proj", "conv_skip")}
    block = {"enc.32x32_down.conv_res0.weight", "enc.32x32_down.emb_gain", "enc.32x32_down.emb_linear.weight"}
    ends = {"enc.64x64_conv.weight", "out_conv.weight", "out_gain", "dec.8x8_in0.attn_qkv.weight"}
    embedding = {"emb_fourier.freqs", "emb_fourier.phases", "emb_noise.weight", "emb_label.weight"}
    assert attention | block | ends | embedding | {"dec.8x8_in1.conv_res1.weight", "dec.16x16_up.emb_gain"} <= names
    assert not [name for name in names if "bias" in name or "norm" in name]
    assert not [name for name in names if "in1.attn" in name or ("32x32" in name and "attn" in name)]


@pytest.mark.parametrize(
    ("settings", "resolution", "channels", "num_classes"),
    [
        (SMALL, 16, 3, 4),
        (SMALL, 16, 1, 0),
        (EDM2(model_channels=16, channel_mult=(1, 2, 2), attn_resolutions=(14,), channels_per_head=8), 28, 1, 4),
        (EDM2(model_channels=8, channel_mult=(2,), num_blocks=1, channels_per_head=16, clip=1.5), 5, 3, 0),
        (EDM2(model_channels=16, channel_mult=(1,), channels_per_head=16, channel_mult_noise=3, channel_mult_emb=2),
         8, 3, 4),
    ],
)  # fmt: skip
def test_the_output_is_that_of_the_plain_formulas(
    settings: EDM2, resolution: int, channels: int, num_classes: int
) -> None:
    net = filled(settings.build(resolution, channels, num_classes).double())
    x, c_noise, labels = inputs(5, channels, resolution)
    out = net(x, c_noise.double(), labels)
    state = {name: value.double() for name, value in net.state_dict().items()}
    expected = plain(state, x.double(), c_noise.double(), labels, settings.channels_per_head, settings.clip)
    assert out.shape == x.shape
    assert expected.std() > 0.1
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)


def test_the_output_of_a_fixed_network_does_not_change_without_a_new_revision() -> None:
    assert EDM2.revision == 1
    net = filled(SMALL.build(16, 3, 4).double())
    x, c_noise, labels = inputs()
    out = net(x, c_noise.double(), labels)
    assert out.mean().item() == pytest.approx(GOLDEN_MEAN, rel=1e-6)
    assert out[:, 1, 3, 7].tolist() == pytest.approx(GOLDEN, rel=1e-6)


def test_a_new_network_is_normal_drawn_from_the_seed_and_puts_out_nothing() -> None:
    nets = []
    for _ in range(2):
        torch.manual_seed(0)
        nets.append(SMALL.build(16, 3, 4))
    assert all(torch.equal(value, nets[1].state_dict()[name]) for name, value in nets[0].state_dict().items())
    weight = nets[0].enc["16x16_block0"].conv_res0.weight
    assert weight.std().item() == pytest.approx(1, rel=0.05)
    assert weight.abs().max() > 3
    assert nets[0](*inputs()).abs().max() == 0
    assert {name for name, p in nets[0].named_parameters() if p.dim() == 0 and p == 0} == {
        name for name, _ in nets[0].named_parameters() if name.endswith("gain")
    }


def _sizes(net: nn.Module, *arguments: Tensor) -> list[float]:
    """The magnitude of every block's output."""
    found: list[float] = []

    def note(module: nn.Module, given: object, out: Tensor) -> None:
        found.append(out.detach().square().mean().sqrt().item())

    hooks = [module.register_forward_hook(note) for module in net.modules() if isinstance(module, MPBlock)]
    net(*arguments)
    for hook in hooks:
        hook.remove()
    return found


def test_activations_stay_near_magnitude_one_at_the_start_and_as_it_learns_with_forced_weights() -> None:
    torch.manual_seed(0)
    settings = EDM2(model_channels=32, channel_mult=(1, 2), num_blocks=2, attn_resolutions=(8,), channels_per_head=32)
    net = settings.build(16, 3, 4)
    random = torch.Generator().manual_seed(1)
    x, c_noise = torch.randn(8, 3, 16, 16, generator=random), torch.linspace(-1, 1, 8)
    labels = torch.arange(8) % 4
    target = (x.flip(3) * c_noise[:, None, None, None].cos()).detach()
    assert all(0.75 < size < 1.2 for size in _sizes(net, x, c_noise, labels))
    adam = torch.optim.Adam(net.parameters(), lr=0.01, betas=(0.9, 0.99))
    losses = []
    for _ in range(12):
        normalize_weights(net)
        loss = (net(x, c_noise, labels) - target).square().mean()
        losses.append(loss.item())
        loss.backward()
        adam.step()
        adam.zero_grad()
    assert losses[-1] < 0.95 * losses[0]
    # Signals that learn the same thing are no longer unrelated, so their sums grow; to 2.3 at most, seen here.
    assert all(0.5 < size < 3 for size in _sizes(net, x, c_noise, labels))
    normalize_weights(net)
    for module in net.modules():
        if isinstance(module, MPConv):
            sizes = magnitude(module.weight, tuple(range(1, module.weight.dim())))
            torch.testing.assert_close(sizes, torch.ones_like(sizes), rtol=2e-4, atol=0)


def test_no_label_is_an_embedding_of_the_noise_level_alone() -> None:
    net, plain_net = filled(SMALL.build(16, 3, 4)), SMALL.build(16, 3, 0).eval()
    plain_net.load_state_dict({name: value for name, value in net.state_dict().items() if "emb_label" not in name})
    x, c_noise, _ = inputs()
    none = torch.full((5,), -1)
    assert torch.equal(net(x, c_noise, none), net(x, c_noise))
    assert torch.equal(plain_net(x, c_noise), plain_net(x, c_noise, none + 1))
    emb = net._embed(c_noise, none)
    raw = net.emb_noise(net.emb_fourier(c_noise)) * 0.5 / math.sqrt(0.5)
    torch.testing.assert_close(emb, nn.functional.silu(raw) / 0.596)


def test_the_label_and_the_noise_level_change_the_output_of_their_sample_only() -> None:
    net = filled(SMALL.build(16, 3, 4))
    x, c_noise, labels = inputs()
    out = net(x, c_noise, labels)
    other_label, other_noise = labels.clone(), c_noise.clone()
    other_label[2], other_noise[3] = 3, 0.9
    by_label = (net(x, c_noise, other_label) - out).abs().amax((1, 2, 3))
    by_noise = (net(x, other_noise, labels) - out).abs().amax((1, 2, 3))
    assert by_label[2] > 1e-2
    assert by_noise[3] > 1e-2
    assert by_label[[0, 1, 3, 4]].max() < 1e-5
    assert by_noise[[0, 1, 2, 4]].max() < 1e-5


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
        assert (p.grad * torch.randn(p.shape, generator=random, dtype=torch.float64)).sum().abs() > 1e-7, name
    with torch.no_grad():
        p = net.enc["8x8_down"].conv_res0.weight
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
    net.to(memory_format=torch.channels_last)
    out = net(x.to(memory_format=torch.channels_last), c_noise, labels)
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out, contiguous, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.03), (torch.float16, 0.004), (None, 0.03)])
def test_other_types_and_autocast_are_close_to_float32_and_train(dtype: torch.dtype | None, tolerance: float) -> None:
    net = filled(SMALL.build(16, 3, 4))
    x, c_noise, labels = inputs()
    expected = net(x, c_noise, labels)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is None):
        out = (net.to(dtype) if dtype else net)(x, c_noise, labels)
    assert out.dtype == (dtype or torch.bfloat16)
    assert (out.float() - expected).norm() < tolerance * expected.norm()
    out.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_the_weights_survive_a_safetensors_file(tmp_path: Path) -> None:
    net = filled(SMALL.build(16, 3, 4))
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    again = SMALL.build(16, 3, 4).eval()
    again.load_state_dict(load_file(tmp_path / "net.safetensors"))
    x, c_noise, labels = inputs()
    assert torch.equal(again(x, c_noise, labels), net(x, c_noise, labels))


@pytest.mark.parametrize("train", [False, True])
def test_the_whole_network_is_one_graph(train: bool) -> None:
    net = filled(replace(SMALL, dropout=0.0).build(16, 3, 4)).train(train)  # compiled, it has masks of its own
    x, c_noise, labels = inputs()
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, c_noise, labels), net(x, c_noise, labels))


@pytest.mark.slow
def test_compiled_code_gives_the_same_output_and_gradients() -> None:
    net = filled(SMALL.build(16, 3, 4))
    arguments = inputs()
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True)
    gradients = []
    for module in (net, compiled):
        normalize_weights(net)  # between steps, as the training does it
        net.zero_grad()
        out = module(*arguments)
        out.square().mean().backward()
        gradients.append([out, *(p.grad.clone() for p in net.parameters() if p.grad is not None)])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"model_channels": 0}, "model_channels: must be at least 1 (got 0)"),
        ({"channel_mult": ()}, "channel_mult: must be one or more positive numbers (got ())"),
        ({"num_blocks": 0}, "num_blocks: must be at least 1 (got 0)"),
        ({"attn_resolutions": (-16,)}, "attn_resolutions: must be positive (got (-16,))"),
        ({"channels_per_head": 0}, "channels_per_head: must be at least 1 (got 0)"),
        ({"dropout": float("nan")}, "dropout: must be at least 0 and below 1 (got nan)"),
        ({"channel_mult_emb": 0}, "channel_mult_emb: must be at least 1 (got 0)"),
        ({"channel_mult_noise": 0}, "channel_mult_noise: must be at least 1 (got 0)"),
        ({"res_balance": 1.5}, "res_balance: must be from 0 to 1 (got 1.5)"),
        ({"label_balance": float("nan")}, "label_balance: must be from 0 to 1 (got nan)"),
        ({"clip": 0.0}, "clip: must be positive (got 0.0)"),
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError) as error:
        EDM2(**values)  # type: ignore[arg-type]
    assert str(error.value) == problem


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"4 levels need a resolution that is a multiple of 8 \(got 28\)"):
        EDM2().build(28, 1, 0)
    with pytest.raises(ValueError, match=r"channels_per_head: .* with attention, 96 of them at 8x8 \(got 64\)"):
        EDM2(model_channels=48, channel_mult=(1, 2), attn_resolutions=()).build(16, 1, 0)
    with pytest.raises(ValueError, match=r"resolution: must be at least 1 \(got 0\)"):
        EDM2().build(0, 3, 0)
