"""What a training tells while it goes on: metrics for the tracker, one line for people. Of the first process only."""

import math
import time

from pipeline.reporting import Run
from pipeline.training.console import Console
from pipeline.training.job import TrainingJob
from pipeline.training.loss import LossSummary, bin_names
from pipeline.training.trainer import Trainer


class Progress:
    """Tells of one training.

    Args:
        job: the training.
        run: its run in the tracker.
        console: where its line goes.
        position: images seen before this process began.
    """

    def __init__(self, job: TrainingJob, run: Run, console: Console, position: int) -> None:
        self._job = job
        self._run = run
        self._console = console
        self._start = self._last = (position, time.perf_counter())
        self._bins = bin_names(job.settings.noise, job.settings.loss_bins)
        run.params({key: job.meta[key] for key in ("settings", "model", "dataset")})
        info = job.dataset.info
        run.dataset(info.name, info.digest, "training", {"images": info.num_images})

    def tell(self, trainer: Trainer, summary: LossSummary) -> None:
        """Reports the losses since the last time, at the present position."""
        now = (trainer.position, time.perf_counter())
        rate = _rate(self._last, now)
        by_noise = zip(self._bins, summary.by_noise, strict=True)
        self._run.metrics(
            {
                "train/loss": summary.mean,
                **{f"train/loss_sigma_{name}": loss for name, loss in by_noise if not math.isnan(loss)},
                "train/images_per_second": rate,
                "train/learning_rate": trainer.lr,
                "train/grad_norm": trainer.grad_norm,
                "train/nan_losses": float(trainer.num_not_finite),
            },
            step=trainer.position,
        )
        self._console.show(self._text(now, summary.mean, rate, trainer.num_not_finite))
        self._last = now

    def pause_ended(self) -> None:
        """Time spent on snapshots and checkpoints counts towards the time left, but not as the speed of training."""
        self._last = (self._last[0], time.perf_counter())

    def _text(self, now: tuple[int, float], loss: float, rate: float, num_not_finite: int) -> str:
        total = self._job.num_images
        left = (total - now[0]) / _rate(self._start, now)
        bad = f", {num_not_finite:,} losses not finite" if num_not_finite else ""
        return (
            f"{self._job.folder}: {now[0]:,} of {total:,} images, loss {loss:.4g}{bad}, {rate:,.0f} images/s, "
            f"{duration(left)} left"
        )


def duration(seconds: float) -> str:
    """A span of time as people say it: 45 s, 12 min, 3 h 20 min, 2 d 4 h."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def _rate(before: tuple[int, float], now: tuple[int, float]) -> float:
    """Images a second between two moments."""
    return (now[0] - before[0]) / max(now[1] - before[1], 1e-9)
