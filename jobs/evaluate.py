"""Distances of generated images: `python -m jobs.evaluate CONFIG.yaml`. What is not in the store is generated first."""

import sys
from dataclasses import replace

from jobs import cli
from jobs.checkpoints import with_checkpoints
from jobs.context import (
    alone,
    checked_points,
    cost,
    engine_actors,
    engine_seeds,
    measures_of,
    namespace,
    open_store,
    tracked,
)
from pipeline.config.measuring import EvaluateJob
from pipeline.data.dry_store import DryStore
from pipeline.data.store import Store
from pipeline.digests import digest
from pipeline.engine.benchmark import benchmark
from pipeline.engine.benchmark_result import BenchmarkResult
from pipeline.engine.generation import Point, Seeds
from pipeline.engine.measures import Measure
from pipeline.engine.session import shared_session
from pipeline.engine.snapshots import best_snapshot, check_disjoint
from pipeline.metrics.paired import spread
from pipeline.reporting import Reporter


def main(settings: EvaluateJob) -> None:
    store, seeds = open_store(settings), engine_seeds(settings.seeds)
    if settings.select is not None:
        check_disjoint(engine_seeds(settings.select), Seeds(seeds.first, seeds.count * settings.ranges))
    settings = with_checkpoints(store, settings)
    with shared_session():
        points = checked_points(store, settings)
        with tracked(settings) as reporter, alone(store, "evaluation", settings):
            measures = measures_of(store, settings, settings.metrics, points)
            if settings.select is not None:
                points = _on_the_best(store, settings, points, measures[0])
            results = [
                benchmark(
                    store, settings.name, points, part, measures, settings.execution, engine_actors(settings), reporter,
                    namespace=namespace(settings), keep=settings.keep, trajectory=settings.metrics.trajectory,
                )
                for part in ranges(seeds, settings.ranges)
            ]  # fmt: skip
            if len(results) > 1:
                _tell_spread(results, settings, reporter)
    for result in results:
        print(f"\n{result.table()}\n\n{result.comparisons()}\n")
    if settings.reference_out:
        measures[0].reference.export(settings.reference_out)
        print(f"Reference: {settings.reference_out}")
    print(f"Runs: {results[0].link}")


def ranges(seeds: Seeds, number: int) -> list[Seeds]:
    """Disjoint ranges of as many seeds each, one after another."""
    return [Seeds(seeds.first + index * seeds.count, seeds.count) for index in range(number)]


def _tell_spread(results: list[BenchmarkResult], settings: EvaluateJob, reporter: Reporter) -> None:
    """How the same number spreads over ranges of seeds: printed, and a run of its own."""
    lines = []
    for row in results[0].rows:
        values = [other.distance for result in results for other in result.rows if other.name == row.name]
        lines.append(f"{row.name}: {spread(values)}")
    text = "\n".join(lines)
    key = digest({"spread": settings.name, "rows": [[row.samples_digest, row.protocol] for row in results[-1].rows]})
    with reporter.run(key, f"{settings.name}: spread", {"kind": "spread", "benchmark": settings.name}) as run:
        run.text(text, "spread.txt")
    print(f"\n{text}")


def _on_the_best(store: Store, settings: EvaluateJob, points: list[Point], measure: Measure) -> list[Point]:
    """The same points on the best snapshot and weights of the first point's training."""
    assert settings.select is not None
    first = points[0]
    found = best_snapshot(
        store, first.checkpoint.training, first.sampler, first.labels, engine_seeds(settings.select),
        engine_seeds(settings.seeds), measure, settings.execution, engine_actors(settings), guide=first.guide,
    )  # fmt: skip
    for ref, evaluation in found.candidates:
        print(f"  {ref.training}@{ref.at}/{ref.ema}: {evaluation.distance:.4f} on the seeds of the selection")
    print(f"selected {found.best.training}@{found.best.at}/{found.best.ema}; what follows is on other seeds")
    return [replace(point, checkpoint=found.best) for point in points]


def dry_run(settings: EvaluateJob) -> list[str]:
    store = DryStore(settings.store)
    return cost(store, with_checkpoints(store, settings))


if __name__ == "__main__":
    sys.exit(cli.run(EvaluateJob, main, __doc__, dry_run))
