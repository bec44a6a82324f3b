"""When a schedule fires: the instants of a cron expression in a time zone, each one UTC.

Expressions and the change of clocks are those of Debian's cron, by the library cronsim. An hour that is skipped: a job
of a fixed time within it fires at its end, once. An hour that comes twice: a job of a fixed time fires in the first of
the two, a job with a star in its minutes or hours in both.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

_RUN_UP = timedelta(hours=26)  # the library begins so much earlier: what it finds must not depend on where it begins
_FIELDS = 5


@dataclass(frozen=True)
class Cron:
    """A cron expression of five fields in a time zone.

    Args:
        expression: minute, hour, day of the month, month, day of the week, such as `0 2 * * *`.
        zone: a name of the time zone database, such as `Europe/Berlin`.

    Raises:
        ValueError: the expression is none, never fires, or there is no such zone.
    """

    expression: str
    zone: str = "UTC"

    def __post_init__(self) -> None:
        try:
            ZoneInfo(self.zone)
        except (KeyError, ValueError, OSError) as error:  # not found, a path, a folder
            raise ValueError(f"time_zone: there is no time zone {self.zone!r}; write Europe/Berlin, or UTC") from error
        if len(self.expression.split()) != _FIELDS:
            raise ValueError(f"cron: must have five fields, such as 0 2 * * * (got {self.expression!r})")
        try:
            next(CronSim(self.expression, datetime(2024, 1, 1, tzinfo=UTC)))
        except CronSimError as error:
            raise ValueError(f"cron: {str(error).lower()} in {self.expression!r}") from error
        except StopIteration:
            raise ValueError(f"cron: {self.expression!r} never fires") from None

    def after(self, instant: datetime) -> Iterator[datetime]:
        """The instants later than this one, ascending, UTC; without end, but for the year 9999."""
        last = instant
        for found in CronSim(self.expression, (instant - _RUN_UP).astimezone(ZoneInfo(self.zone))):
            utc = found.astimezone(UTC)
            if utc > last:  # else it lies before, or two that were skipped fall together
                yield utc
                last = utc

    def next(self, instant: datetime) -> datetime:
        """The first one later than this."""
        return next(self.after(instant))

    def between(self, after: datetime, until: datetime, most: int | None = None) -> list[datetime]:
        """Those later than `after`, up to and with `until`, at most so many of the first."""
        return list(islice(_until(self.after(after), until), most))

    def latest(self, instant: datetime) -> datetime:
        """The last one up to this instant.

        Raises:
            ValueError: there was none in 50 years.
        """
        days = 1
        while days < 50 * 366:
            found = self.between(instant - timedelta(days=days), instant)
            if found:
                return found[-1]
            days *= 4
        raise ValueError(f"cron: {self.expression!r} did not fire in the 50 years before {instant.isoformat()}")

    def fires_at(self, instant: datetime) -> bool:
        return self.next(instant - timedelta(seconds=1)) == instant


def _until(instants: Iterator[datetime], until: datetime) -> Iterator[datetime]:
    for instant in instants:
        if instant > until:
            return
        yield instant
