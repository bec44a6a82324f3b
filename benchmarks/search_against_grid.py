"""Search against brute force: both find a winner, and both winners are measured again on fresh seeds, in pairs.

    python -m benchmarks.search_against_grid --store runs/fashion-mnist/store --training fashion-mnist \
        --dataset train-images --classifier-dataset test-images --execution "{compile: ahead, convolution: winograd}"

The grid is 4 deterministic solvers x 4 numbers of steps x 4 values of rho = 64 settings. The search has the same
space, with all values between, and a fifth of the grid's network evaluations. Then the two settings of the least
distance are measured on 5,000 seeds that neither was chosen by; told is by how much the search's is worse, with the
upper end of the 95 % interval of the paired difference. Exit code 1 where that end is 3 % or more, or the search spent
more than a fifth.

An hour or so on two busy cores for a network of a million parameters; started again it goes on where it was. `--quick`
(100 images of 12 settings) takes two minutes and shows only that it works: so few images tell no winner.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from jobs.context import point_of
from pipeline.config.load import validate
from pipeline.config.measuring import MetricSettings
from pipeline.config.search import SearchSettings
from pipeline.data.store import Store
from pipeline.engine.evaluation import Evaluation, evaluate
from pipeline.engine.generation import PointResult, Seeds, generate
from pipeline.engine.measures import Measure, build_measures
from pipeline.engine.search import Search
from pipeline.engine.session import session
from pipeline.engine.trials import front
from pipeline.engine.work import Actors, Point
from pipeline.metrics.paired import compare as compare_pairs
from pipeline.metrics.uncertainty import Interval
from pipeline.reporting import MemoryReporter

SOLVERS: list[dict[str, Any]] = [
    {"kind": "euler"}, {"kind": "heun"}, {"kind": "dpmpp_2m"}, {"kind": "deis", "time": "log_rho"}
]  # fmt: skip
SHARE = 0.2  # of the grid's evaluations, that the search may spend
WORSE_AT_MOST = 0.03
FRESH = Seeds(1_000_000, 5000)


@dataclass(frozen=True)
class Size:
    """How large the comparison is."""

    images: tuple[int, ...]
    solvers: int
    grid_points: int
    generation: int
    chunk: int
    fresh: Seeds
    trajectories: int


FULL = Size((150, 300, 525), 4, 4, 8, 75, FRESH, 75)
QUICK = Size((20, 100), 3, 2, 4, 20, Seeds(1_000_000, 100), 0)  # no trajectories: they alone would take the budget


@dataclass(frozen=True)
class Bench:
    """The place, the space and what is measured."""

    store: Store
    settings: SearchSettings
    measures: tuple[Measure, ...]
    actors: Actors

    def point(self, chosen: Any) -> Point:
        return point_of(*self.settings.point(chosen))

    def grid(self) -> list[Point]:
        """All settings of the grid, each with a name of its own."""
        points = [self.point(chosen) for chosen in self.settings.grid.some(10_000)]
        return [replace(point, name=f"{point.name} #{number}") for number, point in enumerate(points)]

    def measured(self, points: Sequence[Point], seeds: Seeds) -> tuple[list[PointResult], list[Evaluation]]:
        plan, reference = self.measures[0].plan, self.measures[0].reference
        results = generate(self.store, points, seeds, self.settings.execution, self.actors, [plan])
        return results, evaluate(self.store, results, seeds, plan, reference)


def make_bench(options: argparse.Namespace, size: Size, budget: float) -> Bench:
    extractor: dict[str, Any] = {"kind": "classifier", "epochs": 4}
    if options.file:
        extractor = {"kind": "file", "path": options.file, "sha256": options.sha256, "name": "file"}
    content = {
        "name": "against-grid", "checkpoint": {"training": options.training},
        "space": {
            "sampler.solver": SOLVERS[: size.solvers],
            "sampler.timesteps.num_steps": {"low": 5, "high": 16},
            "sampler.timesteps.rho": {"low": 3.0, "high": 12.0},
        },
        "budget": {"nfe": budget}, "images": list(size.images), "generation": size.generation, "final": None,
        "grid_points": size.grid_points,
        "execution": {"batch_size": min(size.chunk, 25), "chunk_size": size.chunk, **options.execution},
        "metrics": {
            "extractors": [extractor], "dataset": options.dataset, "classifier_dataset": options.classifier_dataset,
            "trajectory": {"num_seeds": size.trajectories} if size.trajectories else None,
        },
    }  # fmt: skip
    settings = validate(SearchSettings, content, "search_against_grid")
    store, actors = Store(options.store), Actors(num_actors=options.actors)
    metrics: MetricSettings = settings.metrics
    measures = build_measures(store, metrics, options.dataset, settings.execution, actors)
    return Bench(store, settings, measures, actors)


def compare(options: argparse.Namespace, size: Size) -> dict[str, Any]:
    """Grid, search, and the two winners on fresh seeds."""
    bench = make_bench(options, size, budget=1.0)
    seeds = Seeds(bench.settings.first_seed, size.images[-1])
    results, found = bench.measured(bench.grid(), seeds)
    of_grid = sum(result.nfe for result in results) * seeds.count
    place = min(range(len(found)), key=lambda index: found[index].distance)
    grid_winner = results[place].point
    print(f"grid: {len(found)} settings, {of_grid:,.0f} evaluations; {grid_winner.name}: {found[place].distance:.4f}")

    bench = make_bench(options, size, budget=SHARE * of_grid)
    search = Search(bench.store, bench.settings, bench.point, bench.measures, MemoryReporter(), bench.actors)
    state = search.run()
    best = front(state.trials, size.images)[-1]  # the dearest of the front is the one of the least distance
    print(f"search: {len(state.trials)} settings, {state.spent:,.0f} evaluations; {best.name}: {best.distances}")

    winners = [replace(bench.point(best.chosen), name="search's"), replace(grid_winner, name="grid's")]
    fresh, distances = bench.measured(winners, size.fresh)
    difference = difference_of(*distances)
    return {
        "settings": len(found), "images": size.images[-1], "distance": bench.measures[0].plan.distance_name,
        "grid": {"evaluations": of_grid, "winner": grid_winner.name, "nfe": fresh[1].nfe,
                 "fresh": distances[1].distance},
        "search": {"evaluations": state.spent, "tried": len(state.trials), "winner": best.name, "nfe": fresh[0].nfe,
                   "fresh": distances[0].distance, "pruned": sum(t.state == "pruned" for t in state.trials)},
        "share": state.spent / of_grid, "fresh_seeds": size.fresh.count,
        "difference": distances[0].distance - distances[1].distance,
        "half_width": difference and difference.half_width,
        "worse_at_most": difference and difference.high / distances[1].distance,
    }  # fmt: skip


def difference_of(first: Evaluation, second: Evaluation) -> Interval | None:
    """Of two distances on the same seeds; None where there are too few images for an interval."""
    one, two = first.uncertainty, second.uncertainty
    if one is None or two is None:
        return None
    found = compare_pairs(first.distance, second.distance, one.influences, two.influences, one.strata)
    return found.difference


def told(found: dict[str, Any]) -> str:
    grid, search = found["grid"], found["search"]
    difference, half, most = (found[name] for name in ("difference", "half_width", "worse_at_most"))
    interval = "no interval" if half is None else f"+- {half:.4f}"
    bound = "" if most is None else f", at most {most:+.2%} (95 %)"
    return "\n".join(
        [
            f"grid: {found['settings']} settings x {found['images']:,} images, {grid['evaluations']:,.0f} evaluations",
            f"search: {search['tried']} settings tried ({search['pruned']} pruned by their trajectories), "
            f"{search['evaluations']:,.0f} evaluations: {found['share']:.1%} of the grid's",
            f"on {found['fresh_seeds']:,} fresh seeds, {found['distance']}:",
            f"  grid's winner    {grid['winner']} (NFE {grid['nfe']:g}): {grid['fresh']:.4f}",
            f"  search's winner  {search['winner']} (NFE {search['nfe']:g}): {search['fresh']:.4f}",
            f"  search's less grid's, in pairs: {difference:+.4f} {interval}{bound}",
        ]
    )


def arguments(about: str | None, argv: Sequence[str] | None) -> argparse.Namespace:
    """The options that the programs on a trained network share."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True)
    parser.add_argument("--training", required=True, help="the name of the checkpoint's training")
    parser.add_argument("--dataset", required=True, help="the reference, a data set of the store")
    parser.add_argument("--classifier-dataset", help="what the classifier, whose features are compared, learns from")
    parser.add_argument("--file", help="an extractor in a file instead, with --sha256")
    parser.add_argument("--sha256")
    parser.add_argument("--execution", type=yaml.safe_load, default={}, help='as in settings: "{precision: bf16}"')
    parser.add_argument("--actors", type=int, help="default: one for every CPU or GPU; 0: this process")
    parser.add_argument("--quick", action="store_true", help="small: does it work?")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(__doc__, argv)
    with session():
        found = compare(options, QUICK if options.quick else FULL)
    print(told(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    worse = found["worse_at_most"]
    return 0 if found["share"] <= SHARE and worse is not None and worse < WORSE_AT_MOST else 1


if __name__ == "__main__":
    sys.exit(main())
