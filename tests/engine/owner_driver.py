"""A training's driver with an impatient lease: `python -m tests.engine.owner_driver STORE WORKERS STEPS [HOLD]`.

With HOLD it waits after its second step, before anything of that step is saved, until `HOLD/go` is there.
"""

import sys
from pathlib import Path

from pipeline.data import lease
from pipeline.data.store import Store
from pipeline.engine.training import train
from pipeline.errors import SigmasweepError
from pipeline.reporting import MemoryReporter, Reporter
from pipeline.training.settings import ModelSettings, Workers
from tests.engine.train_driver import HoldingReporter
from tests.training.group import NETWORK
from tests.training.toys import make_settings

PATIENCE_S = 3.0


def main(store: Store, num_workers: int, steps: int, hold: Path | None) -> int:
    lease.BEAT_S, lease.PATIENCE_S = 0.3, PATIENCE_S
    workers = Workers(num_workers=num_workers, device="cpu", timeout_s=60)
    reporter: Reporter = HoldingReporter(hold) if hold else MemoryReporter()
    try:
        train(store, "toy", ModelSettings(network=NETWORK), make_settings(steps), workers, reporter, "toy")
    except SigmasweepError as error:
        print(f"ended: {type(error).__name__}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Store(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]) if sys.argv[4:] else None))
