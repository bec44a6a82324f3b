"""The process that sends: one for each machine, tracking server and experiment, started by whoever reports first.

    python -m pipeline.tracking.sender     with its settings, JSON, on the standard input

It is a process and not a thread because importing MLflow holds Python's global lock for up to 0.2 s at a time, which
would stop the training beside it; and because it can so send the last words of a process that was killed. It detaches
itself, sends what lies in the spool, waits while the server is away, and ends when everything is sent and no process
reports any more (or none has an open run for a while), or when the last one has gone and the server is still away. It
may itself be killed at any time: the next one goes on. User and password are those of the process that started it;
where the server does not take them it says so and ends, so that another process, or the next job, can try its own.
"""

import contextlib
import fcntl
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.addresses import without_user
from pipeline.errors import NewerFormatError
from pipeline.tracking.client import TrackingClient, denial, verdict
from pipeline.tracking.delivery import Delivery
from pipeline.tracking.links import redacted
from pipeline.tracking.spool import SpoolFolder, lock, now_ms, write_json
from pipeline.tracking.spool_reader import SpoolReader, sweep

POLL_SECONDS = 0.1
PACE_SECONDS = 1.0  # between two batches of a run that goes on
MAX_BACKOFF_SECONDS = 3.0
GRACE_SECONDS = 5.0  # that a server may be away after the last reporting process has ended
IDLE_SECONDS = 30.0  # without an open run; the next run starts the next sender
MAX_LOG_BYTES = 2**20
MAX_SAID = 50

logger = logging.getLogger("pipeline.tracking")


@dataclass(frozen=True)
class SenderSettings:
    """What a sender is told: where the spool is and where it goes."""

    tracking_uri: str
    experiment: str
    artifact_root: str
    folder: str
    started_by: int = 0  # the process whose user and password it has


class Sender:
    """The loop. `is_owned` tells whether a process still reports."""

    def __init__(self, settings: SenderSettings, is_owned: Callable[[], bool]) -> None:
        self._settings = settings
        self._is_owned = is_owned
        self._folder = SpoolFolder(Path(settings.folder))
        self._client: TrackingClient | None = None
        self._experiment_id = ""
        self._deliveries: dict[Path, Delivery] = {}
        self._sent_at: dict[Path, float] = {}
        self._left_alone: set[Path] = set()
        self._said = _Said()
        self._status: dict[str, object] = {}
        logger.addHandler(self._said)

    def run(self) -> None:
        """Until there is nothing left to do."""
        away_since, backoff, busy = 0.0, POLL_SECONDS, time.monotonic()
        while True:
            owned = self._is_owned()  # before the round: what an owner wrote last is then seen by it
            sent_before = self._sent()
            try:
                self._round()
            except Exception as error:  # whatever it is, the spool is kept and the next round tries again
                if self._is_sent_away(error):
                    return
                if self._sent() != sent_before:  # a reply was lost, and no more than that
                    away_since, backoff = 0.0, POLL_SECONDS
                    continue
                if away_since:
                    self._tell(str(error))
                away_since = away_since or time.monotonic()
                backoff = min(2 * backoff, MAX_BACKOFF_SECONDS)
                if not owned and time.monotonic() - away_since > GRACE_SECONDS:
                    return
            else:
                away_since, backoff = 0.0, POLL_SECONDS
                self._tell("")
                if self._deliveries:
                    busy = time.monotonic()
                elif not owned or time.monotonic() - busy > IDLE_SECONDS:
                    return
            time.sleep(backoff)

    def _is_sent_away(self, error: Exception) -> bool:
        """Whether the server does not take this user. What trying again does not mend is told."""
        kind, settings = verdict(error), self._settings
        if kind == "refused":
            logger.exception("cannot send")
        if kind == "denied":
            self._tell(denial(error, settings.tracking_uri, settings.experiment), denied=True)
        return kind == "denied"

    def _sent(self) -> dict[Path, tuple[str, int]]:
        """How far everything was sent."""
        return {path: (delivery.spool.run_id, delivery.spool.offset) for path, delivery in self._deliveries.items()}

    def _round(self) -> None:
        """Sends what is due, the oldest spool first, so that of one run an earlier process is heard before a later."""
        if self._client is None:
            settings = self._settings
            self._client = TrackingClient(settings.tracking_uri, settings.experiment, settings.artifact_root)
        self._experiment_id = self._client.experiment_id()
        for path in self._folder.files():
            if path not in self._deliveries and path not in self._left_alone:
                with contextlib.suppress(FileNotFoundError), self._leaving_alone(path):
                    self._deliveries[path] = Delivery(self._client, SpoolReader(path), self._found_run)
        for path, delivery in sorted(self._deliveries.items()):
            if self._is_due(path, delivery):
                with self._leaving_alone(path):
                    delivery.send(self._is_shared(delivery))
                self._sent_at[path] = time.monotonic()
            if delivery.is_done or path in self._left_alone:
                del self._deliveries[path], self._sent_at[path]

    @contextlib.contextmanager
    def _leaving_alone(self, path: Path) -> Iterator[None]:
        """What a later version wrote is for that version's sender."""
        try:
            yield
        except NewerFormatError as error:
            self._left_alone.add(path)
            logger.warning("%s", error)

    def _is_due(self, path: Path, delivery: Delivery) -> bool:
        waited = time.monotonic() - self._sent_at.get(path, -PACE_SECONDS)
        return waited >= PACE_SECONDS or delivery.spool.is_ended or delivery.spool.is_ownerless

    def _is_shared(self, delivery: Delivery) -> bool:
        others = [other for other in self._deliveries.values() if other is not delivery and other.key == delivery.key]
        return any(not (other.spool.is_ended or other.spool.is_ownerless) for other in others)

    def _found_run(self, key: str, run_id: str) -> None:
        with contextlib.suppress(OSError):  # only links are made of it
            write_json(self._folder.run_file(key), {"run_id": run_id, "experiment_id": self._experiment_id})

    def _tell(self, problem: str, denied: bool = False) -> None:
        """Leaves word for the reporting processes."""
        status: dict[str, object] = {
            "problem": redacted(problem, self._settings.tracking_uri),
            "denied": denied,
            "started_by": self._settings.started_by,
            "experiment_id": self._experiment_id,
            "said": [redacted(line, self._settings.tracking_uri) for line in self._said.lines],
        }
        if problem or status != self._status:
            self._status = status
            with contextlib.suppress(OSError):
                write_json(self._folder.status, {**status, "pid": os.getpid(), "time": now_ms()})


class _Said(logging.Handler):
    """Keeps the warnings, so that the reporting process can repeat them where a person reads them."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info is None and len(self.lines) < MAX_SAID:
            self.lines.append(record.getMessage())


class _Formatter(logging.Formatter):
    """Errors name the address that was asked, and a traceback names it again: here without its password."""

    def format(self, record: logging.LogRecord) -> str:
        return without_user(super().format(record))


def main() -> None:
    """Detaches, takes the place of the sender if that is free, and sends."""
    settings = SenderSettings(**json.load(sys.stdin))
    if os.fork():  # so that nobody's exit takes it along, and nobody need wait for it
        os._exit(0)
    os.nice(10)  # the work beside it goes first
    folder = SpoolFolder(Path(settings.folder))
    mine = os.open(folder.path / "sender.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    if not lock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB):
        return
    _log_to(folder.path / "sender.log")
    owners = os.open(folder.path / "owners.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def is_owned() -> bool:
        if not lock(owners, fcntl.LOCK_EX | fcntl.LOCK_NB):
            return True
        lock(owners, fcntl.LOCK_UN)
        return False

    sweep(folder)
    Sender(settings, is_owned).run()


def _log_to(path: Path) -> None:
    if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
        path.unlink()
    handler = logging.FileHandler(path)
    handler.setFormatter(_Formatter("%(asctime)s %(process)d %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(descriptor, target)


if __name__ == "__main__":
    main()
