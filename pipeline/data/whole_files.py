"""Files of a local disk that are there whole or not at all, whenever the process or the machine dies."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def attempt() -> str:
    """A name that no other attempt uses."""
    return uuid.uuid4().hex[:12]


def replace_file(path: Path, data: bytes | memoryview) -> None:
    """Writes a file, replacing what was there.

    Raises:
        OSError: it cannot be written; what was there stays.
    """
    with _hidden(path, data) as partial:
        partial.replace(path)


def create_file(path: Path, data: bytes) -> bool:
    """Writes a file unless there is one; of all that race, one gets True.

    Raises:
        OSError: it cannot be written.
    """
    with _hidden(path, data) as partial:
        try:
            os.link(partial, path)
        except FileExistsError:
            return False
        return True


@contextmanager
def _hidden(path: Path, data: bytes | memoryview) -> Iterator[Path]:
    """The data on the disk, under a name that begins with a dot and is gone after the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{attempt()}")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield partial
    finally:
        partial.unlink(missing_ok=True)
