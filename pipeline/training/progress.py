"""What a training tells while it goes on: metrics for the tracker, one line for people. Of the first process only."""

import math
import sys
import time

from pipeline.reporting import Run
from pipeline.training.job import TrainingJob
from pipeline.training.loss import LossSummary, bin_names
from pipeline.training.trainer import Trainer


def say(text: str) -> None:
    """One line to standard output, at once, whatever it is joined to."""
    print(text, flush=True)


class Progress:
    """Tells of one training.

    Args:
        job: the training.
        run: its run in the tracker.
        position: images seen before this process began.
    """

    def __init__(self, job: TrainingJob, run: Run, position: int) -> None:
        self._job = job
        self._run = run
        self._start = self._last = (position, time.perf_counter())
        self._bins = bin_names(job.settings.noise, job.settings.loss_bins)
        self._line = _Line()
        run.params({key: job.meta[key] for key in ("settings", "model", "dataset")})

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
        self._line.show(self._text(now, summary.mean, rate, trainer.num_not_finite))
        self._last = now

    def pause_ended(self) -> None:
        """Time spent on snapshots and checkpoints counts towards the time left, but not as the speed of training."""
        self._last = (self._last[0], time.perf_counter())

    def end(self) -> None:
        """Leaves the line as it stands."""
        self._line.end()

    def _text(self, now: tuple[int, float], loss: float, rate: float, num_not_finite: int) -> str:
        total = self._job.num_images
        left = (total - now[0]) / _rate(self._start, now)
        bad = f", {num_not_finite:,} losses not finite" if num_not_finite else ""
        return (
            f"{self._job.folder}: {now[0]:,} of {total:,} images, loss {loss:.4g}{bad}, {rate:,.0f} images/s, "
            f"{duration(left)} left"
        )


class _Line:
    """A line that is written over on a terminal, and a line each time elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._width = 0

    def show(self, text: str) -> None:
        if not self._terminal:
            say(text)
            return
        print(f"\r{text:<{self._width}}", end="", flush=True)
        self._width = len(text)

    def end(self) -> None:
        if self._width:
            print(flush=True)
            self._width = 0


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
