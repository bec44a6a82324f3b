"""The group norm of our own: the definition's numbers, whatever the shape, and what follows it in the U-Nets."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.data.native import load_operators
from pipeline.networks import ADM, DDPMpp, NCSNpp
from pipeline.networks.group_norm import KERNEL, NativeGroupNorm, TrainedGroupNorm, use_native_norms
from pipeline.networks.layers import GroupNorm, group_norm

SHAPES = [(3, 64, 8, 8), (2, 16, 28, 28), (1, 48, 7, 5), (5, 144, 1, 1), (2, 80, 1, 2), (2, 256, 13, 9)]
SMALL: dict[str, Any] = {"model_channels": 32, "channel_mult": (1, 2), "num_blocks": 1}


@pytest.fixture(autouse=True)
def _kernel() -> None:
    load_operators(KERNEL, "execution.norm")


def _norm(channels: int) -> GroupNorm:
    torch.manual_seed(channels)
    layer = group_norm(channels)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer.requires_grad_(False)


def _exact(layer: GroupNorm, x: Tensor, condition: tuple[Tensor, ...], silu: bool) -> Tensor:
    """The definition, in float64."""
    n, c, h, w = x.shape
    grouped = x.double().reshape(n, layer.num_groups, -1)
    centred = grouped - grouped.mean(2, keepdim=True)
    normed = (centred / (centred.square().mean(2, keepdim=True) + layer.eps).sqrt()).reshape(n, c, h, w)
    y = normed * layer.weight.double()[:, None, None] + layer.bias.double()[:, None, None]
    if condition:
        y = y * (1 + condition[0].double()) + condition[1].double()
    return y / (1 + (-y).exp()) if silu else y


def _native(layer: GroupNorm, x: Tensor, condition: tuple[Tensor, ...] = (), silu: bool = False) -> Tensor:
    fast = copy.deepcopy(layer)
    assert use_native_norms(nn.Sequential(fast)) == 1
    with torch.inference_mode():
        return fast(x, *condition, silu=silu)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_the_definition(shape: tuple[int, ...], conditional: bool, silu: bool, threads: int) -> None:
    layer, x = _norm(shape[1]), 3 * torch.randn(shape) + 1
    condition = torch.randn(shape[0], 2 * shape[1], 1, 1).chunk(2, dim=1) if conditional else ()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = _native(layer, x, condition, silu)
        half = _native(layer.bfloat16(), x.bfloat16(), tuple(part.bfloat16() for part in condition), silu)
    finally:
        torch.set_num_threads(before)
    assert found.is_contiguous(memory_format=torch.channels_last)
    exact = _exact(_norm(shape[1]), x, condition, silu)
    torch.testing.assert_close(found.double(), exact, rtol=2e-6, atol=1e-5)
    assert half.dtype == torch.bfloat16
    assert float((half - exact).square().mean().sqrt()) < 0.02 * float(exact.square().mean().sqrt()) + 1e-3


def test_it_is_nearer_to_the_exact_numbers_than_torchs_in_channels_last() -> None:
    layer, x = _norm(64), 2 * torch.randn(4, 64, 32, 32) + 3
    exact = _exact(layer, x, (), True)
    with torch.inference_mode():
        of_torch = layer(x.to(memory_format=torch.channels_last), silu=True)
    assert float((_native(layer, x, (), True) - exact).abs().max()) <= float((of_torch - exact).abs().max())


def test_a_mean_that_is_far_off_costs_no_more_digits_than_it_must() -> None:
    x = 1000 + torch.randn(2, 32, 16, 16)
    exact = _exact(_norm(32), x, (), False)
    assert float((_native(_norm(32), x) - exact).abs().max()) < 1e-3  # a float32 near 1000 is good to 6e-5


@pytest.mark.parametrize(("value", "expected"), [(500.0, 500.0), (90.0, 90.0), (-90.0, 0.0), (-500.0, 0.0), (0.0, 0.0)])
def test_silu_has_its_limits(value: float, expected: float) -> None:
    """The scale makes the norm nothing, the shift is what SiLU gets."""
    shape = (1, 16, 3, 3)
    condition = torch.full((1, 16, 1, 1), -1.0), torch.full((1, 16, 1, 1), value)
    assert _native(_norm(16), torch.randn(shape), condition, True) == pytest.approx(
        torch.full(shape, expected), abs=1e-30
    )


def test_what_is_not_a_number_stays_one_and_keeps_to_its_image() -> None:
    x = torch.randn(2, 32, 4, 4)
    x[0, 3, 1, 1] = torch.nan
    found = _native(_norm(32), x, (), True)
    assert found[0, :4].isnan().all()
    assert found[1].isfinite().all()


@pytest.mark.parametrize(
    "network", [DDPMpp(**SMALL), NCSNpp(**SMALL), ADM(**SMALL, channels_per_head=16)], ids=lambda n: n.kind
)
def test_whole_networks_answer_as_before(network: Any) -> None:
    torch.manual_seed(0)
    plain = network.build(16, 3, 0).eval().requires_grad_(False)
    for parameter in plain.parameters():
        if parameter.dim() == 4:
            nn.init.xavier_uniform_(parameter)
    fast, x, c_noise = copy.deepcopy(plain), torch.randn(3, 3, 16, 16), torch.linspace(-1, 1, 3)
    count = use_native_norms(fast)
    assert count == sum(isinstance(layer, nn.GroupNorm) for layer in plain.modules()) > 5
    assert sum(isinstance(layer, NativeGroupNorm) for layer in fast.modules()) == count
    with torch.inference_mode():
        expected, found = plain.double()(x.double(), c_noise.double(), None), fast(x, c_noise, None)
        half = fast.bfloat16()(x.bfloat16(), c_noise, None)
    assert float((found - expected).abs().max()) < 1e-5 * float(expected.abs().max())
    assert float((half - expected).abs().max()) < 0.1 * float(expected.abs().max())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_are_those_of_the_definition(
    shape: tuple[int, ...], conditional: bool, silu: bool, precision: str
) -> None:
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    x, weights = (2 * torch.randn(shape) + 1).to(dtype), torch.randn(shape).to(dtype)
    embedding = torch.randn(shape[0], 2 * shape[1], 1, 1).to(dtype)
    found = []
    for kind in (GroupNorm, TrainedGroupNorm):
        layer, wide = _norm(shape[1]).requires_grad_(), torch.float64 if kind is GroupNorm else dtype
        if kind is TrainedGroupNorm:
            assert use_native_norms(nn.Sequential(layer), kind) == 1
        inputs = [tensor.detach().to(wide).requires_grad_() for tensor in (x, embedding)]
        with torch.enable_grad():
            layer = layer.double() if kind is GroupNorm else layer
            y = layer(inputs[0], *(inputs[1].chunk(2, dim=1) if conditional else ()), silu=silu)
            torch.autograd.backward((y * weights).sum())
        learned = [inputs[0], *([inputs[1]] if conditional else []), layer.weight, layer.bias]
        found.append([y, *(tensor.grad for tensor in learned)])
    allowed = 1e-5 if precision == "fp32" else 2e-2
    for exact, there in zip(*found, strict=True):
        assert exact is not None
        assert there is not None
        # Of one pixel and one channel a group nothing is left, but for rounding.
        assert float((there - exact).detach().abs().max()) < allowed * float(exact.detach().abs().max()) + 1e-5


def test_compiled_it_has_the_same_gradients() -> None:
    layer = _norm(32).requires_grad_()
    use_native_norms(nn.Sequential(layer), TrainedGroupNorm)
    x, found = torch.randn(2, 32, 6, 6), []
    for ask in (layer, torch.compile(layer, backend="aot_eager")):
        layer.zero_grad()
        there = x.clone().requires_grad_()
        torch.autograd.backward(ask(there, silu=True).square().sum())
        found.append((there.grad, layer.weight.grad, layer.bias.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_other_norms_are_left_alone() -> None:
    network = nn.Sequential(group_norm(24), nn.GroupNorm(4, 16), nn.BatchNorm2d(16))
    assert use_native_norms(network) == 0


def test_channels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 16"):
        torch.ops.sigmasweep.group_norm(
            torch.ones(1, 8, 2, 2), torch.ones(8), torch.ones(8), None, None, 2, 1e-5, False
        )
    with pytest.raises(ValueError, match="for each channel of each image"):
        torch.ops.sigmasweep.group_norm(
            torch.ones(2, 16, 2, 2),
            torch.ones(16),
            torch.ones(16),
            torch.ones(1, 16),
            torch.ones(1, 16),
            2,
            1e-5,
            False,
        )


def test_silu_of_torch_and_ours_agree_everywhere() -> None:
    values = torch.linspace(-87, 88, 16 * 10_000).reshape(10_000, 16, 1, 1)
    condition = torch.full_like(values, -1), values
    found = _native(_norm(16), torch.zeros_like(values), condition, True)
    torch.testing.assert_close(found.double(), F.silu(values.double()), rtol=1e-6, atol=1e-35)
