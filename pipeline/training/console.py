"""Lines for people: what happened, and how far a training is."""

import sys
from typing import Protocol, TextIO


class Console(Protocol):
    """To whom a training speaks."""

    def say(self, text: str) -> None:
        """A line that stays."""
        ...

    def show(self, text: str) -> None:
        """The line of progress, in place of the one before where that is possible."""
        ...


class Terminal:
    """Standard output, or another stream: progress is written over on a terminal, and a line each time elsewhere."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._width = 0  # of the progress that stands on an unfinished line

    def say(self, text: str) -> None:
        self.end()
        print(text, file=self._stream, flush=True)

    def show(self, text: str) -> None:
        if not self._stream.isatty():
            self.say(text)
            return
        print(f"\r{text:<{self._width}}", end="", file=self._stream, flush=True)
        self._width = len(text)

    def end(self) -> None:
        """Leaves the line of progress as it stands."""
        if self._width:
            print(file=self._stream, flush=True)
            self._width = 0
