"""What a fault came to, in one line for docs/reliability.md."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

Tell = Callable[[str], None]


@contextmanager
def telling(capsys: pytest.CaptureFixture[str]) -> Iterator[Tell]:
    """Lines for the terminal, each with the seconds since the block began."""
    start = time.monotonic()

    def tell(line: str) -> None:
        with capsys.disabled():
            print(f"\n  {line} ({time.monotonic() - start:.0f} s)", flush=True)

    yield tell
