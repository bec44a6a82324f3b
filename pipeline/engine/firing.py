"""Fires a schedule: settles every slot that is due, one process at a time, each slot once.

A slot is settled by one record that is created once, whoever else works on it; the lease of the schedule sees to it
that nobody does. What a slot computes lies in the store under the slot's own names, so an attempt that was cut off is
gone on with, and not begun anew.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from pipeline.config.cron import Cron
from pipeline.data import lease
from pipeline.data.store import Store
from pipeline.engine import slots
from pipeline.engine.catch_up import CatchUp, Decision, decide, due
from pipeline.engine.progress import say
from pipeline.engine.slots import Slot
from pipeline.errors import HeldError, SettingsError, SigmasweepError, UserError

MOST_MISSES = 100  # that are recorded one by one; of more, the older ones are one gap
_LOOK_BACK = 8  # settled slots, of which those that were not told yet are told

DONE, FAILED, ALARM, BUSY, MISSED = 0, 1, 3, 4, 5  # exit codes; 2 is a mistake in the settings


@dataclass(frozen=True)
class Found:
    """What a slot's benchmark found: JSON, and files beside it."""

    content: Mapping[str, Any]
    blobs: Mapping[str, bytes] = field(default_factory=dict)


Perform = Callable[[Slot], Found]
Tell = Callable[[Slot, Mapping[str, Any]], str]  # of a settled slot; what became of the webhook


def now_utc() -> datetime:
    return datetime.now(UTC)


@dataclass
class Firing:
    """One process that fires a schedule.

    Args:
        store: where slots are kept.
        schedule: its name.
        times: when it fires.
        catch_up: what becomes of slots that were not done at their time.
        perform: benchmarks a slot. What it raises is a failed attempt.
        tell: tells tracker and webhook of a settled slot; called again for the same slot where a process ended between
            settling and telling.
        retry_s: seconds before a failed slot is tried again.
        clock: the time, UTC.
        sleep: waits.
    """

    store: Store
    schedule: str
    times: Cron
    catch_up: CatchUp
    perform: Perform
    tell: Tell
    retry_s: float = 30.0
    clock: Callable[[], datetime] = now_utc
    sleep: Callable[[float], None] = time.sleep

    def fire(self, asked: Slot | None = None) -> int:
        """Settles what is due: up to a slot that somebody asked for, or up to now.

        Returns:
            The exit code: that of the slots that were done here, the worst of them; or, where there was nothing to do,
            that of the slot that was asked for, or of the last one that was due.

        Raises:
            SettingsError: a slot that is asked for is none of this schedule, or lies ahead.
            UserError: an attempt failed by a mistake of the user's; recorded as a failure.
        """
        now = self.clock()
        if asked is not None:
            self._check(asked, now)
        slots.begin_schedule(self.store, self.schedule, self._first(asked, now) - timedelta(seconds=1))
        try:
            with lease.held(self.store, f"{slots.ROOT}/{self.schedule}", say) as held:
                codes = self._settle_all(asked, held)
        except HeldError as error:
            say(f"{error}; nothing was done here")
            return BUSY
        return max(codes) if codes else self._code_of(asked, now)

    def _settle_all(self, asked: Slot | None, held: lease.Lease) -> list[int]:
        """One slot after another, oldest first, until none is due."""
        codes: list[int] = []
        self._tell_untold()
        while True:
            decisions = self._decide(asked)
            misses = [decision for decision in decisions if not decision.is_run]
            run = next((decision for decision in decisions if decision.is_run), None)
            held.check()
            self._record_misses([miss for miss in misses if run is None or miss.instant < run.instant])
            if run is None:
                return codes
            codes.append(self._attempt(Slot(self.schedule, run.instant), held))
            if codes[-1] == FAILED:
                self.sleep(self.retry_s)

    def _decide(self, asked: Slot | None) -> list[Decision]:
        now = self.clock()
        taken = slots.take_back(self.store, slots.read_ledger(self.store, self.schedule), self.schedule, now)
        if taken:
            say(f"{self.schedule}: {len(taken)} misses lay ahead of the clock, and are taken back")
        ledger = slots.read_ledger(self.store, self.schedule)
        until = now if asked is None else asked.instant
        waiting = due(self.times, ledger, until)
        return decide(waiting, ledger, self.catch_up, until, None if asked is None else asked.instant)

    def _attempt(self, slot: Slot, held: lease.Lease) -> int:
        say(f"slot {slot}: begins")
        try:
            found = self.perform(slot)
        except Exception as error:
            self._failed(slot, error)
            if isinstance(error, UserError) or not isinstance(error, SigmasweepError):
                raise
            return FAILED
        held.check()
        content = {**found.content, "state": "done", "finished": self.clock().isoformat()}
        slots.record_outcome(self.store, slot, content, found.blobs)
        return self._tell(slot)

    def _failed(self, slot: Slot, error: Exception) -> None:
        sentence = str(error) or type(error).__name__
        say(f"slot {slot}: failed: {sentence}")
        number = slots.read_ledger(self.store, self.schedule).failures.get(slot.instant, 0) + 1
        slots.record_failure(self.store, slot, number, sentence)

    def _tell(self, slot: Slot) -> int:
        outcome = slots.read_outcome(self.store, slot)
        assert outcome is not None
        try:
            slots.record_told(self.store, slot, self.tell(slot, outcome))
        except SigmasweepError as error:  # the slot is settled whoever hears of it; the next call tells again
            say(f"slot {slot}: could not be told: {error}")
        return code_of(outcome)

    def _tell_untold(self) -> None:
        """Of slots that were settled by a process that ended before it could tell."""
        ledger = slots.read_ledger(self.store, self.schedule)
        for instant in sorted(ledger.outcomes)[-_LOOK_BACK:]:
            if instant not in ledger.told:
                self._tell(Slot(self.schedule, instant))

    def _record_misses(self, misses: list[Decision]) -> None:
        older, newer = misses[:-MOST_MISSES], misses[-MOST_MISSES:]
        if older:
            slots.record_gap(self.store, [miss.instant for miss in older], self.schedule, older[-1].reason)
            say(f"{self.schedule}: {len(older)} slots up to {older[-1].instant.isoformat()} were missed")
        failures = slots.read_ledger(self.store, self.schedule).failures if newer else {}
        for miss in newer:
            slot = Slot(self.schedule, miss.instant)
            last = slots.last_failure(self.store, slot, failures.get(miss.instant, 0))
            slots.record_miss(self.store, slot, f"{miss.reason}; {last}" if last else miss.reason)
            say(f"slot {slot}: missed: {miss.reason}")
            self._tell(slot)

    def _first(self, asked: Slot | None, now: datetime) -> datetime:
        return self.times.latest(now) if asked is None else asked.instant

    def _check(self, asked: Slot, now: datetime) -> None:
        if not self.times.fires_at(asked.instant):
            near = self.times.next(asked.instant).isoformat()
            raise SettingsError("--slot", f"{asked.instant.isoformat()} is no slot of {self.schedule}; one is {near}")
        if asked.instant > now:
            raise SettingsError("--slot", f"{asked.instant.isoformat()} is yet to come (it is {now.isoformat()})")

    def _code_of(self, asked: Slot | None, now: datetime) -> int:
        """Where there was nothing to do: of the slot that was asked for, or of the last one that was due."""
        slot = asked or Slot(self.schedule, self.times.latest(now))
        outcome = slots.read_outcome(self.store, slot)
        if outcome is not None:
            say(f"slot {slot}: was settled before ({outcome.get('verdict', outcome['state'])})")
            return code_of(outcome)
        if asked is None:
            say(f"{self.schedule}: nothing is due")
            return DONE
        ledger = slots.read_ledger(self.store, self.schedule)
        if ledger.since is not None and slot.instant > ledger.since:
            say(f"slot {slot}: was missed, with others")
            return MISSED
        raise SettingsError("--slot", f"{slot.instant.isoformat()} lies before the schedule began ({ledger.since})")


def code_of(outcome: Mapping[str, Any]) -> int:
    """The exit code of a settled slot."""
    if outcome["state"] == "missed":
        return MISSED
    return ALARM if outcome["verdict"] == "regression" else DONE
