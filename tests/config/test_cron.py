"""Instants of cron expressions: against a second implementation that walks the wall clock, and the days clocks change.

The facts of the days: tzdata. Berlin 2026: 29 March 02:00 becomes 03:00, 25 October 03:00 becomes 02:00 again.
"""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.cron import Cron

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def test_a_nightly_slot_is_at_its_wall_time_in_summer_and_in_winter() -> None:
    cron = Cron("30 2 * * *", "Europe/Berlin")
    assert cron.next(at("2026-07-01T00:00+02:00")) == at("2026-07-01T00:30+00:00")
    assert cron.next(at("2026-12-01T00:00+01:00")) == at("2026-12-01T01:30+00:00")


def test_the_hour_that_is_skipped_gives_one_slot_at_its_end() -> None:
    cron = Cron("30 2 * * *", "Europe/Berlin")
    found = cron.between(at("2026-03-28T12:00+01:00"), at("2026-03-30T12:00+02:00"))
    assert found == [at("2026-03-29T03:00+02:00"), at("2026-03-30T02:30+02:00")]


def test_two_slots_within_the_skipped_hour_fall_together_and_are_one() -> None:
    cron = Cron("15,45 2 * * *", "Europe/Berlin")
    found = cron.between(at("2026-03-29T00:00+01:00"), at("2026-03-29T12:00+02:00"))
    assert found == [at("2026-03-29T03:00+02:00")]


def test_the_hour_that_comes_twice_gives_a_fixed_time_once_and_a_star_twice() -> None:
    after, until = at("2026-10-25T00:00+02:00"), at("2026-10-25T12:00+01:00")
    assert Cron("30 2 * * *", "Europe/Berlin").between(after, until) == [at("2026-10-25T02:30+02:00")]
    hourly = Cron("30 * * * *", "Europe/Berlin").between(after, at("2026-10-25T03:00+01:00"))
    assert hourly == [at(f"2026-10-24T{hour}:30+00:00") for hour in (22, 23)] + [
        at(f"2026-10-25T0{hour}:30+00:00") for hour in (0, 1)
    ]


def test_from_within_the_second_of_the_two_hours_the_first_one_is_not_found_again() -> None:
    cron = Cron("15,45 2 * * *", "Europe/Berlin")
    assert cron.next(at("2026-10-25T02:10+01:00")) == at("2026-10-26T02:15+01:00")


ZONES = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Santiago", "Asia/Kolkata", "UTC"]
EXPRESSIONS = [
    "* * * * *",
    "*/7 * * * *",
    "0 2 * * *",
    "15,45 1-3 * * *",
    "30 */2 * * *",
    "0 0 * * 1",
    "5 2,3 29 3,10 *",
]


DAYS = [(3, 29), (10, 25), (4, 5), (10, 4), (11, 1)]  # near a change of clocks, somewhere


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(EXPRESSIONS), st.sampled_from(ZONES), st.sampled_from(DAYS), st.integers(-40, 40),
    st.integers(1, 2000),
)  # fmt: skip
def test_the_same_instants_are_found_wherever_one_begins(
    expression: str, zone: str, day: tuple[int, int], hours: int, minutes: int
) -> None:
    cron = Cron(expression, zone)
    begin = datetime(2026, *day, tzinfo=UTC) + timedelta(hours=hours)
    end, within = begin + timedelta(hours=36), begin + timedelta(minutes=minutes)
    whole = cron.between(begin, end)
    assert whole == sorted(set(whole))
    assert cron.between(within, end) == [instant for instant in whole if instant > within]


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["*/10 * * * *", "7 3 * * *", "0 9-17 * * 1-5"]), st.integers(0, 500_000))
def test_away_from_changes_the_instants_are_the_minutes_whose_wall_time_matches(expression: str, minute: int) -> None:
    begin = datetime(2026, 5, 1, tzinfo=UTC) + timedelta(minutes=minute % 100_000)
    fields = {"*/10 * * * *": lambda t: t.minute % 10 == 0, "7 3 * * *": lambda t: (t.hour, t.minute) == (3, 7)}
    office = lambda t: t.minute == 0 and 9 <= t.hour <= 17 and t.weekday() < 5  # noqa: E731
    matches = fields.get(expression, office)
    minutes = [begin.replace(second=0) + timedelta(minutes=step) for step in range(1, 3 * 1440)]
    wanted = [instant for instant in minutes if matches(instant.astimezone(BERLIN))]
    assert Cron(expression, "Europe/Berlin").between(begin, minutes[-1]) == wanted


def test_the_last_slot_is_found_however_long_ago_it_was() -> None:
    assert Cron("0 0 29 2 *").latest(at("2027-12-31T00:00+00:00")) == at("2024-02-29T00:00+00:00")
    assert Cron("* * * * *").latest(at("2026-11-26T02:00:30+00:00")) == at("2026-11-26T02:00+00:00")


@pytest.mark.parametrize(
    ("expression", "zone", "sentence"),
    [
        ("0 2 * *", "UTC", "must have five fields, such as 0 2 \\* \\* \\* \\(got '0 2 \\* \\*'\\)"),
        ("0 25 * * *", "UTC", "bad hour in '0 25 \\* \\* \\*'"),
        ("0 0 30 2 *", "UTC", "bad day-of-month"),
        ("0 2 * * *", "Europe/Berln", "there is no time zone 'Europe/Berln'"),
        ("0 2 * * *", "../etc/passwd", "there is no time zone"),
    ],
)
def test_what_is_no_schedule_is_refused_in_one_sentence(expression: str, zone: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Cron(expression, zone)
