"""The reporting side of a process: one thread that writes the spool and sees to it that a sender is there.

A call of a run puts one operation into a queue and returns. It touches no disk and no network, so the thread that
trains or samples waits for neither.
"""

import atexit
import fcntl
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from pipeline.addresses import without_user
from pipeline.tracking.links import artifact_root
from pipeline.tracking.sender import SenderSettings
from pipeline.tracking.spool import FORMAT, Operation, SpoolFolder, SpoolWriter, lock, now_ms, read_json
from pipeline.tracking.spool_reader import written_format

Attachment = bytes | Path | Callable[[], bytes] | None

TICK_SECONDS = 1.0
DENIED_SECONDS = 30.0  # until the next try after the server took neither user nor password
MAX_QUEUED = 100_000  # operations on their way to the disk; only a disk that hangs lets them grow
EXIT_SECONDS = 5.0  # that the end of a process waits for the disk

logger = logging.getLogger("pipeline.tracking")


class Hub:
    """What one process reports to one experiment of one server."""

    def __init__(self, tracking_uri: str, experiment: str, spool: str) -> None:
        self.tracking_uri = tracking_uri
        self._experiment = experiment
        self.folder = SpoolFolder.of(spool, tracking_uri, experiment)
        self._queue: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._writers: list[SpoolWriter] = []
        self._thread: threading.Thread | None = None
        self._start_lock = threading.Lock()
        self._started = self._fresh = now_ms()
        self._tried = -DENIED_SECONDS  # when this process last started a sender
        self._owner = -1
        self._problem = ""
        self._told: set[str] = set()
        self._overflowed = False

    # -- called by whoever reports --------------------------------------------------------------------------------

    def open(self) -> SpoolWriter:
        """A spool for one run; its file is made when the first operation is written."""
        writer = SpoolWriter(self.folder)
        self._do(lambda: self._writers.append(writer))
        return writer

    def put(self, writer: SpoolWriter, operation: Operation, attachment: Attachment = None) -> None:
        """Hands over one operation. Returns at once."""
        if self._queue.qsize() > MAX_QUEUED and operation["op"] not in ("open", "end", "params", "tags"):
            if not self._overflowed:
                self._overflowed = True
                logger.warning("%s: the disk of the spool hangs: reports are dropped", self.folder.path)
            return
        self._do(lambda: self._write(writer, operation, attachment))

    def flush(self, timeout: float) -> bool:
        """Waits until everything in the spool, other processes' and earlier jobs' too, is at the server.

        Returns:
            Whether it is. What is not stays in the spool, and is sent at the next start.
        """
        deadline = time.monotonic() + timeout
        self._fresh, self._tried = now_ms(), -DENIED_SECONDS  # one try of our own, whatever was denied before
        if not self.settle(timeout):
            return False
        waiting = [spool for path in self.folder.files() if (spool := _to_be_sent(path)) is not None]
        next_look = 0.0
        while waiting := [(path, size) for path, size in waiting if not _is_sent(path, size)]:
            if time.monotonic() > deadline or self._denial().get("started_by") == os.getpid():
                self._do(self._listen)  # the reason first
                self.settle(1.0)
                self._warn_unsent(len(waiting))
                return False
            if time.monotonic() > next_look:
                self._do(self._tick)  # a sender that was killed, or that ended a moment ago, gets a successor
                next_look = time.monotonic() + 0.5
            time.sleep(0.02)
        return True

    def wake(self) -> None:
        """Has the spool looked at: what an earlier job left there is sent."""
        self._do(self._tick)

    def settle(self, timeout: float) -> bool:
        """Waits until what was reported is on the disk."""
        if self._thread is None and self._queue.empty():
            return True
        done = threading.Event()
        self._do(done.set)
        return done.wait(timeout)

    def experiment_id(self, timeout: float) -> str:
        """The experiment's id as the sender found it, empty if it does not in this time."""
        deadline = time.monotonic() + timeout
        while not (found := str(read_json(self.folder.status).get("experiment_id", ""))):
            if time.monotonic() > deadline:
                return ""
            self._do(self._ensure_sender)
            time.sleep(0.2)
        return found

    # -- in the thread --------------------------------------------------------------------------------------------

    def _do(self, action: Callable[[], None]) -> None:
        self._queue.put(action)
        if self._thread is None:
            with self._start_lock:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="sigmasweep-tracking", daemon=True)
                    self._thread.start()

    def _run(self) -> None:
        self._guarded(self._begin)
        next_tick = time.monotonic()
        while True:
            with suppress(Empty):
                self._guarded(self._queue.get(timeout=TICK_SECONDS))
            if time.monotonic() >= next_tick:
                self._guarded(self._tick)
                next_tick = time.monotonic() + TICK_SECONDS

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # the tracker must never end the job; each kind of trouble is said once
            if str(error) not in self._told:
                self._told.add(str(error))
                logger.warning("%s: tracking is in trouble (%s: %s)", self.folder.path, type(error).__name__, error)

    def _begin(self) -> None:
        """Makes the folder, elsewhere if it must be, and says that this process reports."""
        try:
            self.folder.create()
        except OSError as error:
            there = Path(tempfile.gettempdir()) / f"sigmasweep-spool-{os.getuid()}" / self.folder.path.name
            logger.warning("%s: cannot be made (%s); spooling to %s", self.folder.path, error.strerror or error, there)
            there.parent.mkdir(mode=0o700, exist_ok=True)
            if there.parent.lstat().st_uid != os.getuid():
                raise PermissionError(f"{there.parent} belongs to somebody else") from error
            self.folder = SpoolFolder(there)
            self.folder.create()
            for writer in self._writers:
                writer.folder = self.folder

    def _write(self, writer: SpoolWriter, operation: Operation, attachment: Attachment) -> None:
        writer.folder = self.folder
        writer.append(operation, attachment() if callable(attachment) else attachment)
        if operation["op"] == "end":
            writer.close()
            self._writers.remove(writer)

    def _tick(self) -> None:
        """The regular look: waiting operations, the sender, and what the sender has to say."""
        for writer in self._writers:
            writer.flush()
        if self._owner < 0:
            self._claim()
        if self.folder.files() or not self.folder.status.exists():
            self._ensure_sender()
        self._listen()

    def _claim(self) -> None:
        """A shared lock that lasts as long as this process: the sender stays while any process has it."""
        descriptor = os.open(self.folder.path / "owners.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if lock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB):
            self._owner = descriptor
        else:
            os.close(descriptor)  # the sender is just looking

    def _ensure_sender(self) -> None:
        # Another process may have been denied for a password that is not ours: each has its own tries.
        if self._denial() and time.monotonic() - self._tried < DENIED_SECONDS:
            return
        descriptor = os.open(self.folder.path / "sender.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if not lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB):
                return
        finally:
            os.close(descriptor)
        self._tried = time.monotonic()
        root = artifact_root(self.tracking_uri)
        folder = str(self.folder.path.absolute())
        settings = SenderSettings(self.tracking_uri, self._experiment, root, folder, os.getpid())
        subprocess.run(  # it detaches itself: this waits for the start only. The address may hold a password: no argv
            [sys.executable, "-P", "-m", "pipeline.tracking.sender"],
            input=json.dumps(asdict(settings)).encode(),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},  # noqa: PTH109
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            timeout=60,
            check=False,
        )

    def _denial(self) -> Mapping[str, Any]:
        """What a sender told that was sent away a moment ago, for its user or password; empty if none was."""
        status = read_json(self.folder.status)
        told = int(status.get("time", 0))
        is_new = told >= self._fresh and now_ms() - told < 1000 * DENIED_SECONDS
        return status if status.get("denied") and is_new else {}

    def _listen(self) -> None:
        """Says what the sender has met, once each."""
        status = read_json(self.folder.status)
        if int(status.get("time", 0)) < self._started:
            return
        problem, server = _problem(status), without_user(self.tracking_uri)
        if problem.partition(" (")[0] != self._problem.partition(" (")[0]:
            kept = f"The work goes on; what it reports is kept in {self.folder.path} and sent later"
            logger.warning("%s: %s", server, f"{problem}. {kept}" if problem else "can be reached again")
        self._problem = problem
        for line in status.get("said", []):
            if line not in self._told:
                self._told.add(line)
                logger.warning("%s", line)

    def _warn_unsent(self, count: int) -> None:
        logger.warning(
            "%s: the reports of %d runs could not be sent yet; they are kept in %s and sent at the next start",
            without_user(self.tracking_uri), count, self.folder.path,
        )  # fmt: skip


def _problem(status: Mapping[str, Any]) -> str:
    """What a sender met, as it goes on after the server's address; empty where all is well."""
    found = str(status.get("problem", "")).partition("\n")[0]
    return found if not found or status.get("denied") else f"cannot be reached ({found[:160]})"


def _to_be_sent(path: Path) -> tuple[Path, int] | None:
    """A spool and its size; None of one that is a later version's, or that the sender removed meanwhile."""
    try:
        return (path, path.stat().st_size) if written_format(path) <= FORMAT else None
    except FileNotFoundError:
        return None


def _is_sent(path: Path, size: int) -> bool:
    """Whether a spool was sent up to a size: discarded, or marked as far."""
    return not path.exists() or int(read_json(path.with_suffix(".sent")).get("offset", 0)) >= size


_hubs: dict[tuple[str, str, str], Hub] = {}
_hubs_lock = threading.Lock()


def hub_of(tracking_uri: str, experiment: str, spool: str) -> Hub:
    """The hub of this process for a server and an experiment."""
    with _hubs_lock:
        key = (tracking_uri, experiment, spool)
        if key not in _hubs:
            _hubs[key] = Hub(*key)
        return _hubs[key]


def _forget() -> None:
    """A forked process has none of its parent's threads, so it begins anew."""
    global _hubs, _hubs_lock
    _hubs, _hubs_lock = {}, threading.Lock()


def _settle() -> None:
    """At the end of the process: what was reported gets to the disk; the sender does the rest."""
    for hub in list(_hubs.values()):
        hub.settle(EXIT_SECONDS)


os.register_at_fork(after_in_child=_forget)
atexit.register(_settle)
