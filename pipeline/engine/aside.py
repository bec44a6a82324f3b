"""Work that must not hold up the driver, done in a thread beside it: the measures of a point that is complete."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Generic, TypeVar

T = TypeVar("T")


class Aside(Generic[T]):
    """Calls a function, in order and one call at a time. What a call raised is raised by `check`, and at the end."""

    def __init__(self, function: Callable[[T], object], thread: ThreadPoolExecutor) -> None:
        self._function, self._thread = function, thread
        self._calls: list[Future[object]] = []

    def __call__(self, argument: T) -> None:
        self._calls.append(self._thread.submit(self._function, argument))

    def check(self) -> None:
        """Raises what a call raised, if one did."""
        while self._calls and self._calls[0].done():
            self._calls.pop(0).result()

    def finish(self) -> None:
        """Waits for all calls."""
        for call in self._calls:
            call.result()


@contextmanager
def aside(function: Callable[[T], object]) -> Iterator[Aside[T]]:
    """Calls within the block are done at its end, also where it raises; a person who stops it waits for one at most."""
    with ThreadPoolExecutor(1, "aside") as thread:
        calls = Aside(function, thread)
        try:
            yield calls
            calls.finish()
        except Exception:
            with suppress(Exception):  # the first error is the one to be told
                calls.finish()
            raise
        finally:
            thread.shutdown(cancel_futures=True)
