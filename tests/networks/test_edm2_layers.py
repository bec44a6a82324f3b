"""The parts of the magnitude-preserving U-Net: each keeps the mean square of what it gets, on expectation."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.networks.edm2_layers import (
    MPBlock,
    MPConv,
    MPFourier,
    magnitude,
    mp_cat,
    mp_silu,
    mp_sum,
    normalize,
    normalize_weights,
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def _rms(x: Tensor) -> float:
    return x.detach().square().mean().sqrt().item()


def test_silu_of_unit_normal_values_has_the_magnitude_that_it_is_divided_by() -> None:
    """The integral of silu(x)^2 N(x; 0, 1), by Gauss-Hermite quadrature: 0.5956^2."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(100)
    exact = math.sqrt(float((weights * (nodes / (1 + np.exp(-nodes))) ** 2).sum()) / math.sqrt(2 * math.pi))
    assert exact == pytest.approx(0.596, abs=5e-4)
    assert _rms(mp_silu(torch.randn(300_000))) == pytest.approx(exact / 0.596, abs=6e-3)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: mp_silu(torch.randn(100_000)),
        lambda: mp_sum(torch.randn(100_000), torch.randn(100_000), 0.3),
        lambda: mp_sum(torch.randn(100_000), torch.randn(100_000), 0.0),
        lambda: mp_cat(torch.randn(200, 16, 4, 4), torch.randn(200, 48, 4, 4), 0.5),
        lambda: mp_cat(torch.randn(200, 16, 4, 4), torch.randn(200, 48, 4, 4), 0.2),
        lambda: normalize(17 * torch.randn(20, 64, 8, 8), dim=1),
        lambda: MPFourier(100_000)(torch.tensor([0.3])),
        lambda: MPConv(256, 256)(torch.randn(500, 256)),
        lambda: MPConv(64, 128, kernel=1)(torch.randn(32, 64, 8, 8)),
        lambda: MPConv(64, 128, kernel=3)(torch.randn(8, 64, 18, 18))[:, :, 1:-1, 1:-1],
    ],
)
def test_each_part_keeps_the_magnitude_one(layer: Callable[[], Tensor]) -> None:
    assert _rms(layer()) == pytest.approx(1, abs=0.015)


def test_a_weighted_sum_and_a_concatenation_give_both_parts_their_shares() -> None:
    """By the plain formulas; what a layer of random weights sees of b after it is t / (1 - t) of what it sees of a."""
    a, b = torch.randn(3, 4, 2, 2), torch.randn(3, 12, 2, 2)
    assert torch.equal(mp_sum(a, b[:, :4], 0.0), a)
    torch.testing.assert_close(mp_sum(a, b[:, :4], 0.3), (0.7 * a + 0.3 * b[:, :4]) / math.sqrt(0.49 + 0.09))
    whole = mp_cat(a, b, 0.3)
    share_a, share_b = (part.square().sum(1).mean() for part in (whole[:, :4] / a * 1.0, whole[:, 4:] / b * 1.0))
    assert (share_b / share_a).sqrt().item() == pytest.approx(0.3 / 0.7, rel=1e-5)
    assert ((share_a + share_b) / 16).item() == pytest.approx(1, rel=1e-5)


def test_only_the_direction_of_stored_weights_matters() -> None:
    conv, x = MPConv(8, 16, kernel=3), torch.randn(2, 8, 4, 4)
    out = conv(x)
    with torch.no_grad():
        conv.weight.mul_(torch.linspace(1, 50, 16)[:, None, None, None])
    torch.testing.assert_close(conv(x), out, rtol=1e-3, atol=1e-3)
    norms = conv.effective_weight().flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(16), rtol=2e-4, atol=0)
    torch.testing.assert_close(conv(x, torch.tensor(0.5)), conv(x) / 2)


def test_no_gradient_points_along_a_weight() -> None:
    """So steps of plain gradient descent turn the weights, and can only make them longer."""
    conv = MPConv(8, 16)
    conv(torch.randn(5, 8)).square().sum().backward()
    assert conv.weight.grad is not None
    along = (conv.weight.grad * conv.weight).sum(1) / (conv.weight.grad.norm(dim=1) * conv.weight.norm(dim=1))
    assert along.abs().max() < 1e-3


def test_forced_normalization_gives_every_stored_weight_the_magnitude_one_and_leaves_others_alone() -> None:
    network = nn.Sequential(MPConv(8, 4, kernel=3), nn.Conv2d(4, 16, 1), MPConv(16, 3))
    others = network[1].weight.clone()
    normalize_weights(network)
    first = [network[0].weight.clone(), network[2].weight.clone()]
    for weight in first:
        torch.testing.assert_close(
            magnitude(weight, tuple(range(1, weight.dim()))).flatten(), torch.ones(len(weight)), rtol=2e-4, atol=0
        )
    assert torch.equal(network[1].weight, others)
    normalize_weights(network)
    for weight, again in zip(first, (network[0].weight, network[2].weight), strict=True):
        torch.testing.assert_close(again, weight, rtol=1e-4, atol=0)


def test_fourier_features_are_drawn_from_the_seed_stored_and_never_rounded() -> None:
    fourier = MPFourier(512)
    torch.manual_seed(0)
    assert torch.equal(MPFourier(512).freqs, fourier.freqs)
    assert set(fourier.state_dict()) == {"freqs", "phases"}
    assert fourier.freqs.std().item() == pytest.approx(2 * math.pi, rel=0.1)
    assert fourier.phases.min() >= 0
    assert 2 * math.pi - 0.1 < fourier.phases.max() <= 2 * math.pi
    x = torch.tensor([-1.5, 0.2, 1.1])
    before = fourier(x)
    expected = math.sqrt(2) * torch.cos(x.double()[:, None] * fourier.freqs.double() + fourier.phases.double())
    torch.testing.assert_close(before.double(), expected, rtol=0, atol=1e-5)
    fourier.to(torch.bfloat16)
    assert fourier.freqs.dtype == torch.float32
    assert torch.equal(fourier(x), before)


@pytest.mark.parametrize("num_heads", [0, 2])
@pytest.mark.parametrize("flavor", ["enc", "dec"])
def test_a_block_keeps_the_magnitude_of_normal_input(flavor: str, num_heads: int) -> None:
    """Attention over unrelated pixels averages them away, so with it the magnitude falls, to 0.92 at most."""
    block = MPBlock(
        48, 64, 32, flavor=flavor, num_heads=num_heads, dropout=0.0, res_balance=0.3, attn_balance=0.3, clip=256.0
    )  # fmt: skip
    size = _rms(block(torch.randn(4, 48, 16, 16), torch.randn(4, 32)))
    assert size == pytest.approx(0.7 / math.hypot(0.7, 0.3) if num_heads else 1.0, abs=0.06)


def test_a_block_cuts_activations_off() -> None:
    block = MPBlock(4, 4, 8, flavor="dec", num_heads=0, dropout=0.0, res_balance=0.3, attn_balance=0.3, clip=2.0)
    assert block(1000 * torch.randn(2, 4, 4, 4), torch.zeros(2, 8)).abs().max() == 2


def test_a_sum_with_a_matrix_product_is_the_same_compiled() -> None:
    """As of the noise's embedding and the classes'."""
    emb, classes, weight = torch.randn(5, 8), torch.randn(5, 4), torch.randn(8, 4)

    def embedding(emb: Tensor, classes: Tensor) -> Tensor:
        return mp_sum(emb, classes @ weight.T, 0.5)

    torch._dynamo.reset()
    compiled = torch.compile(embedding, fullgraph=True)
    torch.testing.assert_close(compiled(emb, classes), embedding(emb, classes))
