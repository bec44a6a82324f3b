"""Which chunk goes next to which worker. No Ray, no I/O, any clock: a plain object that a simulation can drive.

Every worker has a chunk at work and one waiting behind it, so that it never waits for the driver. A worker stays with
the checkpoint whose network it holds while chunks of it are left. Towards the end nothing waits behind: the last chunks
go to whoever is free first, but not to a worker so slow that all would wait for it. A chunk whose worker was lost, or
that raised, goes to somebody else, finitely often.

That a worker is lost says little of the chunk that it was at: processes are killed and nodes taken away. A chunk is
given up for it only if it loses its workers far more often than the other chunks lose theirs.
"""

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from pipeline.engine.speeds import Speeds

Worker = int
IN_FLIGHT = 2  # jobs that a worker has at a time: one at work, one behind it
_NO_CHANCE = 1e-6  # a chunk is at fault if its workers would be lost so often by chance with less than this probability


class JobShape(Protocol):
    @property
    def checkpoint(self) -> Hashable:
        """What a worker must load before it can do this."""
        ...

    def __hash__(self) -> int: ...


Job = TypeVar("Job", bound=JobShape)


@dataclass(frozen=True)
class Limits:
    """How often one chunk may fail before it is given up.

    Args:
        raises: by an error of its own.
        deaths: with the worker that was at it, whatever the others do.
        unlikely_deaths: with the worker that was at it, where the others show that so many in a row are no chance.
        hangs: with a worker that did not go on; each of them costs much time.
    """

    raises: int = 3
    deaths: int = 12
    unlikely_deaths: int = 5
    hangs: int = 3


class Policy(Generic[Job]):
    """Hands out jobs to workers that join and leave.

    Args:
        jobs: in the order in which they are wanted; those of one checkpoint are kept together.
        limits: for jobs that fail.
        in_flight: jobs a worker has at a time.
        kind: what a job has in common with others that take as long; its checkpoint by default.
        clock: tells the time, in seconds.
    """

    def __init__(
        self, jobs: Iterable[Job], limits: Limits | None = None, in_flight: int = IN_FLIGHT,
        kind: Callable[[Job], Hashable] | None = None, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._waiting: dict[Hashable, deque[Job]] = {}
        for job in jobs:
            self._waiting.setdefault(job.checkpoint, deque()).append(job)
        self._again: deque[Job] = deque()  # given back by a worker: first in line
        self._suspects: deque[Job] = deque()  # that lost several workers: last in line, and alone
        self._num_waiting = sum(map(len, self._waiting.values()))
        self._left = {checkpoint: len(queue) for checkpoint, queue in self._waiting.items()}
        self._limits = limits or Limits()
        self._in_flight = in_flight
        self._flying: dict[Worker, list[Job]] = {}
        self._by_load: list[dict[Worker, None]] = [{} for _ in range(in_flight + 1)]  # ordered sets
        self._at: dict[Worker, Hashable] = {}
        self._crew: dict[Hashable, int] = defaultdict(int)  # workers that stay with a checkpoint
        self._raised: dict[Job, int] = defaultdict(int)
        self._died: dict[Job, int] = defaultdict(int)
        self._hung: dict[Job, int] = defaultdict(int)
        self._deaths = self._num_done = 0  # of all jobs
        self._kind = kind or (lambda job: job.checkpoint)
        self._kinds = Counter(self._kind(job) for queue in self._waiting.values() for job in queue)  # of what waits
        self._clock = clock
        self._since: dict[Worker, float] = {}  # when a worker began with the first of its jobs
        self._speeds = Speeds()
        self._resting: dict[Worker, None] = {}  # slow ones that get nothing more, unless something happens

    @property
    def finished(self) -> bool:
        """Nothing waits and nothing is at work."""
        return not any(self._left.values())

    def left(self, checkpoint: Hashable) -> int:
        """Jobs of a checkpoint that are not done."""
        return self._left[checkpoint]

    def taken(self) -> Mapping[Hashable, tuple[float, int]]:
        """Of each kind, the seconds that its jobs took, added up, and how many were done."""
        return self._speeds.taken()

    def join(self, worker: Worker) -> None:
        """A worker is there, with nothing to do."""
        self._flying[worker] = []
        self._by_load[0][worker] = None
        self._speeds.join(worker)

    def leave(self, worker: Worker, by_chance: bool = False, hung: bool = False) -> list[Job]:
        """A worker is lost. What it had goes to others.

        Args:
            by_chance: it is known that no job is to blame; else all that the worker had are charged, since nobody knows
                which of them it was at. Those that this happens to again are tried alone, and only then given up.
            hung: it was ended, for it did not go on.

        Returns:
            The jobs that are given up: this happened to them too often.
        """
        jobs = self._flying.pop(worker)
        self._by_load[len(jobs)].pop(worker, None)
        self._resting.pop(worker, None)
        self._settle(worker, None)
        self._since.pop(worker, None)
        self._speeds.leave(worker)
        self._wake()
        if by_chance:
            self._give_back(jobs)
            return []
        for job in jobs:
            self._died[job] += 1
            self._hung[job] += hung
        self._deaths += len(jobs)
        given_up = [job for job in jobs if len(jobs) == 1 and self._is_at_fault(job)]
        for job in given_up:
            self._close(job)
        suspects = [job for job in jobs if self._died[job] > 1 and job not in given_up]
        self._suspects.extend(suspects)
        self._count(suspects)
        self._give_back([job for job in jobs if self._died[job] == 1 and job not in given_up])
        return given_up

    def hand_out(self) -> list[tuple[Worker, Job]]:
        """What to hand to whom now. Workers with nothing to do come first."""
        handed: list[tuple[Worker, Job]] = []
        for load in range(self._in_flight):
            hungry = self._by_load[load]
            while hungry and self._may_take(load):
                worker = next(iter(hungry))
                if self._speeds.would_delay(worker, load, self._kinds, self._num_waiting):
                    self._resting[worker] = hungry.pop(worker)
                    continue
                job = self._take(worker)
                self._flying[worker].append(job)
                self._move(worker, load)
                self._since.setdefault(worker, self._clock())
                handed.append((worker, job))
        return handed

    def done(self, worker: Worker, job: Job) -> None:
        """A worker has finished a job."""
        self._speeds.took(worker, self._kind(job), self._clock() - self._since[worker])
        self._put_down(worker, job)
        self._num_done += 1
        self._close(job)

    def deaths(self, job: Job) -> tuple[int, int, int]:
        """How many workers were lost at a job, how many at all others, and how often one of these was finished."""
        return self._died[job], self._deaths - self._died[job], self._num_done

    def failed(self, worker: Worker, job: Job) -> bool:
        """A job raised. It is tried again, by whoever is free, unless it is given up: then True is returned."""
        self._put_down(worker, job)
        self._raised[job] += 1
        if self._raised[job] >= self._limits.raises:
            self._close(job)
            return True
        self._give_back([job])
        return False

    def drop(self, unwanted: Callable[[Job], bool]) -> None:
        """Forgets the waiting jobs that are not wanted any more; those at work are left to end."""
        for queue in (self._again, *self._waiting.values(), self._suspects):
            jobs = list(queue)
            queue.clear()
            queue.extend(job for job in jobs if not unwanted(job))
            for job in filter(unwanted, jobs):
                self._num_waiting -= 1
                self._kinds[self._kind(job)] -= 1
                self._close(job)

    # -- within --------------------------------------------------------------------------------------------------

    def _take(self, worker: Worker) -> Job:
        self._num_waiting -= 1
        job = self._next(worker)
        self._kinds[self._kind(job)] -= 1
        return job

    def _next(self, worker: Worker) -> Job:
        if self._again:
            return self._again.popleft()
        checkpoint = self._at.get(worker)
        if not self._waiting.get(checkpoint):
            checkpoint = self._choose()
            if checkpoint is None:
                return self._suspects.popleft()
            self._settle(worker, checkpoint)
        return self._waiting[checkpoint].popleft()

    def _may_take(self, load: int) -> bool:
        """Whether a worker with so many jobs gets another: to do at once what waits, else what is no suspect."""
        return self._num_waiting - (len(self._suspects) if load else 0) > (len(self._flying) if load else 0)

    def _is_at_fault(self, job: Job) -> bool:
        """Whether it lost too many workers, or more than by chance: each one that was at it, while those at other jobs
        are lost as seldom as was seen (with one more seen of either kind, for small numbers)."""
        at_it, at_others, num_done = self.deaths(job)
        usual = (at_others + 1) / (at_others + num_done + 2)
        too_unlikely = at_it >= self._limits.unlikely_deaths and usual**at_it < _NO_CHANCE
        return at_it >= self._limits.deaths or self._hung[job] >= self._limits.hangs or too_unlikely

    def _choose(self) -> Hashable | None:
        """The first checkpoint that has more chunks waiting than workers to take them; else the least crowded one; None
        where no chunk waits but those that are suspect."""
        best, best_share = None, 0.0
        for checkpoint in [checkpoint for checkpoint, queue in self._waiting.items() if not queue]:
            del self._waiting[checkpoint]
        for checkpoint, queue in self._waiting.items():
            share = len(queue) / (self._crew[checkpoint] + 1)
            if share > 1:
                return checkpoint
            if share > best_share:
                best, best_share = checkpoint, share
        return best

    def _settle(self, worker: Worker, checkpoint: Hashable | None) -> None:
        if worker in self._at:
            self._crew[self._at.pop(worker)] -= 1
        if checkpoint is not None:
            self._at[worker] = checkpoint
            self._crew[checkpoint] += 1

    def _move(self, worker: Worker, load: int) -> None:
        self._by_load[load].pop(worker, None)
        self._resting.pop(worker, None)
        self._by_load[len(self._flying[worker])][worker] = None

    def _wake(self) -> None:
        """There is more to do, or there are fewer to do it."""
        for worker in self._resting:
            self._by_load[len(self._flying[worker])][worker] = None
        self._resting.clear()

    def _put_down(self, worker: Worker, job: Job) -> None:
        load = len(self._flying[worker])
        self._flying[worker].remove(job)
        self._move(worker, load)
        self._since.pop(worker)
        if self._flying[worker]:
            self._since[worker] = self._clock()

    def _give_back(self, jobs: list[Job]) -> None:
        self._again.extend(jobs)
        self._count(jobs)

    def _count(self, jobs: list[Job]) -> None:
        self._num_waiting += len(jobs)
        self._kinds.update(map(self._kind, jobs))
        self._wake()

    def _close(self, job: Job) -> None:
        self._left[job.checkpoint] -= 1
