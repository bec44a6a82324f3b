"""Devices in virtual time, for the policy that hands out chunks: a thousand of them for hours, in seconds."""

import heapq
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from pipeline.engine.policy import Limits, Policy


@dataclass(frozen=True)
class Chunk:
    """A piece of work, in seconds of a device of speed 1."""

    checkpoint: str
    number: int
    seconds: float


@dataclass
class Cluster:
    """Devices that do one chunk after the other. What they are at when they leave is lost.

    Args:
        chunks: the work.
        round_trip: seconds from the end of a chunk until what is handed out because of it has arrived.
    """

    chunks: Sequence[Chunk]
    round_trip: float = 0.01
    done: Counter[Chunk] = field(default_factory=Counter)
    lost: int = 0
    idle: float = 0.0
    policy_seconds: float = 0.0
    now: float = 0.0

    def __post_init__(self) -> None:
        self._policy = Policy(
            self.chunks, Limits(deaths=1000), kind=lambda chunk: chunk.seconds, clock=lambda: self.now
        )
        self._speed: dict[int, float] = {}
        self._queues: dict[int, list[Chunk]] = {}
        self._free_since: dict[int, float] = {}
        self._events: list[tuple[float, int, str, int, Chunk | None]] = []
        self._order = count()
        self._capacity: list[tuple[float, float]] = []  # when it changed, and by how much

    def join(self, at: float, device: int, speed: float = 1.0) -> None:
        self._speed[device] = speed
        self._push(at, "join", device)

    def leave(self, at: float, device: int) -> None:
        self._push(at, "leave", device)

    def run(self) -> float:
        """Works until all is done; the time of the end."""
        end = 0.0
        while not self._policy.finished:
            self.now, _, what, device, chunk = heapq.heappop(self._events)
            if what == "arrive" and device in self._queues and chunk is not None:
                self._arrive(device, chunk)
            elif what == "end" and device in self._queues and chunk is not None:
                end = self.now
                self._end(device, chunk)
            elif what == "join":
                self._join(device)
            elif what == "leave" and device in self._queues:
                self._leave(device)
        return end

    def bound(self) -> float:
        """The earliest time at which devices that never wait and lose nothing could have done all the work."""
        left, capacity, before = sum(chunk.seconds for chunk in self.chunks), 0.0, 0.0
        for at, change in sorted(self._capacity):
            if capacity * (at - before) >= left:
                break
            left -= capacity * (at - before)
            capacity, before = capacity + change, at
        return before + left / capacity

    # -- within --------------------------------------------------------------------------------------------------

    def _push(self, at: float, what: str, device: int, chunk: Chunk | None = None) -> None:
        heapq.heappush(self._events, (at, next(self._order), what, device, chunk))

    def _hand_out(self) -> None:
        start = time.process_time()
        handed = self._policy.hand_out()
        self.policy_seconds += time.process_time() - start
        for device, chunk in handed:
            self._push(self.now + self.round_trip, "arrive", device, chunk)

    def _join(self, device: int) -> None:
        self._queues[device], self._free_since[device] = [], self.now
        self._capacity.append((self.now, self._speed[device]))
        self._policy.join(device)
        self._hand_out()

    def _leave(self, device: int) -> None:
        self.lost += len(self._queues.pop(device))
        self._capacity.append((self.now, -self._speed[device]))
        self._policy.leave(device)
        self._hand_out()

    def _arrive(self, device: int, chunk: Chunk) -> None:
        self._queues[device].append(chunk)
        if len(self._queues[device]) == 1:
            self.idle += self.now - self._free_since[device]
            self._begin(device)

    def _begin(self, device: int) -> None:
        chunk = self._queues[device][0]
        self._push(self.now + chunk.seconds / self._speed[device], "end", device, chunk)

    def _end(self, device: int, chunk: Chunk) -> None:
        self._queues[device].pop(0)
        self.done[chunk] += 1
        start = time.process_time()
        self._policy.done(device, chunk)
        self.policy_seconds += time.process_time() - start
        if self._queues[device]:
            self._begin(device)
        else:
            self._free_since[device] = self.now
        self._hand_out()
