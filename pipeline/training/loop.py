"""The loop of a training, as one process runs it: steps, reports, snapshots, checkpoints; and resuming."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from pipeline.data.dataset import Dataset
from pipeline.data.store import Store
from pipeline.reporting import Reporter, Run
from pipeline.training import checkpoint
from pipeline.training.console import Console, Terminal
from pipeline.training.job import TrainingJob, TrainingResult
from pipeline.training.picture import sample_picture
from pipeline.training.place import Place
from pipeline.training.progress import Progress
from pipeline.training.settings import ModelSpec, TrainingSettings
from pipeline.training.snapshot import commit_snapshot
from pipeline.training.trainer import Trainer


def train_in_process(
    store: Store, dataset: Dataset, model: ModelSpec, settings: TrainingSettings, reporter: Reporter, name: str,
    threads: int = 1, device: torch.device | None = None,
) -> TrainingResult:  # fmt: skip
    """Trains in this process, from where the store says it stands.

    Args:
        threads: CPU threads; part of what makes two trainings equal to the last bit.

    Raises:
        RunFailedError: a loss is not finite, and the settings say to stop; or another process has taken over.
        StoreError: the store cannot be written, or another process is at this training.
    """
    job = TrainingJob(name, store, dataset, model, settings, reporter)
    terminal = Terminal()
    if job.is_done():
        terminal.say(already_done(job))
        return job.result()
    try:
        with cpu_threads(threads), job.owned(terminal.say) as owned:
            train(owned, Place(device=device or torch.device("cpu")), terminal)
    finally:
        terminal.end()
    return job.result()


def train(job: TrainingJob, place: Place, console: Console) -> None:
    """Takes this process's part in a training until its end. With several processes all must call it alike.

    Raises:
        RunFailedError: a loss is not finite, and the settings say to stop; or another process has taken over.
        CheckpointError: the newest checkpoint is not of this program's making.
        StoreError: the store cannot be written.
    """
    if place.is_first:
        job.fence()
    gpus = [place.device] if place.device.type == "cuda" else []
    with torch.random.fork_rng(gpus), gpu_arithmetic(), _run(job, place) as run:
        trainer = Trainer(job.model, job.settings, job.dataset, place)
        _resume(trainer, job, place, console)
        progress = None if run is None else Progress(job, run, console, trainer.position)
        cadence = _Cadence(job)
        while trainer.position < job.num_images:
            before = trainer.position
            trainer.step()
            if not cadence.any_due(before, trainer.position):
                continue
            summary = trainer.summary()
            if progress is None or run is None:
                continue
            job.fence()
            progress.tell(trainer, summary)
            # The snapshot first: a training killed between the two makes it again, with the same content.
            snapshot = _save_snapshot(trainer, job) if cadence.snapshot_due(before, trainer.position) else None
            if cadence.checkpoint_due(before, trainer.position):
                checkpoint.save(job.store, job.folder, trainer.checkpoint(), job.meta, job.fence)
            if snapshot is not None:  # the picture last, since it takes seconds
                run.image("samples", sample_picture(job.model, snapshot, place.device), trainer.position)
            progress.pause_ended()


def already_done(job: TrainingJob) -> str:
    """The sentence for a training that has nothing left to do."""
    return f"{job.folder}: is trained already, {job.result().num_images:,} images; raise duration_kimg to go on"


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Within it torch computes with so many threads on the CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def gpu_arithmetic() -> Iterator[None]:
    """Within it float32 is float32 on a GPU too, convolutions in TF32 being torch's default; and kernels are chosen by
    trying them, since shapes stay the same."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=False):
        yield


class _Cadence:
    """What is due after a step. Everything is due at the end, and a report whenever something is saved, so that
    no loss goes unreported if the training is resumed from there."""

    def __init__(self, job: TrainingJob) -> None:
        settings = job.settings
        self._end = job.num_images
        self._log, self._snapshot = settings.log_kimg, settings.snapshot_kimg
        self._checkpoint = settings.checkpoint_kimg or settings.snapshot_kimg

    def any_due(self, before: int, after: int) -> bool:
        saving = self.snapshot_due(before, after) or self.checkpoint_due(before, after)
        return saving or self._due(self._log, before, after)

    def snapshot_due(self, before: int, after: int) -> bool:
        return self._due(self._snapshot, before, after)

    def checkpoint_due(self, before: int, after: int) -> bool:
        return self._due(self._checkpoint, before, after)

    def _due(self, kimg: float, before: int, after: int) -> bool:
        return after >= self._end or math.floor(after / (1000 * kimg)) > math.floor(before / (1000 * kimg))


def _run(job: TrainingJob, place: Place) -> AbstractContextManager[Run | None]:
    """The training's run in the tracker, for the one process that reports to it."""
    if not place.is_first:
        return nullcontext()
    info = job.dataset.info
    where = {"sigmasweep.training": job.folder, "sigmasweep.store": job.store.title}
    return job.reporter.run(job.key, job.folder, {"kind": "training", "dataset": info.name, **where, **job.tags})


def _resume(trainer: Trainer, job: TrainingJob, place: Place, console: Console) -> None:
    """Goes on from the newest good checkpoint, if there is one."""
    state = checkpoint.newest(job.store, job.folder, console.say) if place.is_first else None
    trainer.restore(state)
    if state is None:
        return
    console.say(f"{job.folder}: goes on at {state.position:,} images")
    if state.world_size != place.world_size:
        console.say(
            f"{job.folder}: was trained by {state.world_size} workers until here and by {place.world_size} from here: "
            "sums are rounded otherwise, so the weights will differ in their last digits"
        )


def _save_snapshot(trainer: Trainer, job: TrainingJob) -> bytes:
    """Commits the weights; returns the first of them as they were written."""
    checkpoint.check_finite(job.folder, trainer.checkpoint())
    weights = trainer.snapshot()
    manifest = commit_snapshot(job.store, job.folder, trainer.position, job.model, weights, job.meta, job.fence)
    return job.store.blob(manifest, f"{next(iter(weights))}.safetensors")
