"""One run of generation: how far each point is, and what becomes of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.data.store import Store
from pipeline.engine.inventory import Progress, take_stock
from pipeline.engine.progress import say
from pipeline.engine.work import Done, ExtractorPlan, Point, Seeds, Setting, Task
from pipeline.errors import RunFailedError, SigmasweepError, StoreError
from pipeline.training.snapshot import Snapshot


@dataclass(frozen=True, eq=False)
class PointResult:
    """A point whose samples, and features if any were asked for, are in the store.

    Args:
        point: as it was asked for.
        snapshot: the weights that were found.
        samples_digest: names the samples.
        chunk_size: of the samples.
        nfe: evaluations of the network an image, counted, the mean over the seeds asked for.
        generated: images computed by this run, in whole chunks.
        reused: images of the chunks asked for that were there before.
        guide: the weights of the second network, where there is one.
    """

    point: Point
    snapshot: Snapshot
    samples_digest: str
    chunk_size: int
    nfe: float
    generated: int
    reused: int
    guide: Snapshot | None = None


OnPoint = Callable[[PointResult], None]


class Run:
    """The points of a run. Points that differ in name only are one setting, computed once and counted for the first.

    Args:
        points: what is asked for.
        settings: of the points, in the same order.
        seeds: of the points, in the same order; of points that are one setting they are the same.
        on_point: told of each point when it is complete.

    Raises:
        ValueError: one setting is asked for with different seeds.
    """

    def __init__(
        self, points: Sequence[Point], settings: Sequence[Setting], seeds: Sequence[Seeds], on_point: OnPoint | None
    ) -> None:
        self._points = list(zip(points, settings, strict=True))
        self._seeds: dict[str, Seeds] = {}
        for setting, asked in zip(settings, seeds, strict=True):
            if self._seeds.setdefault(setting.digest, asked) != asked:
                raise ValueError(f"seeds: {setting.name} is asked for with different ones in one run")
        self._on_point = on_point
        self._progress: dict[str, Progress] = {}
        self._generated: dict[str, int] = {}
        self._results: dict[int, PointResult] = {}
        self._errors: dict[str, SigmasweepError] = {}

    def take_stock(self, store: Store, extractors: Sequence[ExtractorPlan], pictures: int | None) -> None:
        """Finds what is there; points that are complete are told of at once."""
        for _, setting in self._points:
            if setting.digest not in self._progress:
                seeds = self._seeds[setting.digest]
                asked = (seeds.first, seeds.count)
                found = take_stock(store, setting, asked, extractors, say, pictures)
                self._progress[setting.digest] = found
                self._generated[setting.digest] = 0
                self._tell(setting.digest)

    @property
    def tasks(self) -> list[Task]:
        """Everything that was found missing, in the order of the points."""
        return [task for progress in self._progress.values() for task in progress.tasks]

    def done(self, task: Task, done: Done) -> None:
        """A task is finished; its point may be complete with it."""
        if done.damaged:
            say(f"{done.damaged}; it was set aside and computed again")
        digest = task.setting.digest
        progress = self._progress[digest]
        progress.count(*progress.asked(task.index, done.nfe))
        progress.left -= 1
        if task.generate or done.damaged:
            self._generated[digest] += len(done.nfe)
        self._tell(digest)

    def failed(self, task: Task, error: SigmasweepError) -> None:
        """A point cannot be completed. The others go on, unless it is the store that fails: it fails them all.

        Raises:
            StoreError: the error itself.
        """
        if isinstance(error, StoreError):
            raise error
        self._errors[task.setting.digest] = error
        say(f"{error}; this setting is given up, the others go on")

    @property
    def is_whole(self) -> bool:
        """No point failed."""
        return not self._errors

    def results(self, partly: bool = False) -> list[PointResult]:
        """One a point, in their order.

        Args:
            partly: points that failed are left out, as long as others did not.

        Raises:
            SigmasweepError: some points failed.
        """
        if self._errors and not (partly and self._results):
            first = next(iter(self._errors.values()))
            if len(self._errors) == 1:
                raise first
            raise RunFailedError(
                f"{len(self._errors)} of {len(self._progress)} settings",
                f"failed, all others are kept; the first: {first}",
            )
        return [self._results[index] for index in sorted(self._results)]

    def _tell(self, digest: str) -> None:
        progress = self._progress[digest]
        if progress.left:
            return
        generated = self._generated[digest]
        for index, (point, setting) in enumerate(self._points):
            if setting.digest == digest:
                self._results[index] = self._result(point, setting, progress, generated)
                generated = 0
                if self._on_point is not None:
                    self._on_point(self._results[index])

    def _result(self, point: Point, setting: Setting, progress: Progress, generated: int) -> PointResult:
        size = int(setting.key["execution"]["chunk_size"])
        reused = len(progress.parts) * size - generated
        return PointResult(
            point, setting.snapshot, setting.digest, size, progress.nfe, generated, reused, setting.guide
        )
