"""The slots of a schedule, and what the store knows of them.

    schedules/<name>/since                     the instant from which on slots count
    schedules/<name>/slots/<slot>/begun        what the slot benchmarks, set once by whoever begins it
    schedules/<name>/slots/<slot>/failure-001  why an attempt failed
    schedules/<name>/slots/<slot>/outcome      what it found, or that it was missed; set once, and never both
    schedules/<name>/slots/<slot>/told         that tracker and webhook have heard of it
    schedules/<name>/gaps/<slot>               many slots up to this one that were missed together
    schedules/<name>/ahead/<slot>              its result is of a time when the clock was ahead of it

A slot is an instant of a schedule. Its name here is the instant in UTC, its identity the digest of that and the
schedule's name: no clock of any machine takes part. One listing tells the state of all.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pipeline.data.store import Store
from pipeline.digests import digest
from pipeline.errors import SettingsError, StoreError

ROOT = "schedules"
_STAMP = "%Y%m%dT%H%M%SZ"
_EPOCH = datetime(2020, 1, 1, tzinfo=UTC)  # disjoint seeds are counted from here; a slot has one minute at least


@dataclass(frozen=True)
class Slot:
    """One firing.

    Args:
        schedule: its name.
        instant: when it is due, UTC, a whole second.
    """

    schedule: str
    instant: datetime

    @property
    def stamp(self) -> str:
        """As keys have it: sorted as the instants are."""
        return self.instant.astimezone(UTC).strftime(_STAMP)

    @property
    def identity(self) -> str:
        """Of everything that belongs to the slot; equal on every machine, whoever fires it."""
        return digest({"schedule": self.schedule, "slot": self.stamp})

    def __str__(self) -> str:
        return f"{self.schedule} {self.instant.astimezone(UTC).isoformat()}"

    def key(self, record: str) -> str:
        return f"{ROOT}/{self.schedule}/slots/{self.stamp}/{record}"

    def first_seed(self, first: int, count: int, chunk_size: int) -> int:
        """Of seeds that no other slot has: every minute since 2020 has a block of its own, of whole chunks."""
        stride = -(-count // chunk_size) * chunk_size
        return first + stride * int((self.instant - _EPOCH).total_seconds() // 60)


def slot_of(schedule: str, text: str) -> Slot:
    """The slot whose instant somebody wrote, such as 2026-11-26T02:00:00+00:00.

    Raises:
        SettingsError: it is no instant, or does not say its offset from UTC.
    """
    instant: datetime | None = None
    with suppress(ValueError):
        instant = datetime.fromisoformat(text)
    if instant is None or instant.tzinfo is None:
        raise SettingsError(
            "--slot", f"must be an instant with its offset, such as 2026-11-26T02:00:00+00:00 (got {text!r})"
        )
    return Slot(schedule, instant.astimezone(UTC))


def _parse(stamp: str) -> datetime:
    return datetime.strptime(stamp, _STAMP).replace(tzinfo=UTC)


@dataclass(frozen=True)
class Ledger:
    """What is known of all slots, by one listing.

    Args:
        since: slots later than this count; None where the schedule was never begun.
        outcomes: slots that have a result or are missed.
        begun: slots that somebody began, those with outcomes too.
        failures: attempts that failed, by slot.
        told: slots that were told.
        gaps: the ends of gaps.
        ahead: slots with a result from before their instant.
    """

    since: datetime | None
    outcomes: frozenset[datetime] = frozenset()
    begun: frozenset[datetime] = frozenset()
    failures: Mapping[datetime, int] = field(default_factory=dict)
    told: frozenset[datetime] = frozenset()
    gaps: frozenset[datetime] = frozenset()
    ahead: frozenset[datetime] = frozenset()

    def settled(self, now: datetime) -> datetime | None:
        """Up to here, each slot has an outcome, for slots are settled in their order. What a clock that was ahead has
        settled before its time says nothing of those before it."""
        ends = (self.since, *(self.outcomes - self.ahead), *self.gaps)
        return max((end for end in ends if end is not None and end <= now), default=None)


def read_ledger(store: Store, schedule: str) -> Ledger:
    """Raises:
    StoreError: the store cannot be read.
    """
    root = f"{ROOT}/{schedule}"
    found: dict[str, list[datetime]] = {"outcome": [], "begun": [], "told": [], "failure": []}
    marked: dict[str, list[datetime]] = {"gaps": [], "ahead": []}
    has_begun = False
    for key in store.committed(root):
        parts = key.removeprefix(f"{root}/").split("/")
        if parts == ["since"]:
            has_begun = True
        elif parts[0] in marked:
            marked[parts[0]].append(_parse(parts[1]))
        elif parts[0] == "slots" and (kind := parts[2].partition("-")[0]) in found:
            found[kind].append(_parse(parts[1]))
    since = datetime.fromisoformat(store.manifest(f"{root}/since").meta["since"]) if has_begun else None
    return Ledger(
        since, frozenset(found["outcome"]), frozenset(found["begun"]), Counter(found["failure"]),
        frozenset(found["told"]), frozenset(marked["gaps"]), frozenset(marked["ahead"]),
    )  # fmt: skip


def begin_schedule(store: Store, schedule: str, since: datetime) -> None:
    """Slots later than this count from now on. A schedule begins once; later calls change nothing."""
    store.commit_new(f"{ROOT}/{schedule}/since", {}, {"since": since.astimezone(UTC).isoformat()})


# -- one slot ----------------------------------------------------------------------------------------------------------


def begin_slot(store: Store, slot: Slot, pinned: Mapping[str, Any]) -> dict[str, Any]:
    """Sets what a slot benchmarks, unless an attempt before did; what counts from now on is returned."""
    about = {"schedule": slot.schedule, "slot": slot.instant.isoformat(), "identity": slot.identity}
    store.commit_new(slot.key("begun"), {}, {**about, **pinned})
    return dict(store.manifest(slot.key("begun")).meta)


def pinned_of(store: Store, slot: Slot) -> dict[str, Any] | None:
    """What an attempt before has set."""
    found = store.find(slot.key("begun"))
    return None if found is None else dict(found.meta)


def record_failure(store: Store, slot: Slot, number: int, reason: str) -> None:
    """Attempts are counted from 1."""
    store.commit_new(slot.key(f"failure-{number:03d}"), {}, {"reason": reason})


def last_failure(store: Store, slot: Slot, number: int) -> str:
    """Why that attempt failed; an empty text where nobody knows."""
    found = store.find(slot.key(f"failure-{number:03d}"))
    return "" if found is None else str(found.meta["reason"])


def record_outcome(store: Store, slot: Slot, content: Mapping[str, Any], blobs: Mapping[str, bytes]) -> bool:
    """Settles a slot; False where it was settled before, which stays."""
    about = {"schedule": slot.schedule, "slot": slot.instant.isoformat(), "identity": slot.identity}
    return store.commit_new(slot.key("outcome"), blobs, {**about, **content})


def record_miss(store: Store, slot: Slot, reason: str) -> bool:
    return record_outcome(store, slot, {"state": "missed", "reason": reason}, {})


def record_gap(store: Store, slots: Sequence[datetime], schedule: str, reason: str) -> None:
    """Many slots were missed together, oldest first."""
    meta = {
        "schedule": schedule, "state": "missed", "slot": slots[0].isoformat(), "until": slots[-1].isoformat(),
        "count": len(slots), "reason": reason,
    }  # fmt: skip
    store.commit_new(f"{ROOT}/{schedule}/gaps/{Slot(schedule, slots[-1]).stamp}", {}, meta)


def record_told(store: Store, slot: Slot, webhook: str) -> None:
    store.commit_new(slot.key("told"), {}, {"webhook": webhook})


def take_back(store: Store, ledger: Ledger, schedule: str, now: datetime) -> list[datetime]:
    """Removes misses later than now, which a clock that was ahead has recorded: they cannot be true. Results stay.

    Returns:
        The slots, and ends of gaps, that were taken back.
    """
    taken = []
    for instant in sorted(instant for instant in ledger.outcomes - ledger.ahead if instant > now):
        found = store.find(Slot(schedule, instant).key("outcome"))
        if found is not None and found.meta["state"] == "missed":
            store.remove(found)
            taken.append(instant)
        else:
            store.commit_new(f"{ROOT}/{schedule}/ahead/{Slot(schedule, instant).stamp}", {}, {"seen": now.isoformat()})
    for instant in sorted(instant for instant in ledger.gaps if instant > now):
        store.remove(store.manifest(f"{ROOT}/{schedule}/gaps/{Slot(schedule, instant).stamp}"))
        taken.append(instant)
    return taken


def read_outcome(store: Store, slot: Slot) -> dict[str, Any] | None:
    """None where the slot is not settled."""
    found = store.find(slot.key("outcome"))
    return None if found is None else dict(found.meta)


def outcome_blob(store: Store, slot: Slot, name: str) -> bytes:
    """Raises:
    StoreError: it is not there, or is damaged.
    """
    found = store.find(slot.key("outcome"))
    if found is None:
        raise StoreError(slot.key("outcome"), "is not in the store")
    return store.blob(found, name)
