"""How a job ends when it is told to: by Ctrl-C, or by SIGTERM as `ray job stop`, systemd and Kubernetes send it."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM came. Everything that is let go of on Ctrl-C is let go of now."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Within the block the first SIGTERM raises `Terminated`; the next ones are ignored, for it is ending already."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated
