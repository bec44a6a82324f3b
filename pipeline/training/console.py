"""Lines for people: what happened, and how far the work is."""

import shutil
import sys
import time
from collections.abc import Callable
from typing import Literal, Protocol, TextIO

EVERY_S = 15.0  # at most one line of progress in so many seconds, where lines cannot be written over


class Console(Protocol):
    """To whom a job speaks."""

    def say(self, text: str) -> None:
        """A line that stays."""
        ...

    def show(self, text: str) -> None:
        """The line of progress, in place of the one before where that is possible."""
        ...


class Terminal:
    """Standard output, or another stream: progress is written over on a terminal; elsewhere, as in the log of a
    cluster's job, it is a whole line now and then, and the last one always.

    Args:
        stream: where to, or which of the process's own, as it is at that moment.
        clock: tells the time, in seconds.
    """

    def __init__(
        self, stream: TextIO | Literal["stdout", "stderr"] = "stdout", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._given = stream
        self._clock = clock
        self._width = 0  # of the progress that stands on an unfinished line
        self._shown: float | None = None  # when progress was last shown as a line of its own
        self._kept_back = ""  # progress that came too soon after

    def say(self, text: str) -> None:
        self._finish_line()
        print(text, file=self._stream, flush=True)

    def show(self, text: str) -> None:
        if not self._stream.isatty():
            self._show_now_and_then(text)
            return
        text = text[: shutil.get_terminal_size().columns - 1]  # a line that wraps could not be written over
        print(f"\r{text:<{self._width}}", end="", file=self._stream, flush=True)
        self._width = len(text)

    def end(self) -> None:
        """Leaves the last progress as it stands."""
        self._finish_line()
        if self._kept_back:
            print(self._kept_back, file=self._stream, flush=True)
        self._kept_back, self._shown = "", None

    # -- within --------------------------------------------------------------------------------------------------

    @property
    def _stream(self) -> TextIO:
        return getattr(sys, self._given) if isinstance(self._given, str) else self._given

    def _finish_line(self) -> None:
        if self._width:
            print(file=self._stream, flush=True)
            self._width = 0

    def _show_now_and_then(self, text: str) -> None:
        now = self._clock()
        if self._shown is not None and now - self._shown < EVERY_S:
            self._kept_back = text
            return
        self._kept_back, self._shown = "", now
        print(text, file=self._stream, flush=True)
