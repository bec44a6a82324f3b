"""The Ray session: joins the cluster that a job was submitted to, or starts one on this machine while it is needed."""

import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pipeline.errors import RunFailedError, SettingsError

# Read by Ray when it is imported: no usage reports leave the machine, the numbers of GPUs that an actor without GPUs
# sees stay as they are, and Ray Train notices a dead worker within seconds.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_V2_ENABLED": "1",
}
_LOOPBACK_SWITCH = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
_KNOCKS_S = (1, 2, 4, 8)  # between tries to reach a cluster
_started_in = 0.0
_sharers = 0  # blocks of `shared_session` that are open
_OBJECT_STORE_BYTES = 512 * 1024**2  # of a session of our own: weights and chunks in flight, nothing large


@dataclass(frozen=True)
class Resources:
    """What the cluster has, or may grow to when it is asked for."""

    cpus: int
    gpus: int


@contextmanager
def session(num_cpus: int | None = None) -> Iterator[Resources]:
    """A connected Ray, and what it has. A session that was there before stays; one that is started here ends here, or
    with the block of `shared_session` around it.

    Args:
        num_cpus: of a session of our own that nobody shares; empty takes the machine's.

    Raises:
        RunFailedError: Ray cannot be started here, or the cluster cannot be reached.
        SettingsError: what the cluster may grow to is no number.
    """
    set_environment()
    with _on_loopback():
        import ray

    ours = not ray.is_initialized()
    if ours:
        _start(None if _sharers else num_cpus)
    try:
        yield _resources()
    finally:
        if ours and not _sharers:
            ray.shutdown()


@contextmanager
def shared_session() -> Iterator[None]:
    """Within it Ray is started at most once, when it is first needed: what has nothing to compute, or is wrong, does
    not wait for it."""
    global _sharers
    borrowed = is_connected()
    _sharers += 1
    try:
        yield
    finally:
        _sharers -= 1
        if not borrowed and not _sharers and is_connected():
            sys.modules["ray"].shutdown()


def is_connected() -> bool:
    """Whether this process has a Ray session. Ray is not imported for it."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def started_in() -> float:
    """Seconds that it took to start or join Ray in this process, the last time."""
    return _started_in


def set_environment() -> None:
    """What Ray reads when it is imported: to be called before."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if not os.environ.get("RAY_ADDRESS"):
        _guard()


def is_submitted() -> bool:
    """Whether `ray job submit` started this process. Its working folder is a copy that Ray deletes."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def _guard() -> None:
    """A session of our own listens on every interface of the machine, as Ray does; its token is known to its processes
    alone, and is written nowhere."""
    if "ray" not in sys.modules:  # what was imported has read it already
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _resources() -> Resources:
    import ray

    there = ray.cluster_resources()
    return Resources(*(max(int(there.get(kind, 0)), _may_grow_to(kind)) for kind in ("CPU", "GPU")))


def _may_grow_to(kind: str) -> int:
    """What an autoscaler brings at most when it is asked for. Ray does not tell, so the cluster's owner does.

    Raises:
        SettingsError: it is no number.
    """
    name = f"SIGMASWEEP_MAX_{kind}S"
    told = os.environ.get(name, "0") if os.environ.get("RAY_ADDRESS") else "0"
    if not told.isdecimal():
        raise SettingsError(name, f"must be the number of {kind}s that the cluster may grow to (got {told})")
    return int(told)


@contextmanager
def _on_loopback() -> Iterator[None]:
    """While Ray is imported within it, a session of our own will listen on loopback alone, as on Windows and macOS.

    Whoever reaches Ray's ports can run code. `ray start` would refuse other machines, so the variable does not stay.
    """
    if os.environ.get("RAY_ADDRESS") or _LOOPBACK_SWITCH in os.environ:
        yield
        return
    os.environ[_LOOPBACK_SWITCH] = "0"
    try:
        yield
    finally:
        os.environ.pop(_LOOPBACK_SWITCH, None)


def _start(num_cpus: int | None) -> None:
    global _started_in
    begin = time.perf_counter()
    try:
        with _own_signals():
            _connect(num_cpus)
    except Exception as error:  # of no common type: a busy machine, an address where nobody listens, a full disk
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise RunFailedError("Ray", f"could not be started or reached ({first_line}){_mend()}") from error
    _started_in = time.perf_counter() - begin


def _mend() -> str:
    if not os.environ.get("RAY_ADDRESS"):
        return ""
    return ": see whether RAY_ADDRESS is right, and RAY_AUTH_MODE and the token are the cluster's"


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray takes the signal that asks to stop for itself, and would end the process in the middle of what it does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _knock(address: str) -> None:
    """Ray would ask for many minutes at an address where nobody listens.

    Raises:
        OSError: nobody answers.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:  # `auto`, or a client's address
        return
    for wait in (*_KNOCKS_S, None):  # a head that has just begun to start is given a moment
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
            return
        except OSError:
            if wait is None:
                raise
            time.sleep(wait)


def _connect(num_cpus: int | None) -> None:
    import ray

    if os.environ.get("RAY_ADDRESS"):
        _knock(os.environ["RAY_ADDRESS"])
        ray.init(logging_level=logging.WARNING, log_to_driver=False)
        return
    ray.init(
        address="local",
        num_cpus=num_cpus,
        include_dashboard=False,
        object_store_memory=_OBJECT_STORE_BYTES,
        logging_level=logging.WARNING,
        log_to_driver=False,  # what workers have to say reaches the driver by `Mailbox` and by exceptions
    )
