"""Actors, tasks and settings as the engine's fleet takes them, of which none needs torch: for many on one machine."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LightExecution:
    threads: int = 1


@dataclass(frozen=True)
class LightSettings:
    """What a fleet asks of a run's settings; `cuda` is one logical GPU an actor."""

    store: None = None
    execution: LightExecution = LightExecution()
    device: str = "cuda"


@dataclass(frozen=True)
class LightTask:
    """A chunk that takes a while."""

    setting: str
    index: int
    seconds: float
    checkpoint: str = "nothing"
    generate: bool = False


@dataclass(frozen=True)
class LightDone:
    """Who did a chunk, and when, by the clock of the machine."""

    pid: int
    node: str
    gpu: str
    begin: float
    end: float


class LightActor:
    """Waits as long as its task says."""

    def __init__(self, settings: LightSettings, plans: Sequence[Any]) -> None:
        import ray

        context = ray.get_runtime_context()
        self._node, self._gpu = context.get_node_id(), ",".join(context.get_accelerator_ids().get("GPU", []))
        self._busy_until = 0.0

    def hello(self) -> int:
        return os.getpid()

    def pulse(self) -> float:
        return time.time()

    def work(self, task: LightTask, weights: Mapping[str, Any]) -> LightDone:
        """One after the other, as a device does: two tasks may be here at once."""
        begin = max(time.time(), self._busy_until)
        self._busy_until = end = begin + task.seconds
        time.sleep(max(end - time.time(), 0))
        return LightDone(os.getpid(), self._node, self._gpu, begin, end)
