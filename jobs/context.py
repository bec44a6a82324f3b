"""What every job begins with: its store, its tracker, and its settings in the terms of the engine."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.config.settings import GenerateSettings, Job, MetricSettings, PointSettings, SeedSettings
from pipeline.data.store import Store
from pipeline.diffusion.timesteps import AdaptiveSteps
from pipeline.engine.generation import Actors, Point, Seeds, find_settings
from pipeline.engine.measures import Measure, build_measures, trained_on
from pipeline.engine.placement import place
from pipeline.engine.timing import seconds_per_evaluation
from pipeline.tracking.links import default_spool, default_tracking_uri
from pipeline.tracking.mlflow_reporter import MlflowReporter


def open_store(job: Job) -> Store:
    """Raises:
    StoreError: it cannot be written; said before any work is begun.
    """
    store = Store(job.store)
    store.check_writable()
    return store


def open_reporter(job: Job) -> MlflowReporter:
    uri = job.tracking_uri or default_tracking_uri(job.store)
    return MlflowReporter(uri, job.experiment, default_spool(job.store))


@contextmanager
def tracked(job: Job) -> Iterator[MlflowReporter]:
    """The job's tracker; at the end what was told is sent, as far as the server can be reached."""
    reporter = open_reporter(job)
    try:
        yield reporter
    finally:
        reporter.flush()


def engine_points(settings: GenerateSettings) -> list[Point]:
    """The points of a sweep as the engine takes them; a single one is named by its sampler."""
    return [_point(name, point) for name, point in settings.points]


def checked_points(store: Store, settings: GenerateSettings) -> list[Point]:
    """The points, each one found and valid, before anything is computed for any of them.

    Raises:
        UserError: a checkpoint is not there, or a sampler or labels do not go with its network.
    """
    points = engine_points(settings)
    find_settings(store, points, settings.execution, place(settings.execution, engine_actors(settings)))
    return points


def measures_of(
    store: Store, settings: GenerateSettings, metrics: MetricSettings, points: list[Point]
) -> tuple[Measure, ...]:
    """What to measure; where the settings name no data set, the one that the checkpoints were trained on."""
    dataset = metrics.dataset or trained_on(store, points)
    return build_measures(store, metrics, dataset, settings.execution, engine_actors(settings))


def engine_seeds(settings: SeedSettings) -> Seeds:
    return Seeds(settings.first, settings.count)


def engine_actors(settings: GenerateSettings) -> Actors:
    return Actors(num_actors=settings.actors.num_actors)


def namespace(settings: GenerateSettings) -> str:
    """`reuse: none` computes everything in a namespace that nobody used before."""
    return "" if settings.reuse == "store" else uuid.uuid4().hex


def cost(store: Store, settings: GenerateSettings) -> list[str]:
    """What a grid would cost, for --dry-run: images, network evaluations, and time where the network was timed before.

    Raises:
        UserError: a checkpoint is not there, or a sampler or labels do not go with its network.
    """
    points, count = engine_points(settings), settings.seeds.count
    found = find_settings(store, points, settings.execution, place(settings.execution, engine_actors(settings)))
    counted = [(item, item.count_nfe()) for item in found]
    evaluations = [(item, count * nfe) for item, nfe in counted if nfe is not None]
    total = sum(number for _, number in evaluations)
    lines = [f"{len(points)} settings x {count:,} images: {total:,} network evaluations at most"]
    if varying := len(found) - len(evaluations):
        lines[0] += f", and those of {varying} settings with adaptive steps, which vary"
    rates = [(seconds_per_evaluation(store, item), number) for item, number in evaluations]
    seconds = [rate * number for rate, number in rates if rate is not None]
    if len(seconds) == len(found):
        lines.append(f"about {sum(seconds) / 60:,.1f} minutes of one actor, by earlier timings of this network")
    return lines


def _point(name: str, settings: PointSettings) -> Point:
    sampler = settings.sampler.build()
    timesteps = sampler.timesteps
    steps = f"rtol={timesteps.rtol:g}" if isinstance(timesteps, AdaptiveSteps) else f"num_steps={timesteps.num_steps}"
    guide = settings.guide.ref(settings.checkpoint) if settings.guide and settings.needs_guide else None
    return Point(name or f"{sampler.solver.kind}, {steps}", settings.checkpoint.ref(), sampler, settings.labels, guide)
