"""Distances of generated images: `python -m jobs.evaluate CONFIG.yaml`. What is not in the store is generated first."""

import sys
from dataclasses import replace

from jobs import cli
from jobs.context import cost, engine_actors, engine_points, engine_seeds, namespace, open_store
from pipeline.config.settings import EvaluateJob
from pipeline.data.store import Store
from pipeline.engine.evaluation import evaluate
from pipeline.engine.generation import Point, generate
from pipeline.engine.measures import Measure, build_measures, trained_on
from pipeline.engine.session import session
from pipeline.engine.snapshots import best_snapshot, check_disjoint


def main(settings: EvaluateJob) -> None:
    store, points = open_store(settings), engine_points(settings)
    seeds, actors = engine_seeds(settings.seeds), engine_actors(settings)
    if settings.select is not None:
        check_disjoint(engine_seeds(settings.select), seeds)
    with session():
        measures = build_measures(store, settings.metrics, trained_on(store, points), settings.execution, actors)
        if settings.select is not None:
            points = _select(store, settings, points, measures[0])
        plans = [measure.plan for measure in measures]
        results = generate(store, points, seeds, settings.execution, actors, plans, namespace(settings))
    for measure in measures:
        print(measure.note or measure.plan.distance_name)
        for result, found in zip(
            results, evaluate(store, results, seeds, measure.plan, measure.reference), strict=True
        ):
            mark = " (rank-deficient: fewer images than features)" if found.rank_deficient else ""
            accuracy = "" if found.accuracy is None else f", accuracy {found.accuracy:.1%}"
            print(f"  {result.point.name}, NFE {result.nfe:g}: {found.distance:.4f}{mark}{accuracy}")
            print(f"    {found.protocol.label()}")
        if settings.reference_out and measure is measures[0]:
            measure.reference.export(settings.reference_out)
            print(f"  reference written to {settings.reference_out}")


def _select(store: Store, settings: EvaluateJob, points: list[Point], measure: Measure) -> list[Point]:
    """The same points on the best snapshot and weights of the first point's training."""
    assert settings.select is not None
    first = points[0]
    found = best_snapshot(
        store, first.checkpoint.training, first.sampler, first.labels, engine_seeds(settings.select),
        engine_seeds(settings.seeds), measure, settings.execution, engine_actors(settings),
    )  # fmt: skip
    for ref, evaluation in found.candidates:
        print(f"  {ref.training}@{ref.at}/{ref.ema}: {evaluation.distance:.4f} on the seeds of the selection")
    print(f"selected {found.best.training}@{found.best.at}/{found.best.ema}; reported on other seeds:")
    return [replace(point, checkpoint=found.best) for point in points]


def dry_run(settings: EvaluateJob) -> list[str]:
    return cost(Store(settings.store), settings, engine_points(settings))


if __name__ == "__main__":
    sys.exit(cli.run(EvaluateJob, main, __doc__, dry_run))
