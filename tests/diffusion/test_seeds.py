"""The generator: published answers, a second implementation, independence, distributions, Brownian paths."""

import math

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.diffusion.seeds import CHURN, INITIAL, Noise, draw, normal, philox, uniform

LARGEST = 2**63 - 1


def tensor_philox(key: list[int], counter: list[int]) -> list[int]:
    k0, k1 = (torch.tensor([word]) for word in key)
    c0, c1, c2, c3 = (torch.tensor([word]) for word in counter)
    return [int(word) for word in philox((k0, k1), (c0, c1, c2, c3))]


def plain_philox(key: list[int], counter: list[int], rounds: int = 10) -> list[int]:
    """Salmon et al. 2011, section 3.3, with Python's unbounded integers."""
    (k0, k1), (a, b, c, d) = key, counter
    for _ in range(rounds):
        left, right = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (right >> 32) ^ b ^ k0, right % 2**32, (left >> 32) ^ d ^ k1, left % 2**32
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [a, b, c, d]


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_known_answers_of_random123(counter, key, answer):
    def words(text: str) -> list[int]:
        return [int(word, 16) for word in text.split()]

    assert tensor_philox(words(key), words(counter)) == words(answer)
    assert plain_philox(words(key), words(counter)) == words(answer)


WORD = st.integers(0, 2**32 - 1)


@settings(max_examples=200, deadline=None)
@given(key=st.tuples(WORD, WORD), counter=st.tuples(WORD, WORD, WORD, WORD))
def test_philox_agrees_with_unbounded_integers(key, counter):
    assert tensor_philox(list(key), list(counter)) == plain_philox(list(key), list(counter))


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32, 2**40 + 7, LARGEST])
@pytest.mark.parametrize("draw_number", [draw(INITIAL, 0), draw(CHURN, 3), draw(7, 2**32 - 1)])
def test_numbers_are_philox_of_seed_and_draw(seed, draw_number):
    """key = seed, counter = (element / 4, 0, draw), Box-Muller on words (0, 1) and (2, 3)."""
    key = [seed % 2**32, seed >> 32]
    uniforms, normals = [], []
    for block in range(3):
        words = plain_philox(key, [block, 0, draw_number % 2**32, draw_number >> 32])
        u = [(word + 0.5) / 2**32 for word in words]
        uniforms += u
        for first, second in ((u[0], u[1]), (u[2], u[3])):
            radius, angle = math.sqrt(-2 * math.log(first)), 2 * math.pi * second
            normals += [radius * math.cos(angle), radius * math.sin(angle)]
    seeds = torch.tensor([seed])
    assert uniform(seeds, draw_number, 11)[0].tolist() == uniforms[:11]
    assert normal(seeds, draw_number, (11,))[0].tolist() == pytest.approx(normals[:11], rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("shape", [(1,), (3,), (1, 1, 1), (3, 5, 7), (1, 28, 28), (2, 3, 4, 5)])
def test_noise_does_not_depend_on_the_company_bit_for_bit(shape):
    seeds = torch.tensor([5, 0, 2**33, LARGEST, *range(100, 133)])
    together = normal(seeds, draw(INITIAL, 0), shape)
    assert together.shape == (len(seeds), *shape)
    assert together.dtype == torch.float64
    for index, seed in enumerate(seeds):
        assert torch.equal(normal(seed[None], draw(INITIAL, 0), shape)[0], together[index])
    order = torch.randperm(len(seeds), generator=torch.Generator().manual_seed(1))
    assert torch.equal(normal(seeds[order], draw(INITIAL, 0), shape), together[order])
    for cut in (1, 2, 8, 19):
        assert torch.equal(normal(seeds[:cut], draw(INITIAL, 0), shape), together[:cut])


def test_a_large_batch_is_the_single_ones_bit_for_bit():
    seeds = torch.arange(3000)
    together = normal(seeds, draw(CHURN, 9), (3, 8, 8))
    for seed in (0, 1, 777, 2048, 2999):
        assert torch.equal(normal(torch.tensor([seed]), draw(CHURN, 9), (3, 8, 8))[0], together[seed])


def test_draws_may_differ_from_sample_to_sample():
    seeds, draws = torch.tensor([3, 3, 9]), torch.tensor([draw(CHURN, 0), draw(CHURN, 1), draw(CHURN, 0)])
    together = normal(seeds, draws, (5,))
    for index in range(3):
        assert torch.equal(together[index], normal(seeds[index : index + 1], int(draws[index]), (5,))[0])


def test_a_selection_of_noise_is_the_noise_of_the_selected():
    noise = Noise(torch.arange(10), (1, 4, 4))
    index = torch.tensor([7, 2])
    t = torch.tensor([0.25, 0.75], dtype=torch.float64)
    whole = torch.zeros(10, dtype=torch.float64)
    whole[index] = t
    some = noise.select(index)
    assert torch.equal(some.normal(5), noise.normal(5)[index])
    assert torch.equal(some.uniform(5), noise.uniform(5)[index])
    assert torch.equal(some.increment(torch.zeros_like(t), t), noise.increment(torch.zeros_like(whole), whole)[index])


@pytest.mark.parametrize("first_seed", [0, 10**6, 2**62])
def test_the_noise_is_standard_normal(first_seed):
    seeds = torch.arange(first_seed, first_seed + 200)
    values = normal(seeds, draw(INITIAL, 0), (500,))
    assert scipy.stats.kstest(values.flatten().numpy(), "norm").pvalue > 0.01
    # 500 draws of 200 seeds: each mean is within 5 standard errors, of all and of every seed.
    assert values.mean().abs().item() < 5 / math.sqrt(values.numel())
    assert values.mean(dim=1).abs().max().item() < 5 / math.sqrt(500)
    assert bool(values.isfinite().all())


def test_uniform_numbers_are_uniform():
    values = uniform(torch.arange(20_000), draw(INITIAL, 0), 5)
    assert scipy.stats.kstest(values.flatten().numpy(), "uniform").pvalue > 0.01
    assert values.min() > 0
    assert values.max() < 1


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


def test_neighbouring_seeds_draws_streams_and_elements_are_uncorrelated():
    """Of 40,000 numbers a correlation has standard deviation 0.005."""
    seeds, shape = torch.arange(400), (100,)
    base = normal(seeds, draw(INITIAL, 0), shape)
    assert abs(correlation(base, normal(seeds + 1, draw(INITIAL, 0), shape))) < 0.02
    assert abs(correlation(base, normal(seeds + 2**32, draw(INITIAL, 0), shape))) < 0.02
    assert abs(correlation(base, normal(seeds, draw(INITIAL, 1), shape))) < 0.02
    assert abs(correlation(base, normal(seeds, draw(CHURN, 0), shape))) < 0.02
    assert abs(correlation(base[:, ::2], base[:, 1::2])) < 0.02
    assert abs(correlation(base[:, ::2] ** 2, base[:, 1::2] ** 2)) < 0.02, "the pairs of Box-Muller"
    assert base.unique().numel() == base.numel()


# Brownian paths. 2,000 samples of 4 elements: 8,000 paths.
PATHS = Noise(torch.arange(2000), (4,))


def increment(a: float, b: float, noise: Noise = PATHS) -> torch.Tensor:
    ones = torch.ones(len(noise.seeds), dtype=torch.float64)
    return noise.increment(a * ones, b * ones)


def test_increments_add_up():
    torch.testing.assert_close(
        increment(0.1, 0.35) + increment(0.35, 0.9), increment(0.1, 0.9), rtol=0, atol=1e-13
    )  # fmt: skip
    assert torch.equal(increment(0.3, 0.3), torch.zeros(2000, 4, dtype=torch.float64))
    assert torch.equal(increment(0.8, 0.2), -increment(0.2, 0.8))


@pytest.mark.parametrize("limits", [(0.0, 1.0), (0.0, 0.5), (0.5, 1.0), (0.25, 0.3), (0.123, 0.877), (0.7, 0.2)])
def test_an_increment_is_normal_with_the_time_as_variance(limits):
    scaled = increment(*limits) / math.sqrt(abs(limits[1] - limits[0]))
    assert scipy.stats.kstest(scaled.flatten().numpy(), "norm").pvalue > 0.01
    assert scaled.var().item() == pytest.approx(1.0, abs=5 * math.sqrt(2 / 8000))


@pytest.mark.parametrize(
    ("one", "other"), [((0.0, 0.5), (0.5, 1.0)), ((0.1, 0.2), (0.2, 0.45)), ((0.0, 0.25), (0.75, 0.9))]
)
def test_increments_over_disjoint_times_are_independent(one, other):
    a, b = increment(*one), increment(*other)
    assert abs(correlation(a, b)) < 5 / math.sqrt(8000)
    assert abs(correlation(a**2, b**2)) < 5 / math.sqrt(8000)


def test_refining_the_grid_refines_the_same_path():
    noise = Noise(torch.tensor([3, LARGEST]), (5,))
    coarse = increment(0.0, 1.0, noise)
    for pieces in (2, 8, 13):
        parts = sum(increment(i / pieces, (i + 1) / pieces, noise) for i in range(pieces))
        torch.testing.assert_close(parts, coarse, rtol=0, atol=1e-13)


def test_every_sample_may_ask_at_its_own_time():
    noise = Noise(torch.arange(12), (3,))
    t_a, t_b = (uniform(torch.arange(12), index)[:, 0] for index in (1, 2))
    together = noise.increment(t_a, t_b)
    for index in range(12):
        alone = noise.select(torch.tensor([index])).increment(t_a[index : index + 1], t_b[index : index + 1])
        assert torch.equal(alone[0], together[index])


# The noise of steps: 2,000 samples of 4 elements.
def between(sigma: float, sigma_next: float, noise: Noise = PATHS) -> torch.Tensor:
    ones = torch.ones(len(noise.seeds), dtype=torch.float64)
    return noise.between(sigma * ones, sigma_next * ones)


@pytest.mark.parametrize("levels", [(80.0, 57.6), (1.0, 0.999), (0.003, 0.002), (5e4, 2e4), (1e-5, 1e-6), (2.0, 2.0)])
def test_the_noise_of_a_step_is_standard_normal(levels):
    values = between(*levels)
    assert scipy.stats.kstest(values.flatten().numpy(), "norm").pvalue > 0.01
    assert values.var().item() == pytest.approx(1.0, abs=5 * math.sqrt(2 / 8000))


def test_steps_over_disjoint_levels_have_independent_noise():
    a, b = between(10.0, 3.0), between(3.0, 2.9)
    assert abs(correlation(a, b)) < 5 / math.sqrt(8000)
    assert abs(correlation(a**2, b**2)) < 5 / math.sqrt(8000)


def test_the_noise_of_a_step_is_made_of_the_noise_of_its_parts():
    """In ln sigma, 8 -> 4 -> 1 has parts of 1/3 and 2/3; levels are rounded to the clock's ticks."""
    whole, first, second = between(8.0, 1.0), between(8.0, 4.0), between(4.0, 1.0)
    torch.testing.assert_close(math.sqrt(1 / 3) * first + math.sqrt(2 / 3) * second, whole, rtol=0, atol=2e-3)


def test_asking_in_another_order_or_on_another_branch():
    noise = Noise(torch.arange(5), (3,))
    there = [between(a, b, noise) for a, b in ((80.0, 10.0), (10.0, 1.0), (1.0, 0.1))]
    back = [between(a, b, Noise(torch.arange(5), (3,))) for a, b in ((1.0, 0.1), (10.0, 1.0), (80.0, 10.0))]
    assert all(torch.equal(one, other) for one, other in zip(there, back[::-1], strict=True))
    some = torch.tensor([True, False, True, False, False])
    branched = between(10.0, 1.0, noise.branch(some, 7))
    assert torch.equal(branched[~some], there[1][~some])
    assert (branched - there[1])[some].abs().min() > 0
    chosen = noise.branch(some, 7).select(torch.tensor([2, 1]))
    assert torch.equal(between(10.0, 1.0, chosen), branched[[2, 1]])
