"""Generation: points (a setting on a checkpoint) become samples in the store, computed where they are missing.

Everything that can be wrong is found before anything is computed. Chunks of all points stream through one fleet of
workers, so no device waits between points.
"""

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import torch

from pipeline.data.chunk_file import ImageFormat
from pipeline.data.samples import Execution, commit_setting
from pipeline.data.store import Store
from pipeline.diffusion.timesteps import grid
from pipeline.engine.aside import aside
from pipeline.engine.driver import drive
from pipeline.engine.fleet import Fleet, local_fleet, num_actors, ray_fleet
from pipeline.engine.guides import check_guidance
from pipeline.engine.paces import Conditions, nfe_of, remember
from pipeline.engine.placement import Placement, place
from pipeline.engine.policy import Limits, Policy
from pipeline.engine.progress import line, say
from pipeline.engine.run import OnPoint, PointResult, Run
from pipeline.engine.session import is_connected, session, started_in
from pipeline.engine.work import Actors, Done, ExtractorPlan, Point, Seeds, Setting, Task, WorkerSettings, key_of
from pipeline.errors import CheckpointError, SettingsError, StoreError
from pipeline.training.snapshot import CheckpointRef, Snapshot, find_snapshot, read_weights

__all__ = ["Actors", "ExtractorPlan", "Point", "PointResult", "Seeds", "find_settings", "generate"]


def generate(
    store: Store, points: Sequence[Point], seeds: Seeds | Sequence[Seeds], execution: Execution, actors: Actors,
    extractors: Sequence[ExtractorPlan] = (), namespace: str = "", progress: bool = True,
    on_point: OnPoint | None = None, image_format: ImageFormat = "png", pictures: int | None = None,
    partly: bool = False,
) -> list[PointResult]:  # fmt: skip
    """Makes sure that the samples of all points, and their features, are in the store.

    Args:
        seeds: which images, of all points or of each; chunks are always whole, so some more may be computed.
        extractors: features of these are kept beside the images.
        namespace: keeps the samples apart from those of other runs.
        progress: show a bar.
        on_point: called in this process as soon as a point is complete, while others are still at work; in a thread
            beside the one that feeds the actors.
        image_format: how images are kept; it is not part of what they are.
        pictures: of so many of the first seeds the images must be there, of all by default; of the others it is enough
            that their features are, where images were given up to free space.
        partly: points that fail are left out of the results, as long as others do not.

    Returns:
        One result a point, in their order.

    Raises:
        UserError: a point, a checkpoint, an extractor or the store cannot be used; nothing was computed.
        RunFailedError: chunks failed for good. What was finished, and the other points, are in the store.
    """
    placement = place(execution, actors)
    settings = find_settings(store, points, execution, placement, namespace)
    store.check_writable()
    with _telling(on_point, beside=actors.num_actors != 0) as (tell, check):
        run = Run(points, settings, [seeds] * len(points) if isinstance(seeds, Seeds) else seeds, tell)
        run.take_stock(store, extractors, pictures)
        if run.tasks:
            _check_weights(store, run.tasks)
            memory = actors.denoiser_memory_gb
            work = WorkerSettings(store, execution, placement.device, placement.family, image_format, memory)
            _compute(run, work, extractors, actors, progress, placement.name, check)
    return run.results(partly)


@contextmanager
def _telling(on_point: OnPoint | None, beside: bool) -> Iterator[tuple[OnPoint | None, Callable[[], None]]]:
    """How to tell of a point, and how to see whether that went well."""
    if on_point is None or not beside:
        yield on_point, lambda: None
        return
    with aside(on_point) as calls:
        yield calls, calls.check


def find_settings(
    store: Store, points: Sequence[Point], execution: Execution, placement: Placement, namespace: str = ""
) -> list[Setting]:
    """The settings of points, each found and valid. Nothing is written.

    Raises:
        UserError: a checkpoint is not there, or a point's sampler, labels or guide do not go with its network.
    """
    return [_setting(store, point, execution, placement, namespace) for point in points]


def _setting(store: Store, point: Point, execution: Execution, placement: Placement, namespace: str) -> Setting:
    snapshot = _snapshot(store, point, point.checkpoint)
    with _told_of(f"{point.name}: labels"):
        labels = point.labels.of(torch.zeros(1, dtype=torch.int64), snapshot.model.num_classes)
    guide = None if point.guide is None else _snapshot(store, point, point.guide)
    check_guidance(point, snapshot, guide, is_labelled=bool(labels[0] >= 0))
    key = key_of(snapshot, point.sampler, point.labels, execution, placement.family, namespace, guide)
    setting = Setting(point.name, snapshot, point.sampler, point.labels, key, guide)
    with _told_of(f"{point.name}: sampler.timesteps"):
        sigmas = grid(point.sampler.timesteps, setting.levels)
    with _told_of(f"{point.name}: sampler.stochasticity"):
        point.sampler.stochasticity.walk(sigmas, setting.levels)
    return setting


def _snapshot(store: Store, point: Point, ref: CheckpointRef) -> Snapshot:
    try:
        return find_snapshot(store, ref)
    except CheckpointError as error:
        raise CheckpointError(f"{point.name}: {error.where}", error.problem) from error


@contextmanager
def _told_of(where: str) -> Iterator[None]:
    """A part's complaint as the user's."""
    try:
        yield
    except ValueError as error:
        raise SettingsError(where, str(error)) from error


def _check_weights(store: Store, tasks: Sequence[Task]) -> None:
    """Reads the weights that will be needed once, so that a damaged checkpoint is found before work is begun."""
    settings = {task.setting: None for task in tasks if task.generate}
    needed = {snapshot.weights_sha256: snapshot for setting in settings for snapshot in setting.snapshots}
    for snapshot in needed.values():
        read_weights(store, snapshot)


def _compute(
    run: Run, work: WorkerSettings, extractors: Sequence[ExtractorPlan], actors: Actors, progress: bool, device: str,
    check: Callable[[], None],
) -> None:  # fmt: skip
    tasks = run.tasks
    for setting in {task.setting: None for task in tasks}:
        guide = {} if setting.guide is None else {"guide": setting.guide.title}
        commit_setting(work.store, setting.key, name=setting.name, checkpoint=setting.snapshot.title, **guide)
    limits = Limits(raises=actors.max_task_retries + 1, deaths=actors.max_chunk_deaths)
    policy: Policy[Task] = Policy(tasks, limits, kind=_kind)
    costs = _costs(tasks)
    before, clock = started_in() if is_connected() else 0.0, Clock()  # a Ray that is not there yet starts by the clock
    with (
        line("images", len(tasks) * work.execution.chunk_size, progress, sum(map(costs.__getitem__, tasks))) as told,
        _fleet(work, extractors, actors, len(tasks)) as (fleet, count),
    ):

        def on_joined() -> None:
            clock.stop()
            told.begin()

        def on_done(task: Task, done: Done) -> None:
            told.advance(work.execution.chunk_size, costs[task])
            run.done(task, done)
            check()

        drive(policy, fleet, on_done, run.failed, on_joined)
    if run.is_whole:
        taken: Any = policy.taken()
        whole = {setting: seconds for (setting, generated), seconds in taken.items() if generated}
        conditions = Conditions(work.family, device, count, [plan.settings for plan in extractors])
        remember(work, conditions, before + clock.seconds, whole)


class Clock:
    """Tells how long it ran until it was first stopped."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._end: float | None = None

    def stop(self) -> None:
        self._end = self._end or time.perf_counter()

    @property
    def seconds(self) -> float:
        return (self._end or time.perf_counter()) - self._start


def _kind(task: Task) -> tuple[Setting, bool]:
    """Chunks that take equally long on equal devices: of one setting, and those that need features alone are others."""
    return task.setting, task.generate


def _costs(tasks: Sequence[Task]) -> dict[Task, float]:
    """Of each task, in evaluations of the network; to take features is about as much as one for each image."""
    settings = {task.setting: nfe_of(task.setting) for task in tasks}
    return {task: settings[task.setting] if task.generate else 1.0 for task in tasks}


@contextmanager
def _fleet(
    work: WorkerSettings, extractors: Sequence[ExtractorPlan], actors: Actors, num_tasks: int
) -> Iterator[tuple[Fleet, int]]:
    """The workers, and how many."""
    if actors.num_actors == 0:
        with local_fleet(work, extractors) as fleet:
            yield fleet, 1
        return
    with session() as resources:
        count = min(num_actors(actors, work.execution.threads, work.device, resources), num_tasks)
        with _marked(work) as marked, ray_fleet(marked, extractors, actors, count, say) as fleet:
            yield fleet, count


@contextmanager
def _marked(work: WorkerSettings) -> Iterator[WorkerSettings]:
    """The store carries a mark while it is worked in, by which workers know that it is the one."""
    mark = f"cache/marks/{uuid.uuid4().hex}"
    work.store.write(mark, b".")
    try:
        yield replace(work, mark=mark)
    finally:
        with suppress(StoreError):
            work.store.delete(mark)
