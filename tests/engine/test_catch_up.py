"""Which slots are done and which are missed: the policies, on a simulated calendar."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from pipeline.config.cron import Cron
from pipeline.engine.catch_up import CatchUp, decide, due
from pipeline.engine.slots import Ledger, Slot

HOURLY = Cron("0 * * * *")
MIDNIGHT = datetime(2026, 11, 26, tzinfo=UTC)


def hour(number: float) -> datetime:
    return MIDNIGHT + timedelta(hours=number)


def done_of(ledger: Ledger, catch_up: CatchUp, now: datetime, asked: datetime | None = None) -> dict[int, str]:
    """By the hour of each slot that is due: an empty text where it is done, else why it is missed."""
    found = decide(due(HOURLY, ledger, now), ledger, catch_up, now, asked)
    return {decision.instant.hour: decision.reason for decision in found}


def test_a_slot_is_due_at_its_instant_and_not_before() -> None:
    ledger = Ledger(since=hour(0))
    assert due(HOURLY, ledger, hour(1) - timedelta(seconds=1)) == []
    assert due(HOURLY, ledger, hour(1)) == [hour(1)]


def test_a_schedule_that_never_began_has_no_slots_due() -> None:
    assert due(HOURLY, Ledger(since=None), hour(5)) == []


def test_a_settled_slot_is_not_due_again_when_the_clock_is_set_back() -> None:
    ledger = Ledger(since=hour(0), outcomes=frozenset({hour(1), hour(2), hour(3)}))
    for now in (hour(3.5), hour(2.5), hour(1), hour(3)):
        assert due(HOURLY, ledger, now) == []
    assert due(HOURLY, ledger, hour(4)) == [hour(4)]


def test_a_slot_that_was_done_while_the_clock_was_ahead_hides_none_of_those_before_it() -> None:
    ledger = Ledger(since=hour(0), outcomes=frozenset({hour(1), hour(9)}))
    assert due(HOURLY, ledger, hour(2.5)) == [hour(2)]
    assert due(HOURLY, ledger, hour(9.5)) == []


def test_latest_does_the_last_slot_however_late_and_the_others_are_missed() -> None:
    found = done_of(Ledger(since=hour(0)), CatchUp("latest"), hour(3.9))
    assert found == {
        1: "nobody fired it, and a later slot was due",
        2: "nobody fired it, and a later slot was due",
        3: "",
    }


def test_all_does_as_many_as_its_limit_oldest_first() -> None:
    found = done_of(Ledger(since=hour(0)), CatchUp("all", limit=2), hour(4))
    assert list(found) == [1, 2, 3, 4]
    assert [number for number, reason in found.items() if not reason] == [3, 4]


def test_skip_does_what_is_on_time_and_what_was_begun_on_time() -> None:
    skip = CatchUp("skip", grace=timedelta(minutes=10))
    assert done_of(Ledger(since=hour(0)), skip, hour(1.1)) == {1: ""}
    assert done_of(Ledger(since=hour(0)), skip, hour(1.5)) == {1: "was not begun within 600 s"}
    assert done_of(Ledger(since=hour(0), begun=frozenset({hour(1)})), skip, hour(1.5)) == {1: ""}


@pytest.mark.parametrize("policy", ["skip", "latest"])
def test_a_slot_that_was_cut_off_is_missed_when_a_later_one_is_due(policy: str) -> None:
    ledger = Ledger(since=hour(0), begun=frozenset({hour(1)}))
    found = done_of(ledger, CatchUp(policy), hour(2))  # type: ignore[arg-type]
    assert found == {1: "was cut off, and a later slot was due", 2: ""}


@pytest.mark.parametrize("policy", ["skip", "latest", "all"])
def test_a_slot_that_failed_as_often_as_it_may_is_missed(policy: str) -> None:
    ledger = Ledger(since=hour(0), begun=frozenset({hour(1)}), failures={hour(1): 3})
    catch_up = CatchUp(policy, attempts=3)  # type: ignore[arg-type]
    assert done_of(ledger, catch_up, hour(1)) == {1: "failed 3 times"}
    twice = Ledger(since=hour(0), begun=frozenset({hour(1)}), failures={hour(1): 2})
    assert done_of(twice, catch_up, hour(1)) == {1: ""}


def test_a_slot_that_is_asked_for_is_done_however_late_it_is() -> None:
    skip = CatchUp("skip", grace=timedelta(minutes=1))
    found = decide(due(HOURLY, Ledger(since=hour(0)), hour(2)), Ledger(since=hour(0)), skip, hour(9), hour(2))
    assert [(decision.instant.hour, decision.is_run) for decision in found] == [(1, False), (2, True)]


def test_a_slot_is_the_same_whatever_zone_its_instant_is_told_in() -> None:
    from zoneinfo import ZoneInfo

    there = Slot("nightly", hour(1).astimezone(ZoneInfo("Asia/Tokyo")))
    assert there.identity == Slot("nightly", hour(1)).identity
    assert there.stamp == "20261126T010000Z"
    assert there.identity != Slot("nightly", hour(2)).identity
    assert there.identity != Slot("weekly", hour(1)).identity


def test_disjoint_seeds_of_neighbouring_minutes_share_none_and_begin_with_a_chunk() -> None:
    firsts = [Slot("s", MIDNIGHT + timedelta(minutes=step)).first_seed(64, 100, 64) for step in range(3)]
    assert [later - earlier for earlier, later in pairwise(firsts)] == [128, 128]
    assert all(first % 64 == 0 for first in firsts)
    assert firsts[0] > 0
