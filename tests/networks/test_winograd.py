"""Winograd's convolution: the definition's numbers, whatever the shape; and only where it is one."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.data.native import load_operators
from pipeline.networks import DDPMpp
from pipeline.networks.winograd import KERNEL, WinogradConv2d, fits, train_with_winograd, transformed, use_winograd

SHAPES = [
    (2, 32, 48, 8, 8),
    (1, 64, 32, 28, 28),
    (3, 32, 32, 7, 5),
    (1, 48, 32, 1, 1),
    (5, 32, 64, 16, 4),
    (9, 32, 32, 16, 16),
]


@pytest.fixture(autouse=True)
def _kernel() -> None:
    load_operators(KERNEL, "execution.convolution")


def _layer(inputs: int, outputs: int, *, bias: bool = True) -> nn.Conv2d:
    torch.manual_seed(inputs + outputs)
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)


def _exact(x: Tensor, layer: nn.Conv2d) -> Tensor:
    bias = None if layer.bias is None else layer.bias.double()
    return F.conv2d(x.double(), layer.weight.double(), bias, padding=1)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("n", "inputs", "outputs", "h", "w"), SHAPES)
def test_it_is_as_near_to_the_definition_in_float64_as_float32_is(
    n: int, inputs: int, outputs: int, h: int, w: int, threads: int
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        layer, x = _layer(inputs, outputs), torch.randn(n, inputs, h, w)
        exact = _exact(x, layer).detach()
        with torch.inference_mode():
            found = WinogradConv2d(layer)(x)
    finally:
        torch.set_num_threads(before)
    assert found.shape == exact.shape
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert float((found - exact).abs().max()) < 1e-5 * float(exact.abs().max()) + 1e-6


def test_images_in_bfloat16_lose_no_more_than_by_the_definition() -> None:
    layer, x = _layer(64, 64, bias=False), torch.randn(4, 64, 16, 16).bfloat16()
    exact = _exact(x, layer).detach()
    rounded = copy.deepcopy(layer).bfloat16()
    with torch.inference_mode():
        found, direct = WinogradConv2d(layer)(x), rounded(x)
    assert found.dtype == torch.bfloat16
    assert float((found - exact).square().mean()) <= float((direct - exact).square().mean())


def test_its_error_is_below_that_of_the_usual_points() -> None:
    """0, +-1, +-2 and infinity, in a plain computation of the same formula in float32 (Lavin and Gray, section 4.1)."""
    torch.manual_seed(0)
    tiles, weight = torch.randn(256, 64, 6, 6), torch.randn(64, 3, 3) / 24
    exact = F.conv2d(tiles.double(), weight[None].double())[:, 0]
    d = torch.tensor([[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0], [0, -2, -1, 2, 1, 0],
                      [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1.0]])  # fmt: skip
    g = torch.tensor([[1 / 4, 0, 0], [-1 / 6] * 3, [-1 / 6, 1 / 6, -1 / 6], [1 / 24, 1 / 12, 1 / 6],
                      [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]])  # fmt: skip
    m = torch.tensor([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1.0]])
    usual = m @ ((g @ weight @ g.T) * (d @ tiles @ d.T)).sum(1) @ m.T
    layer = nn.Conv2d(64, 32, 3, padding=1, bias=False)
    with torch.inference_mode():
        layer.weight.copy_(weight.expand(32, -1, -1, -1))
        ours = WinogradConv2d(layer)(tiles)[:, 0, 1:5, 1:5]
    errors = [float((found - exact).square().mean().sqrt()) for found in (ours, usual)]
    assert errors[0] < 0.7 * errors[1] < 1e-5


def test_a_weight_of_one_at_the_centre_changes_nothing() -> None:
    layer = nn.Conv2d(32, 32, 3, padding=1, bias=False)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[range(32), range(32), 1, 1] = 1
    x = torch.randn(2, 32, 9, 10)
    with torch.inference_mode():
        torch.testing.assert_close(WinogradConv2d(layer)(x), x, rtol=1e-5, atol=1e-5)


def test_whole_networks_answer_as_before_and_stay_float32_within() -> None:
    torch.manual_seed(0)
    network = DDPMpp(model_channels=32, channel_mult=(1, 2), num_blocks=1).build(16, 3, 0).eval().requires_grad_(False)
    x, c_noise = torch.randn(3, 3, 16, 16), torch.linspace(-1, 1, 3)
    for parameter in network.parameters():
        if parameter.dim() == 4:
            nn.init.xavier_uniform_(parameter)
    expected = network.double()(x.double(), c_noise.double(), None)
    network.float()
    fast = copy.deepcopy(network)
    assert use_winograd(fast) == sum(fits(layer) for layer in network.modules()) > 5
    with torch.inference_mode():
        found = fast(x, c_noise, None)
        half = fast.bfloat16()(x.bfloat16(), c_noise, None)
    assert float((found - expected).abs().max()) < 1e-5 * float(expected.abs().max())
    assert float((half - expected).abs().max()) < 0.05 * float(expected.abs().max())
    exchanged = [layer for layer in fast.modules() if isinstance(layer, WinogradConv2d)]
    assert {parameter.dtype for layer in exchanged for parameter in layer.parameters()} == {torch.float32}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradients_are_those_of_the_definition(precision: str) -> None:
    layer, x = _layer(32, 48), torch.randn(3, 32, 12, 9)
    weights = torch.randn(3, 48, 12, 9)
    plain = copy.deepcopy(layer).double()
    exact_x = x.double().requires_grad_()
    torch.autograd.backward((plain(exact_x) * weights).sum())
    fast = nn.Sequential(layer)
    assert train_with_winograd(fast) == 1
    assert list(fast.state_dict()) == ["0.weight", "0.bias"]
    x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        y = fast(x)
    assert y.dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)
    torch.autograd.backward((y * weights).sum())
    allowed = 1e-5 if precision == "fp32" else 2e-2
    pairs = [(x.grad, exact_x.grad), (layer.weight.grad, plain.weight.grad), (layer.bias.grad, plain.bias.grad)]
    for found, exact in pairs:
        assert found is not None
        assert exact is not None
        assert found.dtype == torch.float32
        assert float((found - exact).abs().max()) < allowed * float(exact.abs().max())


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(32, 32, 1), nn.Conv2d(32, 32, 3), nn.Conv2d(32, 32, 3, padding=1, stride=2),
     nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(32, 40, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1, groups=2),
     nn.Conv2d(32, 32, 3, padding=2, dilation=2), nn.Conv2d(32, 32, 3, padding=1, padding_mode="reflect"),
     nn.Linear(32, 32)],
    ids=["1x1", "no padding", "stride", "few channels", "odd channels", "groups", "dilation", "reflect", "linear"],
)  # fmt: skip
def test_other_layers_stay(layer: nn.Module) -> None:
    assert not fits(layer)
    assert use_winograd(nn.Sequential(layer)) == 0


def test_a_weight_that_does_not_fit_is_an_error_and_no_crash() -> None:
    x, weight = torch.randn(1, 32, 8, 8), transformed(_layer(48, 32).weight)
    with pytest.raises(ValueError, match="does not fit"):
        torch.ops.sigmasweep.conv3x3(x, weight, torch.zeros(32))
    with pytest.raises(ValueError, match="multiples of 16"):
        torch.ops.sigmasweep.conv3x3(torch.randn(1, 8, 8, 8), weight, torch.zeros(32))
