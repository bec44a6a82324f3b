"""Processes of Ray that are found and killed by their id, and waiting for what they do."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def below(root: int, word: str) -> list[int]:
    """Ids of the processes that descend from `root` and have the word in their title, ascending."""
    parents, titles = {}, {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            titles[int(path.name)] = (path / "cmdline").read_text()
        except OSError:
            continue  # it has ended meanwhile
    found = {root}
    while grown := {child for child, parent in parents.items() if parent in found} - found:
        found |= grown
    return sorted(process for process in found if word in titles.get(process, ""))


def is_running(process: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextmanager
def meanwhile(action: Callable[[], None], patience: float = 60) -> Iterator[None]:
    """Does something in a thread while the block runs; what it raises is raised at the end."""
    errors: list[BaseException] = []

    def act() -> None:
        try:
            action()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=act)
    thread.start()
    yield
    thread.join(timeout=patience)
    assert not thread.is_alive()
    if errors:
        raise errors[0]


def wait_until(condition: Callable[[], Any], seconds: float = 120) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
    return found


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[str]", seconds: float = 600) -> None:
    """Waits for what a process does; it must not end before."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "this takes too long"
        time.sleep(0.05)


def stop_once(marks: Iterable[Path]) -> None:
    """Stops this process, if one of these files is not there yet: as many processes as files."""
    for mark in marks:
        with suppress(FileExistsError):
            mark.touch(exist_ok=False)
            os.kill(os.getpid(), signal.SIGSTOP)
            return
