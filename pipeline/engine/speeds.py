"""How fast workers are, learnt from how long their jobs took, so that the last jobs do not go to the slow ones."""

from collections import defaultdict
from collections.abc import Hashable, Mapping

_SLOW = 0.8  # of the usual speed: below it a worker is not given what others would end sooner

_STALE = 0.02  # what waits is counted again when its number has changed by this share


class Speeds:
    """What is known of the time that jobs take. Jobs of one kind take equally long on equal workers."""

    def __init__(self) -> None:
        self._kinds: dict[Hashable, tuple[float, int]] = {}  # the sum of all times, and how many
        self._workers: defaultdict[int, list[float]] = defaultdict(lambda: [0.0, 0.0])  # usual and taken, in seconds
        self._slow: set[int] = set()
        self._there: set[int] = set()
        self._all = 0.0, 0
        self._outlook_at, self._found = -1, (0.0, 0.0)

    def join(self, worker: int) -> None:
        self._there.add(worker)

    def leave(self, worker: int) -> None:
        self._there.discard(worker)
        self._slow.discard(worker)
        self._workers.pop(worker, None)

    def took(self, worker: int, kind: Hashable, seconds: float) -> None:
        """A worker has done a job."""
        total, count = self._kinds.get(kind, (0.0, 0))
        self._kinds[kind] = total + seconds, count + 1
        self._all = self._all[0] + seconds, self._all[1] + 1
        mine = self._workers[worker]
        mine[0] += (total + seconds) / (count + 1)
        mine[1] += seconds
        slow = self.speed(worker) < _SLOW
        (self._slow.add if slow else self._slow.discard)(worker)

    def taken(self) -> Mapping[Hashable, tuple[float, int]]:
        """Of each kind, the seconds that its jobs took, added up, and how many were done."""
        return dict(self._kinds)

    def speed(self, worker: int) -> float:
        """In units of the usual; 1 for one that has done nothing yet."""
        usual, taken = self._workers[worker]
        return usual / taken if taken > 0 else 1.0

    def would_delay(self, worker: int, behind: int, waiting: Mapping[Hashable, int], number: int) -> bool:
        """Whether a worker would still be at its next job when the others could have done all that waits.

        Only of slow workers, and only while there are others.

        Args:
            behind: jobs that the worker has already.
            waiting: jobs that nobody has, by kind.
            number: of these in all.
        """
        if worker not in self._slow or len(self._slow) == len(self._there):
            return False
        total, longest = self._outlook(waiting, number)
        return (behind + 1) * longest / self.speed(worker) > total / len(self._there) + longest

    def _outlook(self, waiting: Mapping[Hashable, int], number: int) -> tuple[float, float]:
        """The seconds of all that waits, and of the longest job of it; not counted again for every one that goes."""
        if abs(number - self._outlook_at) > _STALE * self._outlook_at:
            times = [(self._usual(kind), count) for kind, count in waiting.items() if count]
            self._found = sum(time * count for time, count in times), max((time for time, _ in times), default=0.0)
            self._outlook_at = number
        return self._found

    def _usual(self, kind: Hashable) -> float:
        """Of a kind that nobody has done yet: as of all the others."""
        total, count = self._kinds.get(kind, self._all)
        return total / max(count, 1)
