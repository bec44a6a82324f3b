"""A schedule of one-minute slots whose clock runs ten times as fast:

    python -m tests.engine.fast_schedule serve|fire STORE BEGIN

BEGIN is when the clock was right, in seconds since 1970. A slot takes a second, and writes a line into STORE/../work.
"""

import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.config.cron import Cron
from pipeline.data import lease
from pipeline.data.store import Store
from pipeline.engine import slots
from pipeline.engine.catch_up import CatchUp
from pipeline.engine.firing import Firing, Found
from pipeline.engine.schedule_service import Service
from pipeline.engine.slots import Slot

SPEED = 10
TIMES = Cron("* * * * *")
SETTING = {"name": "heun", "title": "FD", "distance": 1.0, "low": None, "high": None}
RESULT = {
    "verdict": "good", "why": "", "changes": [], "baseline": None, "champion": None, "version": "1",
    "settings": [SETTING],
}  # fmt: skip


def main(verb: str, folder: str, begin: float) -> int:
    lease.BEAT_S, lease.PATIENCE_S = 0.2, 2.0
    store = Store(folder)

    def clock() -> datetime:
        return datetime.fromtimestamp(begin + SPEED * (time.time() - begin), UTC)

    def perform(slot: Slot) -> Found:
        slots.begin_slot(store, slot, {})
        time.sleep(1)
        with (Path(folder).parent / "work").open("a") as work:
            work.write(f"{slot.stamp}\n")
        return Found(RESULT)

    def tell(slot: Slot, outcome: Mapping[str, Any]) -> str:
        return "none"

    if verb == "fire":
        return Firing(store, "fast", TIMES, CatchUp("all", limit=3), perform, tell, 0.1, clock).fire()
    command = [sys.executable, "-m", "tests.engine.fast_schedule", "fire", folder, str(begin)]
    Service(store, "fast", TIMES, command, 0.5, 60, clock, lambda seconds: time.sleep(min(seconds / SPEED, 0.2))).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
