"""Reading the spool: what one process wrote and how far it was sent."""

import fcntl
import json
import logging
import os
from pathlib import Path

from pipeline.data.formats import check_format
from pipeline.errors import NewerFormatError
from pipeline.tracking.spool import FORMAT, Operation, SpoolFolder, lock, read_json, write_json

READ_BYTES = 2**20
_FIELDS = {
    "open": {"ts", "key", "name", "tags"},
    "metrics": {"ts", "step", "values"},
    "params": {"values"},
    "tags": {"values"},
    "image": {"ts", "step", "name", "attachment"},
    "text": {"name", "attachment"},
    "file": {"name", "attachment"},
    "dataset": {"name", "digest", "use", "about"},
    "view": {"name", "key", "value"},
    "end": {"ts", "status"},
}

logger = logging.getLogger("pipeline.tracking")


class SpoolReader:
    """Reads the operations of one run in order and remembers how far they were sent.

    Raises:
        FileNotFoundError: the spool was discarded meanwhile.
        NewerFormatError: a later version wrote it; it stays as it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._ownerless = False
        sent = read_json(self._sent_file)
        self.run_id: str = str(sent.get("run_id", ""))
        self.offset: int = int(sent.get("offset", 0))
        self.head: Operation | None = None
        self._read_head()

    def __repr__(self) -> str:
        return f"SpoolReader({self.path.name})"

    @property
    def is_ownerless(self) -> bool:
        """Whether the process that wrote it is gone, or has let go of it."""
        if not self._ownerless:
            self._ownerless = lock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return self._ownerless

    @property
    def is_ended(self) -> bool:
        """Whether its last operation is the end of the run."""
        size = os.fstat(self._file).st_size
        tail = os.pread(self._file, 200, max(size - 200, 0))
        return tail.endswith(b"\n") and tail[:-1].rpartition(b"\n")[2].startswith(b'{"op": "end"')

    def read(self) -> list[tuple[Operation, int]]:
        """The next whole operations that were not sent, each with the offset behind it; empty if there are none."""
        if self.head is None:
            self._read_head()
        return self._lines(self.offset, READ_BYTES)

    def mark(self, run_id: str, offset: int) -> None:
        """Everything before the offset is in that run. Not being able to write it down costs a harmless repeat."""
        self.run_id, self.offset = run_id, offset
        try:
            write_json(self._sent_file, {"run_id": run_id, "offset": offset})
        except OSError as error:
            logger.warning("%s: cannot be written (%s)", self._sent_file, error.strerror or error)

    def attachment(self, operation: Operation) -> Path:
        """Where the attachment of an operation lies."""
        return self.path.parent / str(operation["attachment"])  # an absolute path stays what it is

    def discard(self) -> None:
        """All is sent: removes the files. Attachments go last: without operations they are litter."""
        stem = self.path.name.removesuffix(".jsonl")
        self.path.unlink(missing_ok=True)
        for path in self.path.parent.glob(f"{stem}.*"):
            path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        os.close(self._file)

    def _read_head(self) -> None:
        try:
            check_format(self.path, "what was reported", written_format(self.path), FORMAT)
        except NewerFormatError:
            self.close()
            raise
        head = self._lines(0, READ_BYTES)
        self.head = head[0][0] if head else None

    @property
    def _sent_file(self) -> Path:
        return self.path.with_suffix(".sent")

    def _lines(self, offset: int, limit: int) -> list[tuple[Operation, int]]:
        data = os.pread(self._file, limit, offset)
        while len(data) == limit and b"\n" not in data:  # one operation longer than the limit
            limit *= 2
            data = os.pread(self._file, limit, offset)
        found: list[tuple[Operation, int]] = []
        for line in data.split(b"\n")[:-1]:  # what is behind the last newline is torn, or still being written
            offset += len(line) + 1
            found.append((_operation(line, self.path), offset))
        return found


def written_format(path: Path) -> int:
    """The format of a spool by its first line; 1 where that says nothing, or is not there yet."""
    try:
        with path.open("rb") as file:
            found = json.loads(file.readline(READ_BYTES)).get("format", 1)
    except (OSError, ValueError, AttributeError):
        return 1
    return found if type(found) is int and found > 0 else 1


def _operation(line: bytes, path: Path) -> Operation:
    """One line; a damaged one is an operation that does nothing."""
    try:
        operation = json.loads(line)
        if _FIELDS[operation["op"]] <= operation.keys():
            return dict(operation)
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    logger.warning("%s: a damaged line is skipped", path)
    return {"op": "nothing"}


def sweep(folder: SpoolFolder) -> None:
    """Removes attachments and marks that a killed sender or owner left without operations."""
    found = list(folder.pending.iterdir())  # before the spools: those of an attachment are there before it
    stems = {path.name.removesuffix(".jsonl") for path in folder.files()}
    for path in found:
        stem = path.name.partition(".")[0]
        if stem and not path.name.endswith(".jsonl") and stem not in stems and not path.name.startswith("."):
            path.unlink(missing_ok=True)
