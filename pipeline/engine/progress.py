"""The line of progress of the engine's work: how far it is, and an honest time left. One line at a time, on stderr."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.training.console import Console, Terminal
from pipeline.training.progress import duration

_CONSOLE = Terminal("stderr")


def say(line: str) -> None:
    """One line for people, above the line of progress."""
    _CONSOLE.say(line)


class Line:
    """Tells of one piece of work.

    The time left is what remains, at the rate since work began. It is counted in units that take equally long, and told
    as soon as something is done; between two events it runs down by the clock.

    Args:
        what: the work is, such as `images`.
        total: how many of them.
        console: takes the line.
        work: of all of them, in units that take equally long; their number by default.
        clock: tells the time, in seconds.
    """

    def __init__(
        self, what: str, total: int, console: Console, work: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._what, self._total, self._console, self._clock = what, total, console, clock
        self._work = float(total if work is None else work)
        self._done, self._work_done = 0, 0.0
        self._begun: float | None = None
        self._uncounted = 0, 0.0  # was there before the clock ran
        self._note = ""

    def begin(self) -> None:
        """Somebody is at work; until then the clock stands. The first call counts; without one, the first that is done
        starts the clock, and tells nothing of the rate itself."""
        if self._begun is None:
            self._begun = self._clock()
            self._uncounted = self._done, self._work_done

    def advance(self, count: int = 1, work: float | None = None, note: str = "") -> None:
        """Something is done.

        Args:
            count: how many.
            work: their work, where they are not all alike.
            note: stays at the end of the line.
        """
        self._done += count
        self._work_done += count if work is None else work
        self.begin()
        self._note = note or self._note
        self._console.show(self.text())

    def seconds_left(self) -> float | None:
        """None where nothing is known yet."""
        counted = self._work_done - self._uncounted[1]
        if self._begun is None or not counted:
            return None
        return (self._clock() - self._begun) * (self._work - self._work_done) / counted

    def text(self) -> str:
        left = self.seconds_left()
        told = [f"{self._what}: {self._done:,} of {self._total:,}"]
        if left is not None and self._begun is not None:
            seconds = self._clock() - self._begun
            told.append(f"{(self._done - self._uncounted[0]) / max(seconds, 1e-9):,.3g}/s")
            told.append(f"in {duration(seconds)}" if self._done >= self._total else f"{duration(left)} left")
        return ", ".join([*told, *([self._note] if self._note else [])])


class Silence:
    """A console that tells nobody."""

    def say(self, text: str) -> None: ...

    def show(self, text: str) -> None: ...


@contextmanager
def line(what: str, total: int, shown: bool = True, work: float | None = None) -> Iterator[Line]:
    """A line of progress within a block."""
    try:
        yield Line(what, total, _CONSOLE if shown else Silence(), work)
    finally:
        if shown:
            _CONSOLE.end()
