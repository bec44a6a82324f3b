"""A real disk that is really full: a small file system in memory. It takes the right to mount one."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_FILLER = "filler"


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """A folder on a disk of its own. Where none can be mounted the test is skipped."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, but_kilobytes: int = 0) -> None:
    """Fills the disk up to so much."""
    with (disk / _FILLER).open("wb", buffering=0) as file:
        try:
            while file.write(b"\0" * 4096) == 4096:
                pass
        except OSError:
            pass
        file.truncate(max((disk / _FILLER).stat().st_size - 1024 * but_kilobytes, 0))


def free(disk: Path) -> None:
    """Removes what filled it."""
    (disk / _FILLER).unlink()
