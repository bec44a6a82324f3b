"""Noise as a function of (seed, draw), whatever the batch, the worker and the order of the work.

Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011) is a bijection of a
128-bit counter under a 64-bit key: the key is the seed, the counter is (element, draw). No state is kept anywhere.
It is written in int64 tensor operations, so that any device gives the same integers.
"""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

# Streams keep the purposes of draws apart: draw = stream * 2**32 + index.
INITIAL, CHURN, SOLVER, RENOISE, LABEL, PATH, TRAINING, DROPOUT, TRAINING_NOISE, LABEL_DROPOUT, AUGMENTATION = range(11)

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def draw(stream: int, index: int) -> int:
    """The number of one draw of a stream; index < 2**32."""
    return (stream << 32) | index


def _multiply(factor: int, value: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a 32 x 32 bit product; int64 wraps, which leaves the bits of the unsigned product."""
    product = value * factor
    return (product >> 32) & _MASK, product & _MASK


def philox(key: tuple[Tensor, Tensor], counter: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Philox4x32-10 on words of 32 bits held in int64 tensors, which broadcast. Returns four words."""
    k0, k1 = key
    c0, c1, c2, c3 = counter
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(_MULTIPLIERS[0], c0)
        high1, low1 = _multiply(_MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def _words(seeds: Tensor, draws: Tensor, count: int) -> tuple[Tensor, ...]:
    """Four 32-bit words for each of `count` counters of each (seed, draw), each of shape (N, count)."""
    seeds, draws = seeds[:, None], draws[:, None]
    element = torch.arange(count, dtype=torch.int64, device=seeds.device)[None, :]
    counter = (element, torch.zeros_like(element), draws & _MASK, (draws >> 32) & _MASK)
    return philox((seeds & _MASK, (seeds >> 32) & _MASK), counter)


def _unit(word: Tensor) -> Tensor:
    """32 bits as float64, strictly between 0 and 1."""
    return (word.to(torch.float64) + 0.5) * 2.0**-32


def uniform(seeds: Tensor, draws: Tensor | int, count: int = 1) -> Tensor:
    """Uniform numbers strictly between 0 and 1, of 32 bits.

    Args:
        seeds: int64 of shape (N,).
        draws: the number of the draw, one for all or int64 of shape (N,).
        count: how many for each seed.

    Returns:
        float64 of shape (N, count).
    """
    words = _words(seeds, _as_draws(draws, seeds), (count + 3) // 4)
    return torch.stack([_unit(word) for word in words], dim=-1).flatten(1)[:, :count]


def normal(seeds: Tensor, draws: Tensor | int, shape: Sequence[int]) -> Tensor:
    """Standard normal numbers by Box-Muller from uniforms of 32 bits, so none is beyond 6.8.

    Args:
        seeds: int64 of shape (N,).
        draws: the number of the draw, one for all or int64 of shape (N,).
        shape: of one sample.

    Returns:
        float64 of shape (N, *shape). Bits agree on one kind of device; between kinds to about 1e-15.
    """
    count = math.prod(shape)
    words = _words(seeds, _as_draws(draws, seeds), (count + 3) // 4)
    pairs = []
    for word, other in (words[:2], words[2:]):
        radius, angle = (-2 * _unit(word).log()).sqrt(), 2 * math.pi * _unit(other)
        pairs += [radius * angle.cos(), radius * angle.sin()]
    return torch.stack(pairs, dim=-1).flatten(1)[:, :count].reshape(-1, *shape)


def placed(values: Tensor, device: torch.device) -> Tensor:
    """Values of shape (N,) from the CPU on a device, whose queue need not be empty for that: a GPU takes a number that
    all share with the order to write it, and others from pinned memory."""
    if values.device == device or device.type != "cuda":
        return values.to(device)
    if bool((values == values[0]).all()):
        return torch.full(values.shape, values[0].item(), dtype=values.dtype, device=device)
    return values.pin_memory().to(device, non_blocking=True)


def _as_draws(draws: Tensor | int, seeds: Tensor) -> Tensor:
    if isinstance(draws, int):
        return torch.full_like(seeds, draws)
    return placed(draws, seeds.device)


class Noise:
    """All the randomness of a batch of samples. Solvers ask it, and never a global generator.

    Args:
        seeds: int64 of shape (N,), one a sample, on the device where the noise is wanted.
        shape: of one sample, (C, H, W).
        branch: which of its Brownian paths each sample is on, int64 of shape (N,), on the CPU; empty is the first for
            all.
    """

    def __init__(self, seeds: Tensor, shape: Sequence[int], branch: Tensor | None = None) -> None:
        self.seeds = seeds
        self.shape = tuple(shape)
        self._branch = torch.zeros(len(seeds), dtype=torch.int64) if branch is None else branch
        self._descent: list[tuple[Tensor, Tensor, Tensor]] = []  # node, left and right end of the last way down

    def normal(self, draw: Tensor | int) -> Tensor:
        """Standard normal noise of shape (N, *shape), float64; the same draw gives the same noise."""
        return normal(self.seeds, draw, self.shape)

    def uniform(self, draw: Tensor | int) -> Tensor:
        """One uniform number a sample, shape (N,)."""
        return uniform(self.seeds, draw)[:, 0]

    def between(self, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        """The standard normal noise that belongs to a step from sigma down to sigma_next, whatever the grid.

        It is the increment of one Brownian path a sample, whose clock is ln sigma, divided by its standard deviation.
        So steps over disjoint intervals have independent noise, a step and the parts of it have noise that fits
        together, and refining the grid refines the same path. Levels are told apart to a factor of 1.0003; the clock
        runs from 1e-4 to 1e4.

        Args:
            sigma: float64 of shape (N,), on the CPU.
            sigma_next: likewise, less than sigma.

        Returns:
            float64 of shape (N, *shape).
        """
        ticks = 2**_CLOCK_DEPTH
        upper = _clock(sigma).mul(ticks).round().clamp(1, ticks)
        lower = torch.minimum(_clock(sigma_next).mul(ticks).round(), upper - 1).clamp(min=0)
        increment = self._path(upper / ticks, _CLOCK_DEPTH) - self._path(lower / ticks, _CLOCK_DEPTH)
        return increment * self._column(((upper - lower) / ticks).rsqrt())

    def increment(self, t_a: Tensor, t_b: Tensor, depth: int = 20) -> Tensor:
        """W(t_b) - W(t_a) of one Brownian path a sample on [0, 1], whatever the grid that asks.

        Each midpoint of a dyadic interval is drawn once, keyed by the seed and the interval (a Brownian bridge, Levy's
        construction), so refining the grid refines the same path. Below 2**-depth the path is linear: times are best
        multiples of it.

        Args:
            t_a: times in [0, 1], float64 of shape (N,), on the CPU.
            t_b: likewise.

        Returns:
            float64 of shape (N, *shape), of variance |t_b - t_a|.
        """
        return self._path(t_b, depth) - self._path(t_a, depth)

    def select(self, index: Tensor) -> "Noise":
        """The same noise for some of the samples."""
        return Noise(self.seeds[index], self.shape, self._branch[index])

    def branch(self, where: Tensor, number: int) -> "Noise":
        """The same noise but for the paths of some samples, which are others from here on: they go over levels again
        that they have been at, and must not meet the noise of before.

        Args:
            where: which samples, bool of shape (N,), on the CPU.
            number: of the path, 1 or more, less than 2**23.
        """
        return Noise(self.seeds, self.shape, torch.where(where, number, self._branch))

    def _column(self, values: Tensor) -> Tensor:
        """(N,) as (N, 1, ..., 1), where the noise is."""
        return placed(values, self.seeds.device).reshape(-1, *[1] * len(self.shape))

    def _path(self, t: Tensor, depth: int) -> Tensor:
        """W(t). The way down to the last time asked is kept, since the next one mostly shares its beginning."""
        left = torch.zeros(len(self.seeds), *self.shape, dtype=torch.float64, device=self.seeds.device)
        stream = ((self._branch << 8) + PATH) << 32
        if not self._descent:
            self._descent = [(torch.ones_like(self._branch), left, self.normal(stream))]
        node, start, width = self._descent[0][0], torch.zeros_like(t), 1.0
        new: list[tuple[Tensor, Tensor, Tensor]] = []  # node, child, and whether that is the upper one, on the way down
        for level in range(depth):
            upper = t >= start + width / 2
            child = 2 * node + upper.long()
            if new or level + 1 == len(self._descent) or not torch.equal(self._descent[level + 1][0], child):
                new.append((node, child, upper))
            width /= 2
            node, start = child, start + width * upper
        known = depth - len(new)
        del self._descent[known + 1 :]
        for level, (draws, (_, child, upper)) in enumerate(zip(self._each(stream, new), new, strict=True), known):
            _, left, right = self._descent[level]
            middle = (left + right) / 2 + math.sqrt(0.5**level) / 2 * draws
            where = self._column(upper)
            self._descent.append((child, torch.where(where, middle, left), torch.where(where, right, middle)))
        _, left, right = self._descent[depth]
        return left + self._column((t - start) / width) * (right - left)

    def _each(self, stream: Tensor, new: Sequence[tuple[Tensor, ...]]) -> Iterable[Tensor]:
        """The normal noise of every node. All at once where operations are dear, one by one where memory is."""
        if self.seeds.device.type == "cpu" or not new:
            return (self.normal(stream + node) for node, *_ in new)
        draws = torch.cat([stream + node for node, *_ in new])
        return normal(self.seeds.repeat(len(new)), draws, self.shape).chunk(len(new))


_CLOCK_DEPTH = 16
_CLOCK_START, _CLOCK_END = math.log(1e-4), math.log(1e4)


def _clock(sigma: Tensor) -> Tensor:
    """ln sigma as a share of the clock's range."""
    return ((sigma.log() - _CLOCK_START) / (_CLOCK_END - _CLOCK_START)).clamp(0, 1)
