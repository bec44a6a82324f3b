"""The Ray session: joins the cluster that a job was submitted to, or starts one on this machine while it is needed."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# Read by Ray when it is imported: no usage reports leave the machine, no token is written into the home folder, the
# numbers of GPUs that an actor without GPUs sees stay as they are, and Ray Train notices a dead worker within seconds.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_V2_ENABLED": "1",
}
_started_in = 0.0
_OBJECT_STORE_BYTES = 512 * 1024**2  # of a session of our own: weights and chunks in flight, nothing large


@dataclass(frozen=True)
class Resources:
    """What the cluster has."""

    cpus: int
    gpus: int


@contextmanager
def session(num_cpus: int | None = None) -> Iterator[Resources]:
    """A connected Ray, and what it has. A session that was there before stays; one that is started here ends here.

    Args:
        num_cpus: of a session of our own; empty takes the machine's.
    """
    set_environment()
    import ray

    ours = not ray.is_initialized()
    if ours:
        global _started_in
        begin = time.perf_counter()
        _connect(num_cpus)
        _started_in = time.perf_counter() - begin
    try:
        resources = ray.cluster_resources()
        yield Resources(int(resources.get("CPU", 0)), int(resources.get("GPU", 0)))
    finally:
        if ours:
            ray.shutdown()


def started_in() -> float:
    """Seconds that it took to start or join Ray in this process, the last time."""
    return _started_in


def set_environment() -> None:
    """What Ray reads when it is imported: to be called before."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def _connect(num_cpus: int | None) -> None:
    import ray

    if os.environ.get("RAY_ADDRESS"):
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
