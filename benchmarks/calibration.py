"""How often the 95 % intervals of a Frechet distance hold what they are of, on distributions whose truth is known:
`python -m benchmarks.calibration [--json FILE] [--case gaussian/256/5] [--seconds 150]`.

Repetition k of a case has its own random numbers, so a file that is there is gone on with, in as many pieces as one
likes; without one, all is computed at once. The truth of the limit is exact. That of the mean distance of n images is
the mean over all repetitions.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.frechet import frechet_distance
from pipeline.metrics.leverage import Expansion
from pipeline.metrics.limit import limit_interval
from pipeline.metrics.moments import Gaussian, Moments
from pipeline.metrics.uncertainty import influences, interval

REPETITIONS = 2000
SEED = 5
CLASSES = 10
Array = NDArray[np.float64]
Draw = Callable[[int, int, np.random.Generator], Array]

MIXTURE_SHARE = 0.3  # of the first of two groups
_SHIFTS = (1.4, -0.6)  # of their means, by sqrt(d); so that the mean of all is zero
_SCALES = (1.5, 0.7)


def gaussian(n: int, d: int, random: np.random.Generator) -> Array:
    return random.standard_normal((n, d))


def mixture(n: int, d: int, random: np.random.Generator) -> Array:
    """Two groups of unlike means and scales: heavy tails, as features have them."""
    first = random.random(n) < MIXTURE_SHARE
    x = random.standard_normal((n, d)) * np.where(first, *_SCALES)[:, None]
    return x + (np.where(first, *_SHIFTS) / np.sqrt(d))[:, None]


def shapes(n: int, d: int, random: np.random.Generator) -> Array:
    """Two groups of unlike means and covariances: each is wide where the other is narrow."""
    first = random.random(n) < MIXTURE_SHARE
    x = random.standard_normal((n, d)) * np.where(first[:, None], *_axes(d))
    return x + (np.where(first, *_SHIFTS) / np.sqrt(d))[:, None]


def classes(n: int, d: int, random: np.random.Generator) -> Array:
    """Ten classes of unlike means and scales, each with a tenth of the images by design: image i is of i mod 10."""
    means, scales = _classes(d)
    label = np.arange(n) % CLASSES
    return random.standard_normal((n, d)) * scales[label][:, None] + means[label]


def _classes(d: int) -> tuple[Array, Array]:
    means = 4 * np.eye(d)[:CLASSES]
    return means - means.mean(axis=0), np.linspace(0.7, 1.3, CLASSES)


def _axes(d: int) -> tuple[Array, Array]:
    half = np.arange(d) < d // 2
    return np.where(half, 1.5, 0.3), np.where(half, 0.4, 1.2)


def _covariance(draw: Draw, d: int) -> Array:
    if draw is gaussian:
        return np.eye(d)
    if draw is classes:
        means, scales = _classes(d)
        return np.asarray(np.mean(scales**2) * np.eye(d) + means.T @ means / CLASSES)
    shares = (MIXTURE_SHARE, 1 - MIXTURE_SHARE)
    between = sum(share * shift**2 for share, shift in zip(shares, _SHIFTS, strict=True)) / d
    axes = _axes(d) if draw is shapes else tuple(np.full(d, scale) for scale in _SCALES)
    within = sum(share * axis**2 for share, axis in zip(shares, axes, strict=True))
    return np.asarray(np.diag(within) + between * np.ones((d, d)))


DRAWS: dict[str, Draw] = {"gaussian": gaussian, "mixture": mixture, "shapes": shapes, "classes": classes}


@dataclass(frozen=True)
class Case:
    """A distribution of features and a reference.

    Args:
        draw: a name in DRAWS.
        d: the number of features.
        ratio: images by features.
        null: the reference is the distribution itself.
    """

    draw: str
    d: int
    ratio: float
    null: bool = False

    @property
    def name(self) -> str:
        return f"{self.draw}/{self.d}/{self.ratio:g}" + ("/null" if self.null else "")

    @property
    def count(self) -> int:
        return round(self.ratio * self.d)

    def truth(self) -> tuple[Array, Array, Gaussian, Gaussian]:
        """Mean and factor that draws are shifted and carried by, their Gaussian, and the reference."""
        random = np.random.default_rng([SEED, self.d])
        d = self.d
        factor = np.linalg.qr(random.normal(size=(d, d)))[0] * np.exp(random.normal(0, 0.5, d))
        axes = np.linalg.qr(random.normal(size=(d, d)))[0]
        mean = 2 * random.normal(size=d) / np.sqrt(d)
        images = Gaussian(mean, factor @ _covariance(DRAWS[self.draw], d) @ factor.T)
        other = Gaussian(np.zeros(d), (axes * np.linspace(0.3, 3, d)) @ axes.T)
        return mean, factor, images, images if self.null else other

    def repetitions(self, indices: range) -> Iterator[list[float]]:
        """Of each: the distance and its interval, the limit and its interval."""
        mean, factor, _, reference = self.truth()
        strata = np.arange(self.count) % CLASSES if self.draw == "classes" else None
        for index in indices:
            random = np.random.default_rng([SEED, self.d, round(1000 * self.ratio), index])
            x = DRAWS[self.draw](self.count, self.d, random) @ factor.T + mean
            images = Moments.of(x).gaussian()
            expansion = Expansion.on(images, reference)
            leverages = expansion.of(x, strata)
            distance = frechet_distance(images, reference).value
            here = interval(distance, influences(expansion, leverages), strata).at_least(0.0)
            limit = limit_interval(distance, expansion, leverages)
            yield [distance, here.low, here.high, limit.value, limit.low, limit.high]


CASES = [
    *(Case(draw, d, ratio) for draw in DRAWS for d in (16, 256) for ratio in (5, 25)),
    *(Case(draw, d, 5, null=True) for draw in ("gaussian", "mixture", "classes") for d in (16, 256)),
    *(Case("mixture", d, 2) for d in (16, 256)),
]


@dataclass(frozen=True)
class Coverage:
    """What came of a case: shares of intervals that hold their estimand, and what the estimates are about."""

    repetitions: int
    mean: float
    mean_coverage: float
    limit: float
    limit_mean: float
    limit_deviation: float
    limit_coverage: float


def coverage(case: Case, rows: Array) -> Coverage:
    """Of repetitions, shape (R, 6)."""
    distance, low, high, limit, limit_low, limit_high = rows.T
    _, _, images, reference = case.truth()
    true = frechet_distance(images, reference).value
    mean = float(distance.mean())
    held, limit_held = (low <= mean) & (mean <= high), (limit_low <= true + 1e-9) & (true <= limit_high)
    return Coverage(
        len(rows), mean, float(held.mean()), true, float(limit.mean()), float(limit.std()), float(limit_held.mean())
    )


def table(found: dict[str, list[list[float]]]) -> str:
    lines = [
        "| distribution / features / images by features | repetitions | mean distance | held | limit | mean estimate "
        "(spread) | held |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for case in CASES:
        if found.get(case.name):
            c = coverage(case, np.array(found[case.name]))
            lines.append(
                f"| {case.name} | {c.repetitions:,} | {c.mean:.3f} | {c.mean_coverage:.1%} | {c.limit:.3f} "
                f"| {c.limit_mean:.3f} ({c.limit_deviation:.3f}) | {c.limit_coverage:.1%} |"
            )
    return "\n".join(lines)


def _fill(case: Case, rows: list[list[float]], repetitions: int, until: float) -> None:
    for row in case.repetitions(range(len(rows), repetitions)):
        rows.append(row)
        if time.monotonic() > until:
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="what was found so far; gone on with, and written again")
    parser.add_argument(
        "--case", action="append", help="by name; all of them by default", choices=[c.name for c in CASES]
    )
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop then; the same command goes on")
    args = parser.parse_args()
    until = time.monotonic() + args.seconds
    found: dict[str, list[list[float]]] = {}
    if args.json and args.json.exists():
        found = json.loads(args.json.read_text(encoding="utf-8"))
    for case in CASES:
        if time.monotonic() < until and (not args.case or case.name in args.case):
            _fill(case, found.setdefault(case.name, []), args.repetitions, until)
            if args.json:
                args.json.write_text(json.dumps(found), encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
