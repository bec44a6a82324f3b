"""Actors that have not said yet that they are there: those that wait for a device, and those that hang.

Both are silent. But Ray gives an actor its process only together with its device, so one that has a process, and says
nothing for long, has stopped or waits for what never comes, such as a storage that does not answer.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.engine.pulse import Watch

LEAST_S = 300.0  # that a start is given: its imports may come from a slow disk, which no count tells of


class Starts:
    """Watches Ray actors while they start, each known by a number.

    Args:
        patience: seconds that a start may take once the actor has its device; see `Watch`, and at least `LEAST_S`.
        clock: tells the time, in seconds.
    """

    def __init__(self, patience: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._watch = Watch(max(patience, LEAST_S), clock)
        self.progressed = self._watch.progressed

    @property
    def interval(self) -> float:
        """Seconds from look to look."""
        return self._watch.interval

    @property
    def words(self) -> str:
        """Why one that hangs is given up."""
        return f"it did not start within {self._watch.patience:g} s"

    def look(self, starting: Callable[[], Mapping[int, Any]]) -> list[int]:
        """Those that hang, of the actors that are starting. Nobody, if it is not yet time."""
        if not self._watch.is_due:
            return []
        return self._watch.look([worker for worker, actor in starting().items() if has_process(actor)])[1]


def has_process(actor: Any) -> bool:
    """Whether Ray has found a device for an actor, and a process on it: then the actor has an address. What is public
    asks the dashboard, which not every session has."""
    from ray._private.state import actors

    try:
        told = actors(actor._actor_id.hex())
    except Exception:  # of no common type: a head that does not answer now is asked again at the next look
        return False
    return bool(told and told["Address"]["Port"])
