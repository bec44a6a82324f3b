"""What becomes of slots that are due: done, or missed. A function of what is known, without a store or a clock."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from pipeline.config.cron import Cron
from pipeline.engine.slots import Ledger

Policy = Literal["skip", "latest", "all"]
NOBODY = "nobody fired it"


@dataclass(frozen=True)
class CatchUp:
    """The policy; see `ScheduleJob`."""

    policy: Policy = "latest"
    limit: int = 24
    grace: timedelta = timedelta(minutes=10)
    attempts: int = 3


@dataclass(frozen=True)
class Decision:
    """Of one slot. Without a reason it is to be done, with one it is missed."""

    instant: datetime
    reason: str = ""

    @property
    def is_run(self) -> bool:
        return not self.reason


def due(times: Cron, ledger: Ledger, now: datetime) -> list[datetime]:
    """The slots up to now that have no outcome, oldest first."""
    settled = ledger.settled(now)
    if settled is None:
        return []
    missed_until = max(ledger.gaps, default=settled)
    return [
        instant for instant in times.between(settled, now) if instant not in ledger.outcomes and instant > missed_until
    ]


def decide(
    slots: Sequence[datetime], ledger: Ledger, catch_up: CatchUp, now: datetime, asked: datetime | None = None
) -> list[Decision]:
    """What becomes of each slot that is due.

    Args:
        slots: oldest first.
        now: by the clock of whoever fires.
        asked: the slot that somebody asked for by name: it is done, however late it is.
    """
    wanted = _wanted(slots, ledger.begun, catch_up, now) | {instant for instant in slots if instant == asked}
    return [Decision(instant, _reason(instant, wanted, ledger, catch_up)) for instant in slots]


def _wanted(slots: Sequence[datetime], begun: AbstractSet[datetime], catch_up: CatchUp, now: datetime) -> set[datetime]:
    if catch_up.policy == "all":
        return set(slots[-catch_up.limit :])
    if catch_up.policy == "latest":
        return set(slots[-1:])
    return {instant for instant in slots[-1:] if instant in begun or now - instant <= catch_up.grace}


def _reason(instant: datetime, wanted: AbstractSet[datetime], ledger: Ledger, catch_up: CatchUp) -> str:
    failures: Mapping[datetime, int] = ledger.failures
    failed = failures.get(instant, 0)
    if instant in wanted:
        return f"failed {failed} times" if failed >= catch_up.attempts else ""
    if failed:
        return f"failed {failed} times, and a later slot was due"
    if instant in ledger.begun:
        return "was cut off, and a later slot was due"
    if catch_up.policy == "skip":
        return f"was not begun within {catch_up.grace.total_seconds():g} s"
    later = "a later slot was" if catch_up.policy == "latest" else f"{catch_up.limit} later ones were"
    return f"{NOBODY}, and {later} due"
