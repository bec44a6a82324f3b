"""The service of a schedule: waits for the next slot, and has a process of its own settle what is due.

The service knows the clock and nothing else. A slot's process may die, hang or be killed with its cluster: the service
sees that, and starts the next one. Another service beside it, on this machine or another, does no harm.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from pipeline.config.cron import Cron
from pipeline.data.store import Store
from pipeline.engine import slots
from pipeline.engine.catch_up import due
from pipeline.engine.firing import ALARM, BUSY, DONE, MISSED, now_utc
from pipeline.engine.progress import say
from pipeline.engine.slots import Slot
from pipeline.errors import StoreError

_NAP_S = 5.0  # the longest sleep: a clock that is set, or a machine that slept, is noticed so soon
_GRACE_S = 20.0  # between asking a process to end and ending it


@dataclass
class Service:
    """Args:
    store: where slots are kept.
    schedule: its name.
    times: when it fires.
    command: of a process that settles what is due.
    retry_s: seconds before the next process where one failed, or another one is at work.
    time_limit_s: a process that takes longer is ended.
    clock: the time, UTC.
    sleep: waits.
    """

    store: Store
    schedule: str
    times: Cron
    command: Sequence[str]
    retry_s: float
    time_limit_s: float
    clock: Callable[[], datetime] = now_utc
    sleep: Callable[[float], None] = time.sleep

    def run(self) -> None:
        """Serves until it is interrupted."""
        slots.begin_schedule(self.store, self.schedule, self.clock())
        said: datetime | None = None
        while True:
            now = self.clock()
            try:
                waiting = due(self.times, slots.read_ledger(self.store, self.schedule), now)
            except StoreError as error:
                say(f"{error}; looks again in {self.retry_s:g} s")
                self.sleep(self.retry_s)
                continue
            if waiting:
                self._settle(waiting[-1])
                continue
            following = self.times.next(now)
            if following != said:
                said = following
                say(f"{self.schedule}: the next slot is {following.isoformat()}")
            self.sleep(min(max((following - now).total_seconds(), 0.05), _NAP_S))

    def _settle(self, slot: datetime) -> None:
        """Runs one process; waits a little where it did not settle what was due."""
        try:
            code = self._process()
        except subprocess.TimeoutExpired:
            self._failed(slot, f"took longer than {self.time_limit_s:g} s and was ended")
        else:
            if code in (DONE, ALARM, MISSED):
                return
            if code == BUSY:
                say(f"{self.schedule}: another process is at work; looks again in {self.retry_s:g} s")
            elif code < 0:
                self._failed(slot, f"its process was ended by signal {-code}")
        self.sleep(self.retry_s)

    def _process(self) -> int:
        """The exit code of a process that settles; below zero, the signal that ended it."""
        process = subprocess.Popen(self.command, start_new_session=True)
        try:
            return process.wait(self.time_limit_s)
        except BaseException:  # too long, or the service is to end: so is what it started, which can be gone on with
            _end(process)
            raise

    def _failed(self, until: datetime, reason: str) -> None:
        """The process could not say so itself: of the slots that were begun, or of the last one that is due."""
        ledger = slots.read_ledger(self.store, self.schedule)
        waiting = due(self.times, ledger, until)
        for instant in [instant for instant in waiting if instant in ledger.begun] or waiting[-1:]:
            slot = Slot(self.schedule, instant)
            slots.record_failure(self.store, slot, ledger.failures.get(instant, 0) + 1, reason)
            say(f"slot {slot}: {reason}")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Asks the process to end, then ends it with all that belongs to it."""
    _signal(process.pid, signal.SIGINT)
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        _signal(process.pid, signal.SIGKILL)
        process.wait()


def _signal(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return
