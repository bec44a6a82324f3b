"""The order of images: permutations of (seed, epoch), the same however they are asked for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pipeline.data.order import image_index


def _epoch(seed: int, epoch: int, n: int) -> np.ndarray:
    return image_index(seed, np.arange(epoch * n, (epoch + 1) * n), n)


@settings(deadline=None, max_examples=60)
@given(st.integers(-(2**70), 2**70), st.integers(0, 2**40), st.integers(1, 500))
def test_every_epoch_is_a_permutation(seed: int, epoch: int, n: int) -> None:
    assert sorted(_epoch(seed, epoch, n)) == list(range(n))


def test_epochs_and_seeds_have_different_orders() -> None:
    orders = [_epoch(seed, epoch, 1000) for seed in range(4) for epoch in range(4)]
    for i, first in enumerate(orders):
        for second in orders[:i]:
            assert (first == second).sum() < 10  # one is expected by chance


def test_a_position_has_its_image_however_the_stream_is_sliced() -> None:
    whole = image_index(7, np.arange(500), 60)
    one_by_one = [int(image_index(7, np.array([position]), 60)[0]) for position in range(500)]
    backwards = image_index(7, np.arange(499, -1, -1), 60)[::-1]
    by_two_ranks = np.stack([image_index(7, np.arange(rank, 500, 2), 60) for rank in range(2)], axis=1).reshape(-1)
    for other in (one_by_one, backwards, by_two_ranks, image_index(7, np.arange(500).reshape(25, 20), 60).reshape(-1)):
        np.testing.assert_array_equal(other, whole)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_all_permutations_of_few_images_come_equally_often(n: int) -> None:
    orders = image_index(3, np.arange(n * 5000), n).reshape(5000, n)
    found, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(found) == {2: 2, 3: 6, 4: 24}[n]
    assert stats.chisquare(counts).pvalue > 1e-3


def test_neighbours_in_an_epoch_are_unrelated() -> None:
    order = _epoch(0, 0, 50_000)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(order, np.arange(50_000))[0, 1]) < 0.02
    assert stats.chisquare(np.bincount(order[:5000] // 500, minlength=100)).pvalue > 1e-3


def test_the_order_is_the_one_of_an_independent_splitmix() -> None:
    """In Python's own integers: fails where the order of existing trainings would change."""
    word, golden = 2**64 - 1, 0x9E3779B97F4A7C15

    def mix(x: int) -> int:
        x = (x + golden) & word
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & word
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & word
        return x ^ (x >> 31)

    for seed, epoch in ((0, 0), (1, 5), (-3, 2)):
        key = mix((mix(seed & word) + epoch) & word)
        expected = sorted(range(40), key=lambda image: mix((key + image * golden) & word))
        assert _epoch(seed, epoch, 40).tolist() == expected
    assert mix(0) == 0xE220A8397B1DCDAF  # the first output of splitmix64 for seed 0, as published


@pytest.mark.parametrize(("position", "n"), [([-1], 5), ([0], 0)])
def test_impossible_positions_are_refused(position: list[int], n: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        image_index(0, np.array(position), n)


def test_no_positions_give_no_images() -> None:
    assert image_index(0, np.array([], np.int64), 3).shape == (0,)
