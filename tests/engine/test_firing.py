"""Slots are settled once, whoever fires, however often, whenever it is cut off. Real stores, leases and processes."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.cron import Cron
from pipeline.data import lease
from pipeline.data.store import Store
from pipeline.engine import slots
from pipeline.engine.catch_up import CatchUp
from pipeline.engine.firing import ALARM, BUSY, DONE, FAILED, MISSED, MOST_MISSES, Firing, Found
from pipeline.engine.slot_history import history, history_json, history_table, summary
from pipeline.engine.slots import Slot
from pipeline.errors import RunFailedError, SettingsError
from tests.engine.processes import wait_until

MIDNIGHT = datetime(2026, 11, 26, tzinfo=UTC)
SETTING = {"name": "heun", "title": "FD", "distance": 1.0, "low": None, "high": None}
GOOD = {
    "verdict": "good", "why": "", "changes": [], "baseline": None, "champion": None, "version": "1",
    "settings": [SETTING],
}  # fmt: skip


def hour(number: float) -> datetime:
    return MIDNIGHT + timedelta(hours=number)


@dataclass
class World:
    """A schedule, every hour, with a clock that is set by hand, and what was done."""

    store: Store
    now: datetime = MIDNIGHT
    catch_up: CatchUp = field(default_factory=CatchUp)
    verdict: str = "good"
    error: BaseException | None = None
    performed: list[int] = field(default_factory=list)
    told: list[tuple[int, str]] = field(default_factory=list)

    def perform(self, slot: Slot) -> Found:
        slots.begin_slot(self.store, slot, {})
        self.performed.append(slot.instant.hour)
        if self.error is not None:
            raise self.error
        return Found({**GOOD, "verdict": self.verdict})

    def tell(self, slot: Slot, outcome: Mapping[str, Any]) -> str:
        self.told.append((slot.instant.hour, outcome["state"]))
        return "none"

    def fire(self, asked: float | None = None) -> int:
        firing = Firing(
            self.store, "s", Cron("0 * * * *"), self.catch_up, self.perform, self.tell, 0.0, lambda: self.now
        )
        return firing.fire(None if asked is None else Slot("s", hour(asked)))


@pytest.fixture
def world(tmp_path: Path) -> World:
    store = Store(tmp_path)
    slots.begin_schedule(store, "s", MIDNIGHT)
    return World(store)


def outcome(world: World, number: float) -> dict[str, Any]:
    found = slots.read_outcome(world.store, Slot("s", hour(number)))
    assert found is not None
    return found


def test_a_slot_that_is_fired_again_is_not_done_again(world: World) -> None:
    world.now = hour(1.1)
    assert [world.fire(), world.fire(), world.fire(1)] == [DONE] * 3
    assert world.performed == [1]
    assert world.told == [(1, "done")]


def test_a_clock_that_is_set_back_gives_no_second_result(world: World) -> None:
    for now in (2.1, 1.5, 1.1, 2.05, 3.0):
        world.now = hour(now)
        world.fire()
    assert world.performed == [2, 3]


def test_misses_that_a_clock_ahead_recorded_are_taken_back_when_it_is_right_again(world: World) -> None:
    world.now = hour(5.5)  # it is half past one in truth
    world.fire()
    assert sorted(slots.read_ledger(world.store, "s").outcomes) == [hour(number) for number in range(1, 6)]
    world.now = hour(1.6)
    world.fire()
    world.now = hour(2.1)
    world.fire()
    assert world.performed == [5, 2]
    world.now = hour(6.1)
    world.fire()
    assert {number: outcome(world, number)["state"] for number in range(1, 7)} == {
        1: "missed", 2: "done", 3: "missed", 4: "missed", 5: "done", 6: "done",
    }  # fmt: skip


def test_the_exit_code_of_a_slot_is_the_same_whoever_asks(world: World) -> None:
    world.now, world.verdict = hour(1.1), "regression"
    assert [world.fire(), world.fire(), world.fire(1)] == [ALARM] * 3
    world.now, world.verdict = hour(3.1), "good"
    assert world.fire() == DONE
    assert world.fire(2) == MISSED


def test_a_slot_that_failed_is_tried_again_and_at_last_missed_with_its_reason(world: World) -> None:
    world.now, world.error = hour(1.1), RunFailedError("Ray", "could not be reached")
    assert world.fire() == FAILED
    assert world.performed == [1, 1, 1]
    assert outcome(world, 1)["reason"] == "failed 3 times; Ray: could not be reached"
    assert world.told == [(1, "missed")]


def test_a_failed_slot_that_then_succeeds_has_one_result(world: World) -> None:
    world.now, world.error = hour(1.1), SettingsError("metrics.dataset", "must be given")
    with pytest.raises(SettingsError):
        world.fire()
    world.error = None
    assert world.fire() == DONE
    assert outcome(world, 1)["state"] == "done"


def test_what_was_settled_and_not_told_is_told_by_the_next_one(world: World) -> None:
    world.now = hour(1.1)

    class Killed(BaseException):
        pass

    def killed(slot: Slot, outcome: Mapping[str, Any]) -> str:
        raise Killed

    right, world.tell = world.tell, killed  # type: ignore[method-assign]
    with pytest.raises(Killed):
        world.fire()
    assert outcome(world, 1)["state"] == "done"
    world.tell = right  # type: ignore[method-assign]
    assert world.fire() == DONE
    assert (world.performed, world.told) == ([1], [(1, "done")])


def test_thousands_of_missed_slots_are_one_gap_and_some_misses(world: World) -> None:
    world.now = hour(3000)
    assert world.fire() == DONE
    entries = history(world.store, "s")
    assert sum(entry.count for entry in entries if entry.state == "missed") == 2999
    assert len(entries) == 1 + MOST_MISSES + 1
    assert summary(entries)[0] == "1 slots with results, 2999 missed, 0 alarms"
    assert world.fire(17) == MISSED
    world.now = hour(3001)
    world.fire()
    assert len(world.performed) == 2


@pytest.mark.parametrize(
    ("asked", "sentence"), [(1.5, "is no slot of s; one is 2026-11-26T02:00"), (7, "is yet to come")]
)
def test_a_slot_that_is_none_is_refused(world: World, asked: float, sentence: str) -> None:
    world.now = hour(4)
    with pytest.raises(SettingsError, match=sentence):
        world.fire(asked)
    assert world.performed == []


def test_nothing_is_due_before_the_first_slot_of_a_schedule_that_was_begun(world: World) -> None:
    world.now = hour(0.5)
    assert world.fire() == DONE
    assert world.performed == []


def test_a_tracker_that_is_away_keeps_no_slot_from_being_done(world: World) -> None:
    def away(slot: Slot, outcome: Mapping[str, Any]) -> str:
        raise RunFailedError("mlflow", "cannot be reached")

    right, world.tell = world.tell, away  # type: ignore[method-assign]
    for number in (1, 2):
        world.now = hour(number + 0.1)
        assert world.fire() == DONE
    world.tell = right  # type: ignore[method-assign]
    assert world.fire() == DONE
    assert world.told == [(1, "done"), (2, "done")]


def test_a_slot_before_the_schedule_began_is_refused(world: World) -> None:
    world.now = hour(4)
    with pytest.raises(SettingsError, match="lies before the schedule began"):
        world.fire(-3)


def test_an_instant_without_offset_is_refused() -> None:
    for text in ("2026-11-26T02:00:00", "tonight"):
        with pytest.raises(SettingsError, match="must be an instant with its offset"):
            slots.slot_of("s", text)


def test_an_old_holder_that_wakes_up_settles_nothing(world: World) -> None:
    world.now = hour(1.1)

    def slow(slot: Slot) -> Found:
        ours = lease._newest(world.store, "schedules/s")
        other = lease.Lease(world.store, "schedules/s", ours + 1, lease.this_process())
        assert lease.claim(other)  # this process was held up, and another one has taken over
        slots.record_outcome(world.store, slot, {**GOOD, "state": "done", "why": "the other's"}, {})
        return Found({**GOOD, "why": "mine"})

    world.perform = slow  # type: ignore[method-assign]
    with pytest.raises(RunFailedError, match="was taken over"):
        world.fire()
    assert outcome(world, 1)["why"] == "the other's"


def test_the_history_shows_every_slot_in_the_time_of_its_zone(world: World) -> None:
    world.now = hour(2.1)
    world.fire()
    slots.begin_slot(world.store, Slot("s", hour(3)), {})
    table = history_table(history(world.store, "s"), "Europe/Berlin")
    assert "| 2026-11-26 02:00 +0100 | missed" in table
    assert "| 2026-11-26 04:00 +0100 | begun" in table
    assert '"state": "missed"' in history_json(history(world.store, "s"))


# -- processes ---------------------------------------------------------------------------------------------------------

FIRE = [sys.executable, "-m", "tests.engine.firing_driver"]


def start(*arguments: object) -> "subprocess.Popen[str]":
    return subprocess.Popen([*FIRE, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_two_processes_that_fire_one_slot_at_once_give_one_result(tmp_path: Path) -> None:
    both = [start(tmp_path, "0.5") for _ in range(2)]
    told = [process.communicate(timeout=60)[0] for process in both]
    codes = sorted(process.returncode for process in both)
    assert codes in ([DONE, DONE], [DONE, BUSY]), told
    assert "".join(told).count("performed") == 1, told
    assert len(slots.read_ledger(Store(tmp_path), "s").outcomes) == 1


def test_a_process_that_is_killed_in_a_slot_leaves_it_to_the_next_one_at_once(tmp_path: Path) -> None:
    first = start(tmp_path, "600")
    wait_until(lambda: slots.read_ledger(Store(tmp_path), "s").begun, 60)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    second = start(tmp_path, "0")
    told = second.communicate(timeout=60)[0]
    assert second.returncode == DONE, told
    assert "goes on with what 1 began" in told
    ledger = slots.read_ledger(Store(tmp_path), "s")
    assert len(ledger.outcomes) == len(ledger.begun) == 1
