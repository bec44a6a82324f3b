"""The parts of the U-Nets against closed forms."""

import math
from collections.abc import Callable

import pytest
import torch

from pipeline.networks.layers import dropout, group_norm, one_hot, planar, positional_embedding, resampling


def test_the_positional_embedding_is_sines_then_cosines_from_frequency_1_to_1_in_10000() -> None:
    emb = positional_embedding(torch.tensor([0.0, 700.0], dtype=torch.float64), 8)
    frequencies = [1.0, 10_000 ** (-1 / 3), 10_000 ** (-2 / 3), 1e-4]
    expected = [math.sin(700 * f) for f in frequencies] + [math.cos(700 * f) for f in frequencies]
    assert emb[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert emb[1].tolist() == pytest.approx(expected, abs=1e-12)


def test_the_embedding_is_computed_in_float32_for_narrow_types() -> None:
    c_noise = torch.tensor([704.0])
    assert torch.equal(positional_embedding(c_noise.bfloat16(), 32), positional_embedding(c_noise, 32))


@pytest.mark.parametrize(
    ("channels", "groups"), [(256, 32), (128, 32), (64, 16), (96, 24), (384, 32), (20, 5), (144, 24), (36, 9), (2, 1)]
)
def test_group_norm_has_four_channels_a_group_and_at_most_32_groups_that_divide(channels: int, groups: int) -> None:
    norm = group_norm(channels)
    assert (norm.num_groups, norm.eps) == (groups, 1e-6)
    norm(torch.randn(2, channels, 4, 4))


def test_one_hot_rows_have_mean_square_one_or_are_zero_without_a_label() -> None:
    rows = one_hot(torch.tensor([2, -1, 0]), 4, like=torch.zeros(3, 1))
    assert rows.tolist() == [[0, 0, 2, 0], [0, 0, 0, 0], [2, 0, 0, 0]]
    assert one_hot(None, 4, like=torch.zeros(3, 1, dtype=torch.float64)).equal(torch.zeros(3, 4, dtype=torch.float64))


def test_planar_moves_every_row_to_its_place() -> None:
    names = [(head, channel, kind) for head in range(2) for channel in range(5) for kind in "qkv"]
    order = planar(torch.arange(30), num_heads=2).tolist()
    assert [names[i] for i in order] == [(h, c, kind) for kind in "qkv" for h in range(2) for c in range(5)]


def test_resampling_averages_down_and_repeats_up() -> None:
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    down = resampling("down")(x)
    assert down.tolist() == [[[[2.5, 4.5], [10.5, 12.5]]]]
    assert resampling("up")(down)[0, 0, 0].tolist() == [2.5, 2.5, 4.5, 4.5]
    assert torch.equal(resampling("none")(x), x)


@pytest.fixture(scope="module")
def compiled_dropout() -> Callable[..., torch.Tensor]:
    made: Callable[..., torch.Tensor] = torch.compile(dropout)
    return made


def _masks(compiled: Callable[..., torch.Tensor], count: int) -> torch.Tensor:
    """Which of 2^19 elements were dropped, less the share that should be; (count, 2^19), standardized."""
    ones = torch.ones(8, 64, 32, 32).to(memory_format=torch.channels_last)
    dropped = torch.stack([compiled(ones, 0.13, True) == 0 for _ in range(count)]).flatten(1)
    return (dropped.double() - 0.13) / math.sqrt(0.13 * 0.87)


def test_compiled_dropout_is_as_independent_as_chance(compiled_dropout: Callable[..., torch.Tensor]) -> None:
    """Shares, and correlations between masks and between neighbours in every direction, within 5 standard errors."""
    torch.manual_seed(0)
    masks = _masks(compiled_dropout, 4)
    allowed = 5 / math.sqrt(masks.shape[1])
    assert float(masks.mean(dim=1).abs().max()) < allowed
    between = masks @ masks.T / masks.shape[1]
    assert float((between - torch.diag(between.diagonal())).abs().max()) < allowed
    for shift in (1, 2, 32, 64, 1024, 2**11, 2**16):
        assert float((masks[0] * masks[0].roll(shift)).mean().abs()) < allowed, shift


def test_compiled_dropout_is_a_function_of_torchs_seed(compiled_dropout: Callable[..., torch.Tensor]) -> None:
    torch.manual_seed(5)
    first = _masks(compiled_dropout, 2)
    torch.manual_seed(5)
    assert torch.equal(_masks(compiled_dropout, 2), first)
    assert not torch.equal(first[0], first[1])


def test_compiled_dropout_keeps_the_mean_and_drops_the_same_gradients(
    compiled_dropout: Callable[..., torch.Tensor],
) -> None:
    x = torch.full((4, 16, 8, 8), 3.0, requires_grad=True)
    y = compiled_dropout(x, 0.25, True)
    assert set(y.unique().tolist()) == {0.0, 4.0}
    torch.autograd.backward(y.sum())
    assert x.grad is not None
    torch.testing.assert_close(x.grad, y.detach() / 3)
    assert compiled_dropout(x, 0.25, False).equal(x)
