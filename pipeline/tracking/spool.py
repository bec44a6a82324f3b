"""The spool: what was reported and is not yet sent, as files on the local disk.

    <spool>/<target>/               one tracking server and experiment, by digest
        pending/<start>-<pid>-<random>.jsonl        the operations of one run opened by one process, in order
                                     ... .sent      how far they were sent, and to which run
                                     ... .<n>       attachment of operation n: a picture, a file
        runs/<key>.json             the run that a key was found to be
        status.json                 how the sender gets on
        sender.lock, owners.lock, sender.log

One process writes a `.jsonl` and holds a lock on it while it lives (a killed process loses it); the sender of the
machine reads it. Every operation has its time from the moment of the call, so that sending it twice is harmless. The
reader tolerates a torn last line. The first operation, `open`, says the format; marks and status can be lost without
harm. A full disk costs nothing but memory, up to a bound, and is said once.
"""

import errno
import fcntl
import json
import logging
import os
import shutil
import time
import uuid
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.addresses import without_user
from pipeline.digests import digest

Operation = dict[str, Any]

FORMAT = 1  # of the operations; a file whose first one says nothing is of format 1
MAX_WAITING = 20_000  # operations kept in memory while the disk takes none
MAX_WAITING_BYTES = 64 * 2**20  # of their attachments
RETRY_SECONDS = 1.0
_NEEDED = ("open", "params", "tags", "end")  # small and few: kept whatever the bound says

logger = logging.getLogger("pipeline.tracking")


@dataclass(frozen=True)
class SpoolFolder:
    """The folder of one tracking server and experiment."""

    path: Path

    @classmethod
    def of(cls, spool: str, tracking_uri: str, experiment: str) -> "SpoolFolder":
        """Whatever user and password the address holds: one with the right ones sends what wrong ones left."""
        return cls(Path(spool) / digest([without_user(tracking_uri), experiment])[:16])

    def create(self) -> None:
        """Raises:
        OSError: it cannot be written there.
        """
        self.pending.mkdir(parents=True, exist_ok=True)
        self.runs.mkdir(exist_ok=True)

    @property
    def pending(self) -> Path:
        return self.path / "pending"

    @property
    def runs(self) -> Path:
        return self.path / "runs"

    @property
    def status(self) -> Path:
        return self.path / "status.json"

    def files(self) -> list[Path]:
        """What is not yet sent, the oldest first."""
        return sorted(self.pending.glob("[!.]*.jsonl"))

    def run_file(self, key: str) -> Path:
        return self.runs / f"{digest(key)}.json"


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def read_json(path: Path) -> dict[str, Any]:
    """A small file of JSON; empty where it is missing or damaged."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replaces a small file whole.

    Raises:
        OSError: the disk is full, or the folder is gone.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        partial.write_text(json.dumps(content))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def lock(descriptor: int, how: int) -> bool:
    """Whether a lock was had. A file system that knows no locks (some network disks) counts as unlocked."""
    try:
        fcntl.flock(descriptor, how)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            return True
        raise
    return True


class SpoolWriter:
    """Appends the operations of one run. For one thread.

    Never raises for a disk that is full or gone: what cannot be written waits in memory, within a bound, and is written
    when the disk takes it again.
    """

    def __init__(self, folder: SpoolFolder) -> None:
        self.folder = folder
        self.stem = f"{now_ms():015d}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.dropped = 0
        self._file: int | None = None
        self._size = 0  # bytes of whole lines
        self._count = 0
        self._waiting: deque[tuple[Operation, bytes | Path | None]] = deque()
        self._waiting_bytes = 0
        self._next_try = 0.0
        self._told = False

    @property
    def path(self) -> Path:
        return self.folder.pending / f"{self.stem}.jsonl"

    @property
    def is_behind(self) -> bool:
        """Whether something waits in memory for the disk."""
        return bool(self._waiting)

    def append(self, operation: Operation, attachment: bytes | Path | None = None) -> None:
        """Writes one operation, after those that wait.

        Args:
            operation: JSON with `op` and `ts` (ms).
            attachment: bytes, or a file; kept beside the operations.
        """
        if operation["op"] == "open":
            operation = {**operation, "format": FORMAT}
        size = len(attachment) if isinstance(attachment, bytes) else 0
        full = len(self._waiting) >= MAX_WAITING or self._waiting_bytes + size > MAX_WAITING_BYTES
        if self._waiting and full and operation["op"] not in _NEEDED:
            self._drop()
            return
        self._waiting.append((operation, attachment))
        self._waiting_bytes += size
        self.flush()

    def flush(self) -> None:
        """Writes what waits, unless the disk refused a moment ago."""
        if not self._waiting or time.monotonic() < self._next_try:
            return
        try:
            while self._waiting:
                operation, attachment = self._waiting[0]
                self._write(operation, attachment)
                self._waiting.popleft()
                self._waiting_bytes -= len(attachment) if isinstance(attachment, bytes) else 0
        except OSError as error:
            self._next_try = time.monotonic() + RETRY_SECONDS
            self._tell(error)

    def close(self) -> None:
        """Lets go of the file. What could not be written is lost, and that is said."""
        self._next_try = 0.0
        self.flush()
        if self._waiting or self.dropped:
            count = len(self._waiting) + self.dropped
            logger.warning("%s: %d reported operations could not be kept and are lost", self.path, count)
            self._waiting.clear()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _write(self, operation: Operation, attachment: bytes | Path | None) -> None:
        if self._file is None:
            self._file = self._create()
        if attachment is not None:
            operation = {**operation, "attachment": self._attach(attachment)}
        line = json.dumps(operation).encode() + b"\n"
        try:
            written = os.write(self._file, line)
            if written != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            os.ftruncate(self._file, self._size)  # no half line before the next one
            raise
        self._size += len(line)
        self._count += 1

    def _create(self) -> int:
        """The file appears under its name when it is locked, so that nobody takes it for a dead process's."""
        self.folder.create()
        hidden = self.path.with_name(f".{self.path.name}")
        descriptor = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        lock(descriptor, fcntl.LOCK_EX)
        hidden.rename(self.path)
        return descriptor

    def _attach(self, attachment: bytes | Path) -> str:
        """Keeps an attachment; of a file a hard link where that works. Returns its name."""
        target = self.folder.pending / f"{self.stem}.{self._count}"
        target.unlink(missing_ok=True)
        if isinstance(attachment, bytes):
            try:
                target.write_bytes(attachment)
            except OSError:
                target.unlink(missing_ok=True)
                raise
            return target.name
        try:
            os.link(attachment, target)
        except OSError:
            try:
                shutil.copyfile(attachment, target)
            except OSError as error:
                target.unlink(missing_ok=True)
                logger.warning("%s: cannot be kept for the tracker (%s)", attachment, error.strerror or error)
                return str(attachment.absolute())
        return target.name

    def _tell(self, error: OSError) -> None:
        if not self._told:
            self._told = True
            logger.warning(
                "%s: the spool cannot be written (%s); what is reported waits in memory (at most %d operations)",
                self.folder.path, error.strerror or error, MAX_WAITING,
            )  # fmt: skip

    def _drop(self) -> None:
        self.dropped += 1
        if self.dropped == 1:
            logger.warning("%s: the spool cannot be written and memory is full: reports are dropped", self.folder.path)
