"""Fires one slot that takes a while: `python -m tests.engine.firing_driver STORE SECONDS`."""

import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pipeline.config.cron import Cron
from pipeline.data import lease
from pipeline.data.store import Store
from pipeline.engine import slots
from pipeline.engine.catch_up import CatchUp
from pipeline.engine.firing import Firing, Found
from pipeline.engine.slots import Slot

NOW = datetime(2026, 11, 26, 1, 1, tzinfo=UTC)
RESULT = {
    "verdict": "good", "why": "", "changes": [], "baseline": None, "champion": None, "version": "1", "settings": [],
}  # fmt: skip


def main(store: Store, seconds: float) -> int:
    lease.BEAT_S, lease.PATIENCE_S = 0.2, 2.0

    def perform(slot: Slot) -> Found:
        before = slots.pinned_of(store, slot)
        print(f"goes on with what {before['by']} began" if before else "begins", flush=True)
        slots.begin_slot(store, slot, {"by": 1})
        time.sleep(seconds)
        print("performed", flush=True)
        return Found(RESULT)

    def tell(slot: Slot, outcome: Mapping[str, Any]) -> str:
        return "none"

    return Firing(store, "s", Cron("0 * * * *"), CatchUp(), perform, tell, 0.0, lambda: NOW).fire()


if __name__ == "__main__":
    sys.exit(main(Store(sys.argv[1]), float(sys.argv[2])))
