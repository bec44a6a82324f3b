"""How fast workers are, learnt from how long their jobs took, so that the last jobs do not go to the slow ones."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping

_SLOW = 0.8  # of the usual speed: below it a worker is not given what others would end sooner


class Speeds:
    """What is known of the time that jobs take. Jobs of one kind take equally long on equal workers."""

    def __init__(self) -> None:
        self._kinds: dict[Hashable, tuple[float, int]] = {}  # the sum of all times, and how many
        self._workers: defaultdict[int, list[float]] = defaultdict(lambda: [0.0, 0.0])  # usual and taken, in seconds
        self._slow: set[int] = set()
        self._there: set[int] = set()

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

    def would_delay(self, worker: int, behind: int, waiting: Mapping[Hashable, int]) -> bool:
        """Whether a worker would still be at its next job when the others could have done all that waits.

        Only of slow workers, and only while there are others.

        Args:
            behind: jobs that the worker has already.
            waiting: jobs that nobody has, by kind.
        """
        if worker not in self._slow or len(self._slow) == len(self._there):
            return False
        times = Counter({kind: self._usual(kind) * count for kind, count in waiting.items()})
        job = max((self._usual(kind) for kind, count in waiting.items() if count), default=0.0)
        left = sum(times.values()) / len(self._there)
        return (behind + 1) * job / self.speed(worker) > left + job

    def _usual(self, kind: Hashable) -> float:
        if kind in self._kinds:
            total, count = self._kinds[kind]
            return total / count
        totals = list(self._kinds.values())  # of one that nobody has done: as of all the others
        return sum(total for total, _ in totals) / max(sum(count for _, count in totals), 1)
