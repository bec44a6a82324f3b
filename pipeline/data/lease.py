"""Leases: what one process at a time may do, such as going on with a training.

    leases/<name>/<term>         made once, by `create_if_absent`: who holds this term. The highest term owns the lease.
    leases/<name>/<term>-beat    written anew by the holder while it lives, and removed when it lets go

A lease is never taken from a holder that shows life. No two machines' clocks are compared: who wants it watches the
beat, and takes the next term when it stood still for `PATIENCE_S`, or at once where the holder was a process of this
machine that is gone. Whoever held the term before is old from then on, and `Lease.check` tells it so: it asks before
it touches anything that may change, however long it was held up.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from pipeline.data.formats import check_format
from pipeline.data.store import Store
from pipeline.errors import HeldError, NewerFormatError, RunFailedError, StoreError

ROOT = "leases"
FORMAT = 1  # of the file of a term; one without a number is of format 1
BEAT_S = 10.0  # between signs of life
PATIENCE_S = 40.0  # without one; several beats, since a slow store may cost some
_GLANCE_S = 0.5  # between looks at another's beat

Say = Callable[[str], None]


@dataclass(frozen=True)
class Holder:
    """A process that holds a lease.

    Args:
        id: of the holding; no two are alike.
        host: for people.
        pid: of the process.
        since: when it began, UTC.
        machine: names the boot and the space of process ids in which `pid` means something; empty where unknown.
        started: when the process was started, in its machine's ticks: a process id is given out again.
    """

    id: str
    host: str
    pid: int
    since: str
    machine: str
    started: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"

    @property
    def is_gone(self) -> bool:
        """Whether it surely is: it was a process of this machine, and is no more."""
        return bool(self.machine) and self.machine == _machine() and _started(self.pid) != self.started


@dataclass(frozen=True)
class Lease:
    """The right to do what `name` stands for, as long as no later term was begun. Picklable: workers ask it too.

    Args:
        store: where it is kept.
        name: of what is leased.
        term: counted from 1; the fencing token.
        holder: who has it.
    """

    store: Store
    name: str
    term: int
    holder: Holder

    def check(self) -> None:
        """Raises:
        RunFailedError: another process has taken over, so this one must change nothing any more.
        """
        newest = _newest(self.store, self.name)
        try:
            found = _holder(self.store, self.name, newest)
        except NewerFormatError:
            found = None
        if newest != self.term or found not in (None, self.holder):
            by = f"{found}" if found else "another process"
            raise RunFailedError(self.name, f"was taken over by {by}; this one ({self.holder}) is old and stops")

    def beat(self) -> None:
        """Shows life."""
        self.store.write(_beat_key(self.name, self.term), uuid.uuid4().hex.encode())

    def release(self) -> None:
        """Lets others have it at once."""
        with suppress(StoreError):  # they wait a little longer
            self.store.delete(_beat_key(self.name, self.term))  # which a full disk allows

    def forget(self) -> None:
        """As `release`, and leaves no trace of the term: for who has changed nothing."""
        self.release()
        with suppress(StoreError):
            self.store.delete(_key(self.name, self.term))


@contextmanager
def held(store: Store, name: str, say: Say) -> Iterator[Lease]:
    """Holds a lease, and shows life, while the block runs.

    Args:
        say: told whose place is taken, and that this may take a while.

    Raises:
        HeldError: a living process holds it.
        NewerFormatError: a later version held it last.
    """
    lease = acquire(store, name, say)
    ended = threading.Event()
    thread = threading.Thread(target=_keep_beating, args=(lease, ended), daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        ended.set()
        thread.join()
        lease.release()


def acquire(store: Store, name: str, say: Say) -> Lease:
    """The next term of a lease, when its holder has let it go, is gone, or has shown no life for a while.

    Raises:
        HeldError: a living process holds it.
        NewerFormatError: a later version held it last.
    """
    while True:
        newest = _newest(store, name)
        if newest:
            _wait_until_free(store, name, newest, say)
        lease = Lease(store, name, newest + 1, this_process())
        if claim(lease):
            return lease


def claim(lease: Lease) -> bool:
    """Begins the lease's term, unless another process was faster; then removes what is left of those before it."""
    store, name, term = lease.store, lease.name, lease.term
    lease.beat()  # first, since a term without a beat is one that was let go
    try:
        made = store.create_if_absent(_key(name, term), to_bytes(lease.holder))
    except StoreError:
        if _holder(store, name, term) != lease.holder:
            raise
        made = True
    if not made and _holder(store, name, term) != lease.holder:  # else it was made, and the answer was lost
        return False
    if _newest(store, name) != term:  # this process slept since it looked, and the term had been and gone
        store.delete(_key(name, term))
        store.delete(_beat_key(name, term))
        return False
    for key in store.keys(f"{ROOT}/{name}"):
        if key < _key(name, term):  # none of a later term, which may have begun meanwhile
            store.delete(key)
    return True


def _wait_until_free(store: Store, name: str, term: int, say: Say) -> None:
    """Raises:
    HeldError: the holder shows life.
    """
    holder = _holder(store, name, term)
    who = f"{holder}" if holder else "another process"
    first = _read(store, _beat_key(name, term))
    if not first:
        return
    if holder is not None and holder.is_gone:
        say(f"{name}: {who} is gone; its place is taken")
        return
    say(f"{name}: is held by {who}; waits up to {PATIENCE_S:g} s to see whether it lives")
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        time.sleep(_GLANCE_S)
        beat = _read(store, _beat_key(name, term))
        if not beat or _newest(store, name) != term:
            return
        if beat != first:
            raise HeldError(name, f"is held by {who}, which is at work: wait until it has ended, or stop it")
    say(f"{name}: {who} has shown no life for {PATIENCE_S:g} s; its place is taken")


def _keep_beating(lease: Lease, ended: threading.Event) -> None:
    while not ended.wait(BEAT_S):
        with suppress(StoreError):  # a full disk or a lost network: the next beat may come through
            if _newest(lease.store, lease.name) != lease.term:
                return
            lease.beat()


def _newest(store: Store, name: str) -> int:
    """The highest term; 0 where there is none."""
    names = (key.rpartition("/")[2] for key in store.keys(f"{ROOT}/{name}"))
    return max((int(name) for name in names if name.isdecimal()), default=0)


def to_bytes(holder: Holder) -> bytes:
    return json.dumps({"format": FORMAT, **asdict(holder)}).encode()


def _holder(store: Store, name: str, term: int) -> Holder | None:
    """None where it cannot be told.

    Raises:
        NewerFormatError: it is a process of a later version.
    """
    key = _key(name, term)
    try:
        content = json.loads(_read(store, key))
        check_format(f"{store.title}/{key}", "a lease", content.pop("format", 1), FORMAT)
        return Holder(**content)
    except (ValueError, TypeError, AttributeError):
        return None


def _read(store: Store, key: str) -> bytes:
    """Empty where it is not there, or cannot be read."""
    try:
        return store.read(key)
    except StoreError:
        return b""


def _key(name: str, term: int) -> str:
    return f"{ROOT}/{name}/{term:012d}"


def _beat_key(name: str, term: int) -> str:
    return f"{_key(name, term)}-beat"


# -- processes ---------------------------------------------------------------------------------------------------------


def this_process() -> Holder:
    since = datetime.now(UTC).isoformat(" ", "seconds")
    pid = os.getpid()
    return Holder(uuid.uuid4().hex, socket.gethostname(), pid, since, _machine(), _started(pid))


def _machine() -> str:
    """Where process ids mean the same: one boot of one machine, and in it one container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux: there the beat alone tells
        return ""


def _started(pid: int) -> str:
    """When a living process was started, in ticks; empty where there is none. One that waits to be buried is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
