"""Does the distance to converged trajectories rank settings as the Frechet distance does?

    python -m benchmarks.cheap_metric --store runs/fashion-mnist/store --training fashion-mnist \
        --dataset train-images --classifier-dataset test-images --execution "{compile: ahead, convolution: winograd}"

Over the 64 deterministic settings of `search_against_grid` (whose images are taken where they are there): the distance
of 500 seeds to their own converged trajectories, against the Frechet distance of 525 images. Told is Kendall's tau
and Spearman's rho with their 95 % intervals over the settings (bootstrap); and tau among the pairs of equal NFE alone,
since more steps mend both numbers. How each number agrees with itself on the other half of its images stands beside it:
no two different numbers can agree better than that.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from benchmarks.search_against_grid import FULL, QUICK, Bench, Size, arguments, make_bench
from pipeline.config.measuring import TrajectorySettings
from pipeline.data.trajectories import read_errors
from pipeline.engine.evaluation import evaluate
from pipeline.engine.generation import PointResult, Seeds
from pipeline.engine.session import session
from pipeline.engine.trajectories import converge, reference_point
from pipeline.metrics.rank_correlation import RankCorrelation, rank_correlation
from pipeline.metrics.trajectory import TrajectoryError


@dataclass(frozen=True)
class Measured:
    """One setting: both numbers, whole and of each half of the images."""

    name: str
    nfe: float
    rmse: float
    distance: float
    rmse_halves: tuple[float, float]
    distance_halves: tuple[float, float]


def measure(bench: Bench, size: Size, num_seeds: int) -> list[Measured]:
    points, seeds = bench.grid(), Seeds(bench.settings.first_seed, size.images[-1])
    results, found = bench.measured(points, seeds)
    cheap = TrajectorySettings(num_seeds=num_seeds)
    converged = converge(bench.store, points, cheap, seeds, bench.settings.execution, bench.actors)
    measured = []
    for result, evaluation in zip(results, found, strict=True):
        error = converged.error_of(result.point, result.samples_digest)
        reference = converged.digests[reference_point(result.point, cheap)]
        errors = read_errors(bench.store, result.samples_digest, reference, seeds.first, num_seeds)
        assert error is not None
        assert errors is not None
        half = num_seeds // 2
        rmse = (TrajectoryError.of(errors[:half]).rmse, TrajectoryError.of(errors[half:]).rmse)
        halves = _distances_of_halves(bench, result, seeds)
        measured.append(
            Measured(result.point.name, result.nfe, error.rmse, evaluation.distance, rmse, halves)
        )  # fmt: skip
    return measured


def _distances_of_halves(bench: Bench, result: PointResult, seeds: Seeds) -> tuple[float, float]:
    half, measure = seeds.count // 2, bench.measures[0]
    one, two = (
        evaluate(bench.store, [result], Seeds(first, half), measure.plan, measure.reference)[0].distance
        for first in (seeds.first, seeds.first + half)
    )
    return one, two


def among_equal_nfe(measured: Sequence[Measured]) -> tuple[float, int]:
    """Kendall's tau of the pairs of equal NFE alone, and how many these are."""
    pairs = [(a, b) for a, b in combinations(measured, 2) if a.nfe == b.nfe]
    signs = [_sign(a.rmse - b.rmse) * _sign(a.distance - b.distance) for a, b in pairs]
    return sum(signs) / max(len(signs), 1), len(pairs)


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def correlations(measured: Sequence[Measured]) -> dict[str, RankCorrelation]:
    columns = {
        "RMSE and distance": ([m.rmse for m in measured], [m.distance for m in measured]),
        "RMSE with itself, other seeds": ([m.rmse_halves[0] for m in measured], [m.rmse_halves[1] for m in measured]),
        "distance with itself, other images": (
            [m.distance_halves[0] for m in measured], [m.distance_halves[1] for m in measured]
        ),
    }  # fmt: skip
    return {name: rank_correlation(*numbers) for name, numbers in columns.items()}


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(__doc__, argv)
    size, num_seeds = (QUICK, 20) if options.quick else (FULL, 500)
    with session():
        bench = make_bench(options, size, budget=1.0)
        measured = measure(bench, size, num_seeds)
    found = correlations(measured)
    for name, correlation in found.items():
        print(f"{name}: {correlation}")
    tau, pairs = among_equal_nfe(measured)
    print(f"RMSE and distance among the {pairs} pairs of equal NFE: Kendall's tau {tau:.2f}")
    if options.json:
        content: dict[str, Any] = {"measured": [asdict(one) for one in measured], "among_equal_nfe": [tau, pairs]}
        content["correlations"] = {name: asdict(correlation) for name, correlation in found.items()}
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
