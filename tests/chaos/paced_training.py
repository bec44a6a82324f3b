"""The driver of a training that takes its time: `python -m tests.chaos.paced_training FOLDER WORKERS STEPS TIMEOUT`."""

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.engine.training import train
from pipeline.reporting import MemoryRun
from pipeline.training.settings import ModelSettings, TrainingSettings, Workers
from tests.training.group import NETWORK
from tests.training.toys import BATCH, make_settings, store_at

PACE_S = 0.05  # added to each step
INTERVAL = 4  # steps between checkpoints
STEPS = "steps"  # the file with a line for each step: the first worker's process, and its position after the step


class _PacedRun(MemoryRun):
    folder: Path

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        with (self.folder / STEPS).open("a") as file:
            file.write(f"{os.getpid()} {step}\n")
        time.sleep(PACE_S)


@dataclass(frozen=True)
class PacedReporter:
    folder: Path

    def run(self, key: str, name: str, tags: Mapping[str, str]) -> MemoryRun:
        run = _PacedRun(key, name)
        run.folder = self.folder
        return run

    def link(self, tags: Mapping[str, str]) -> str:
        return ""

    def settle(self) -> None:
        pass


def settings(steps: int) -> TrainingSettings:
    return make_settings(steps, checkpoint_kimg=INTERVAL * BATCH / 1000)


def main(folder: Path, num_workers: int, steps: int, timeout_s: float) -> None:
    workers = Workers(num_workers=num_workers, device="cpu", timeout_s=timeout_s)
    model, reporter = ModelSettings(network=NETWORK), PacedReporter(folder)
    print(train(store_at(folder), "toy", model, settings(steps), workers, reporter, "toy"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
