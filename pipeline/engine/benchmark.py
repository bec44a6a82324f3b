"""A benchmark: many settings, one measure of each, and what each costs. Every setting is one run of the tracker."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

from pipeline.config.benchmarks import TimingSettings
from pipeline.config.measuring import Keep, TrajectorySettings
from pipeline.data.samples import Execution
from pipeline.data.store import Store
from pipeline.engine.benchmark_record import commit_record, record_of
from pipeline.engine.benchmark_result import BenchmarkResult
from pipeline.engine.benchmark_teller import Teller
from pipeline.engine.evaluation import check_shape
from pipeline.engine.generation import Seeds, find_settings, generate
from pipeline.engine.measures import Measure
from pipeline.engine.placement import place
from pipeline.engine.point_summary import licence_notes, point_params
from pipeline.engine.retention import retain
from pipeline.engine.score_checks import check_scores
from pipeline.engine.scoring import headings, kept_names
from pipeline.engine.table import by_cost
from pipeline.engine.timing import Timing, time_points
from pipeline.engine.trajectories import converge, trajectory_notes
from pipeline.engine.work import Actors, Point
from pipeline.errors import SettingsError
from pipeline.reporting import Reporter
from pipeline.training.snapshot import find_snapshot

MOST_PICTURES = 64  # images of the first seeds that stay, whatever is kept of the others


def benchmark(
    store: Store, name: str, points: Sequence[Point], seeds: Seeds, measures: Sequence[Measure], execution: Execution,
    actors: Actors, reporter: Reporter, timing: TimingSettings | None = None, picture_seeds: int = 16,
    namespace: str = "", progress: bool = True, keep: Keep = "images", trajectory: TrajectorySettings | None = None,
    baseline: str | None = None,
) -> BenchmarkResult:  # fmt: skip
    """Generates, evaluates and times every point, and reports each as one run as soon as it is known.

    What is in the store already is not computed again, so a benchmark that was interrupted goes on where it was, and
    one that is repeated gives the same numbers. All that it keeps of its own there is what it told: it is a view on
    samples, features, references and timings.

    Args:
        name: of the benchmark: a tag, and part of what makes a run the same run.
        points: the settings, of different names.
        seeds: the images of each setting that are measured.
        measures: at least one; the first one's distance is the one that settings are ranked by.
        timing: how long to time each setting; without, no seconds are told.
        picture_seeds: how many of the first seeds are shown.
        namespace: samples are kept apart from those of other namespaces.
        keep: what stays of the samples when all is told.
        baseline: the setting that the others are compared with; the best one by default.
        trajectory: how to measure the distance to each sample's own converged trajectory; without, it is not.

    Raises:
        UserError: something asked for cannot be done; said before anything is generated, wherever that is possible.
    """
    _check(store, points, measures, baseline)
    check_scores(store, points, measures, seeds)
    pictures, needed = min(picture_seeds, seeds.count), 0
    converged = None
    if trajectory is not None:
        found = find_settings(store, points, execution, place(execution, actors), namespace)
        converged = converge(store, points, trajectory, seeds, execution, actors, namespace, progress)
        needed = converged.images_needed(points, [setting.digest for setting in found])
    teller = Teller(store, name, seeds, measures, execution, reporter, pictures, keep == "moments", converged)
    plans = [replace(measure.plan, beside=kept_names(measure, seeds)) for measure in measures]
    results = generate(
        store, points, seeds, execution, actors, plans, namespace, progress, teller.tell, pictures=max(pictures, needed)
    )
    timings: list[Timing] | list[None] = [None] * len(points)
    if timing is not None:
        timings = time_points(store, points, execution, actors, timing.images, timing.repeats, progress=progress)
    rows = teller.rows(results, timings)
    compared = teller.compared(results, baseline)
    for row, result, measured in zip(rows, results, timings, strict=True):
        teller.tell_cost(row, result, measured)
    retain(store, [result.samples_digest for result in results], keep, seeds.first, MOST_PICTURES)
    told = BenchmarkResult(
        name=name,
        rows=tuple(by_cost(rows)),
        titles={measure.name: measure.plan.distance_name for measure in measures},
        headings=tuple(heading for measure in measures for heading in headings(measure)),
        classes=teller.scores.classes,
        notes=(
            *(measure.note for measure in measures if measure.note),
            *trajectory_notes(converged, rows),
            *licence_notes(results),
        ),
        picture=teller.comparison(rows),
        generated=sum(result.generated for result in results),
        link=reporter.link({"kind": "sampler", "benchmark": name}),
        protocol=teller.evaluations[points[0].name][0].protocol,
        followed=measures[0].protocol,
        compared=compared,
        baseline_named=baseline is not None,
        evaluations=tuple(teller.evaluations[point.name][0] for point in points),
    )
    params = {result.point.name: point_params(result, seeds, execution) for result in results}
    evaluations = seeds.count * sum(result.nfe for result in results)
    record = record_of(told.to_json(), seeds, pictures, measures, params, evaluations, timings)
    commit_record(store, told.digest, {"name": name, "protocol_digest": told.protocol.digest, **record})
    return told


def _check(store: Store, points: Sequence[Point], measures: Sequence[Measure], baseline: str | None = None) -> None:
    if not points or not measures:
        raise SettingsError("benchmark", f"has {len(points)} settings and {len(measures)} measures: it needs both")
    names = [point.name for point in points]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SettingsError("sweep", f"two settings have the same name ({', '.join(twice)})")
    if baseline is not None and baseline not in names:
        raise SettingsError("baseline", f"there is no setting {baseline}; there are: {', '.join(names)}")
    snapshots = [find_snapshot(store, checkpoint) for checkpoint in {point.checkpoint for point in points}]
    for measure, snapshot in product(measures, snapshots):
        check_shape(measure.reference, snapshot)
    shapes = {snapshot.model.shape for snapshot in snapshots}
    if len(shapes) > 1:
        raise SettingsError("sweep", f"the checkpoints make images of different shapes: {sorted(shapes)}")
