"""The driver of a training on Ray, as a program: `python -m tests.engine.train_driver FOLDER WORKERS STEPS`."""

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.engine.training import train
from pipeline.reporting import MemoryRun
from pipeline.training.settings import ModelSettings, Workers
from tests.training.group import NETWORK
from tests.training.toys import BATCH, make_settings, store_at

HELD = "held"  # the file that says that the training waits, and in which process
WORKER = "RayTrainWorker"  # in the title of the training's workers
GO = "go"  # the file that lets it go on


class _HoldingRun(MemoryRun):
    """Holds the training after its second step, before that step's checkpoint, until it is killed or let go."""

    folder: Path

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        if step == 2 * BATCH and not (self.folder / GO).exists():
            (self.folder / HELD).write_text(str(os.getpid()))
            while not (self.folder / GO).exists():
                time.sleep(0.02)


@dataclass(frozen=True)
class HoldingReporter:
    """Its runs hold the training in `folder`."""

    folder: Path

    def run(self, key: str, name: str, tags: Mapping[str, str]) -> MemoryRun:
        run = _HoldingRun(key, name)
        run.folder = self.folder
        return run

    def link(self, tags: Mapping[str, str]) -> str:
        return ""

    def settle(self) -> None:
        pass


def main(folder: Path, num_workers: int, steps: int) -> None:
    workers = Workers(num_workers=num_workers, device="cpu", timeout_s=60)
    model, reporter = ModelSettings(network=NETWORK), HoldingReporter(folder)
    print(train(store_at(folder), "toy", model, make_settings(steps), workers, reporter, "toy"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
