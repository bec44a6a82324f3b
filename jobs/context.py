"""What every job begins with: its store, its tracker, and its settings in the terms of the engine."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.config.benchmarks import BenchmarkSettings
from pipeline.config.generation import GenerateSettings, SeedSettings
from pipeline.config.job import Job
from pipeline.config.measuring import EvaluateJob, MetricSettings
from pipeline.config.optimized_grid import OptimizeGridJob
from pipeline.config.places import written_keys
from pipeline.config.points import PointSettings
from pipeline.config.search import SearchSettings
from pipeline.data.lease import held
from pipeline.data.store import Store
from pipeline.diffusion.timesteps import AdaptiveSteps
from pipeline.digests import digest
from pipeline.engine.forecast import forecast, forecast_timing
from pipeline.engine.generation import Actors, Point, Seeds, find_settings
from pipeline.engine.measures import Measure, build_measures, check_reference, needs_dataset, trained_on
from pipeline.engine.paces import Conditions
from pipeline.engine.placement import Placement, expected_workers, place
from pipeline.engine.progress import say
from pipeline.engine.work import Setting
from pipeline.errors import UserError
from pipeline.tracking.links import default_spool, default_tracking_uri
from pipeline.tracking.mlflow_reporter import MlflowReporter
from pipeline.training.progress import duration
from pipeline.training.settings import Frozen

STOP_S = 1.0  # that a job which is told to stop waits for the tracker; what is not sent by then is sent later


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
    reporter, patience = open_reporter(job), None
    try:
        yield reporter
    except KeyboardInterrupt:
        patience = STOP_S
        raise
    finally:
        reporter.flush(patience)


@contextmanager
def alone(store: Store, kind: str, work: Frozen) -> Iterator[None]:
    """While the block runs no other job does this work: one that is submitted twice is not computed twice at once.

    Args:
        kind: of work, such as `benchmark`.
        work: its settings. Where and how they are told does not count; what computes everything anew is never the same
            work.

    Raises:
        StoreError: another job is at it.
    """
    places = {*Job.model_fields, *written_keys(type(work))}
    settings = work.model_dump(mode="json", exclude=places)
    if settings.get("reuse") == "none":
        yield
        return
    name = "-".join([kind, *([settings["name"]] if "name" in settings else []), digest(settings)[:12]])
    lease = None
    try:
        with held(store, f"jobs/{name}", say) as lease:
            yield
    except UserError:  # nothing was done
        if lease is not None:
            lease.forget()
        raise


def engine_points(settings: GenerateSettings) -> list[Point]:
    """The points of a sweep as the engine takes them; a single one is named by its sampler."""
    return [point_of(name, point) for name, point in settings.points]


def checked_points(store: Store, settings: GenerateSettings) -> list[Point]:
    """The points, each one found and valid, before anything is computed for any of them.

    Raises:
        UserError: a checkpoint is not there, or a sampler or labels do not go with its network.
    """
    points = engine_points(settings)
    find_settings(store, points, settings.execution, place(settings.execution, engine_actors(settings)))
    return points


def measures_of(
    store: Store, settings: GenerateSettings | SearchSettings, metrics: MetricSettings, points: list[Point]
) -> tuple[Measure, ...]:
    """What to measure; where the settings name no data set, the one that the checkpoints were trained on."""
    check_reference(store, metrics, points)
    dataset = metrics.dataset or (trained_on(store, points) if needs_dataset(metrics) else "")
    return build_measures(store, metrics, dataset, settings.execution, engine_actors(settings))


def engine_seeds(settings: SeedSettings) -> Seeds:
    return Seeds(settings.first, settings.count)


def engine_actors(settings: GenerateSettings | OptimizeGridJob | SearchSettings) -> Actors:
    actors = settings.actors
    return Actors(num_actors=actors.num_actors, hang_after_s=actors.hang_after_s, per_gpu=actors.per_gpu)


def namespace(settings: GenerateSettings, own: str | None = None) -> str:
    """`reuse: none` computes everything in a namespace of its own; where none is given, in one that nobody used."""
    return "" if settings.reuse == "store" else own or uuid.uuid4().hex


def cost(store: Store, settings: GenerateSettings) -> list[str]:
    """What a grid would cost, for --dry-run: images, network evaluations, and time where the network was timed before.

    Raises:
        UserError: a checkpoint is not there, or a sampler or labels do not go with its network.
    """
    points, count = engine_points(settings), settings.seeds.count
    placement = place(settings.execution, engine_actors(settings))
    found = find_settings(store, points, settings.execution, placement)
    counted = [(item, item.count_nfe()) for item in found]
    evaluations = [(item, count * nfe) for item, nfe in counted if nfe is not None]
    told = [f"{sum(number for _, number in evaluations):,} network evaluations at most"] if evaluations else []
    if varying := len(found) - len(evaluations):
        told.append(f"{varying} with adaptive steps, whose number varies")
    return [f"{len(points)} settings x {count:,} images: {'; '.join(told)}", _time(store, settings, found, placement)]


def _time(store: Store, settings: GenerateSettings, found: list[Setting], placement: Placement) -> str:
    """How long it will take, or why nobody knows. What `reuse: none` computes anew is all of it."""
    workers = expected_workers(settings.execution, engine_actors(settings), placement)
    metrics = settings.metrics.extractors if isinstance(settings, EvaluateJob | BenchmarkSettings) else ()
    conditions = Conditions(placement.family, placement.name, workers, metrics)
    images = forecast(store, found, engine_seeds(settings.seeds), conditions, anew=settings.reuse == "none")
    if images.seconds is None:
        return f"no time can be told: {images.source}"
    if not images.chunks:
        return f"no time for images: {images.source}"
    timing = settings.timing if isinstance(settings, BenchmarkSettings) else None
    timed = 0.0 if timing is None else forecast_timing(store, found, timing.images, timing.repeats, conditions)
    adaptive = ", if images of adaptive steps take 50 evaluations" if any(s.count_nfe() is None for s in found) else ""
    time = duration(images.seconds + (timed or 0.0))
    return f"about {time} for {images.chunks:,} chunks on {images.workers} actors, by {images.source}{adaptive}"


def point_of(name: str, settings: PointSettings) -> Point:
    """A point as the engine takes it; without a name, it is named by its sampler."""
    sampler = settings.sampler.build()
    timesteps = sampler.timesteps
    steps = f"rtol={timesteps.rtol:g}" if isinstance(timesteps, AdaptiveSteps) else f"num_steps={timesteps.num_steps}"
    guide = settings.guide.ref(settings.checkpoint) if settings.guide and settings.needs_guide else None
    return Point(name or f"{sampler.solver.kind}, {steps}", settings.checkpoint.ref(), sampler, settings.labels, guide)
