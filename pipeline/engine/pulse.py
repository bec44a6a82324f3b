"""Signs of life: a worker counts the steps of its work, and whoever waits for it asks for the count.

A process that is stopped, a device that never answers and a store that hangs raise nothing. How long a chunk takes says
little: minutes or hours, by its sampler. But one evaluation of a network, one batch of features or one file is a matter
of seconds, so a count that stands still for long tells of a worker that will never end.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

_LOOKS = 10  # at a worker, within its patience


class Pulse:
    """The steps that a worker has done. Threads may share it: if one of two at once is lost, the count still moves."""

    def __init__(self) -> None:
        self.beats = 0

    def beat(self, *_: Any) -> None:
        """A step is done; as a hook of a module, whatever that is called with."""
        self.beats += 1


class Watch:
    """Who of some workers makes no progress. No Ray, any clock.

    Args:
        patience: seconds without progress after which a worker counts as hung; it is found a third later at most.
        clock: tells the time, in seconds.
    """

    def __init__(self, patience: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.patience = patience
        self.interval = patience / _LOOKS
        self._clock = clock
        self._looked = clock()
        self._silent: dict[int, float] = {}
        self._beats: dict[int, int] = {}

    @property
    def is_due(self) -> bool:
        """It is time to look again."""
        return self._clock() - self._looked >= self.interval

    def progressed(self, worker: int) -> None:
        """It has done something."""
        self._silent.pop(worker, None)

    def told(self, worker: int, beats: int) -> None:
        """It was asked, and has done so many steps by now."""
        if self._beats.get(worker) != beats:
            self._beats[worker] = beats
            self.progressed(worker)

    def look(self, at_work: Iterable[int]) -> tuple[list[int], list[int]]:
        """Who of those at work is to be asked for its count, having told of nothing between two looks; and who hangs.

        A look adds one interval at most to anybody's silence: whoever looks may have been held up itself.
        """
        elapsed = min(self._clock() - self._looked, self.interval)
        self._looked = self._clock()
        before, self._silent = self._silent, {}
        for worker in at_work:
            self._silent[worker] = before[worker] + elapsed if worker in before else 0.0
        hung = [worker for worker, silent in self._silent.items() if silent >= self.patience]
        return [worker for worker in self._silent if worker in before and worker not in hung], hung


class Vigil:
    """Watches Ray actors that have a method `pulse`, each known by a number.

    Args:
        patience: see `Watch`.
    """

    def __init__(self, patience: float) -> None:
        self._watch = Watch(patience)
        self._asked: dict[Any, int] = {}
        self.progressed = self._watch.progressed

    @property
    def interval(self) -> float:
        """Seconds from look to look."""
        return self._watch.interval

    @property
    def words(self) -> str:
        """Why one that hangs is given up."""
        return f"it made no progress for {self._watch.patience:g} s"

    def look(self, at_work: Callable[[], Mapping[int, Any]]) -> list[int]:
        """Those that hang, of the actors that are at work; the others are asked. Nobody, if it is not yet time."""
        if not self._watch.is_due:
            return []
        actors = at_work()
        self._hear()
        silent, hung = self._watch.look(actors)
        for worker in set(silent) - set(self._asked.values()):
            self._asked[actors[worker].pulse.remote()] = worker
        self._asked = {answer: worker for answer, worker in self._asked.items() if worker not in hung}
        return hung

    def _hear(self) -> None:
        import ray
        from ray.exceptions import RayError

        answers, _ = ray.wait(list(self._asked), num_returns=len(self._asked), timeout=0) if self._asked else ([], [])
        for answer in answers:
            worker = self._asked.pop(answer)
            with suppress(RayError):  # that it is lost, its chunks tell
                self._watch.told(worker, ray.get(answer))
