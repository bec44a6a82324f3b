"""The policy in virtual time: no Ray, no clock; thousands of chunks in a moment."""

import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count

import pytest

from pipeline.engine.policy import Limits, Policy


@dataclass(frozen=True)
class Job:
    checkpoint: str
    number: int
    seconds: float = 1.0


@dataclass
class Cluster:
    """Devices that do one job after the other, in virtual time."""

    policy: Policy[Job]
    now: float = 0.0
    speed: dict[int, float] = field(default_factory=dict)
    queues: dict[int, list[Job]] = field(default_factory=dict)
    done: Counter[Job] = field(default_factory=Counter)
    loads: Counter[int] = field(default_factory=Counter)
    holds: dict[int, str] = field(default_factory=dict)
    busy: float = 0.0
    last_end: float = 0.0

    def __post_init__(self) -> None:
        self._events: list[tuple[float, int, str, int]] = []
        self._order = count()

    def at(self, time: float, what: str, worker: int) -> None:
        heapq.heappush(self._events, (time, next(self._order), what, worker))

    def run(self) -> None:
        while not self.policy.finished:
            assert self._events, "work is left, and nobody is at it"
            self.now, _, what, worker = heapq.heappop(self._events)
            if what == "join":
                self.queues[worker] = []
                self.policy.join(worker)
            elif what == "leave" and worker in self.queues:
                del self.queues[worker]
                assert self.policy.leave(worker) == []
            elif what == "end" and worker in self.queues:
                self._end(worker)
            for taker, job in self.policy.hand_out():
                self.queues[taker].append(job)
                if len(self.queues[taker]) == 1:
                    self._start(taker)

    def _start(self, worker: int) -> None:
        job = self.queues[worker][0]
        if self.holds.get(worker) != job.checkpoint:
            self.holds[worker] = job.checkpoint
            self.loads[worker] += 1
        self.at(self.now + job.seconds / self.speed.get(worker, 1.0), "end", worker)

    def _end(self, worker: int) -> None:
        job = self.queues[worker].pop(0)
        self.done[job] += 1
        self.busy += job.seconds / self.speed.get(worker, 1.0)
        self.last_end = self.now
        self.policy.done(worker, job)
        if self.queues[worker]:
            self._start(worker)


def jobs_of(num_checkpoints: int, chunks: int, seed: int = 0, low: float = 5, high: float = 60) -> list[Job]:
    """Settings of a grid differ in their cost; the chunks of one setting do not."""
    random_ = random.Random(seed)
    settings = [(str(i), random_.uniform(low, high)) for i in range(num_checkpoints) for _ in range(20)]
    return [Job(c, s * chunks + k, cost) for s, (c, cost) in enumerate(settings) for k in range(chunks)]


def test_a_thousand_uneven_devices_are_kept_busy_to_the_end() -> None:
    """Makespan at most 1.02 of the lower bound and one chunk; every chunk once."""
    jobs = jobs_of(num_checkpoints=5, chunks=200)
    cluster = Cluster(Policy(jobs))
    random_ = random.Random(1)
    for worker in range(1000):
        cluster.speed[worker] = random_.uniform(0.7, 1.3)
        cluster.at(random_.uniform(0, 2), "join", worker)
    cluster.run()
    assert cluster.done == Counter(jobs)
    bound = sum(job.seconds for job in jobs) / sum(cluster.speed.values())
    slowest_chunk = max(job.seconds for job in jobs) / min(cluster.speed.values())
    assert bound <= cluster.last_end <= 1.02 * bound + slowest_chunk
    assert cluster.busy / (1000 * cluster.last_end) > 0.9
    assert max(cluster.loads.values()) <= 5  # every checkpoint once, of 20 chunks a device


def test_the_end_does_not_wait_for_the_slow() -> None:
    """One device in twenty is slow, and is given nothing that the others would end sooner; but it is not idle before,
    and where all the others leave it does all that is left."""
    jobs = jobs_of(num_checkpoints=2, chunks=100, seed=5)
    cluster = Cluster(Policy(jobs, kind=lambda job: job.seconds, clock=lambda: cluster.now))
    for worker in range(200):
        cluster.speed[worker] = 0.3 if worker % 20 == 0 else 1.0
        cluster.at(0, "join", worker)
    cluster.run()
    assert cluster.done == Counter(jobs)
    bound = sum(job.seconds for job in jobs) / sum(cluster.speed.values())
    assert cluster.last_end <= 1.02 * bound + max(job.seconds for job in jobs)
    assert cluster.busy / (200 * cluster.last_end) > 0.9


def test_slow_workers_do_what_is_left_when_all_others_have_gone() -> None:
    jobs = jobs_of(num_checkpoints=1, chunks=20)
    cluster = Cluster(Policy(jobs, kind=lambda job: job.seconds, clock=lambda: cluster.now))
    for worker in range(20):
        cluster.speed[worker] = 0.2 if worker == 0 else 1.0
        cluster.at(0, "join", worker)
        if worker:
            cluster.at(300, "leave", worker)
    cluster.run()
    assert cluster.done == Counter(jobs)


def test_devices_that_leave_and_join_lose_and_double_nothing() -> None:
    jobs = jobs_of(num_checkpoints=4, chunks=60, seed=2)
    cluster = Cluster(Policy(jobs, Limits(deaths=20)))
    random_ = random.Random(3)
    for worker in range(1000):
        cluster.at(random_.uniform(0, 60), "join", worker)
    for worker in range(0, 1000, 3):  # a third of them leaves, others come
        cluster.at(random_.uniform(60, 150), "leave", worker)
        cluster.at(random_.uniform(60, 150), "join", 1000 + worker)
    cluster.run()
    assert cluster.done == Counter(jobs)


def test_few_workers_go_from_checkpoint_to_checkpoint() -> None:
    jobs = [Job(str(i % 4), i) for i in range(80)]  # given in any order
    cluster = Cluster(Policy(jobs))
    for worker in range(3):
        cluster.at(0, "join", worker)
    cluster.run()
    assert cluster.done == Counter(jobs)
    assert max(cluster.loads.values()) <= 4


def test_many_workers_share_the_checkpoints_among_them() -> None:
    jobs = jobs_of(num_checkpoints=20, chunks=10, low=10, high=10)  # 200 chunks a checkpoint
    cluster = Cluster(Policy(jobs))
    for worker in range(1000):
        cluster.at(0, "join", worker)
    cluster.run()
    assert sum(cluster.loads.values()) / 1000 < 2.5  # 4 chunks a device, of 20 checkpoints


def test_every_worker_gets_one_job_before_any_gets_a_second() -> None:
    policy = Policy([Job("a", i) for i in range(20)])
    for worker in range(4):
        policy.join(worker)
    handed = policy.hand_out()
    assert [worker for worker, _ in handed] == [0, 1, 2, 3, 0, 1, 2, 3]
    assert [job.number for _, job in handed] == list(range(8))
    assert policy.hand_out() == []


def test_the_last_jobs_go_to_whoever_is_free_first() -> None:
    policy = Policy([Job("a", i) for i in range(5)])
    for worker in range(4):
        policy.join(worker)
    handed = policy.hand_out()
    assert len(handed) == 4  # one is left, and waits behind nobody
    policy.done(2, handed[2][1])
    assert [(worker, job.number) for worker, job in policy.hand_out()] == [(2, 4)]


def test_what_a_lost_worker_had_goes_first() -> None:
    policy = Policy([Job("a", i) for i in range(20)])
    policy.join(0)
    policy.join(1)
    handed = policy.hand_out()
    assert policy.leave(0) == []
    policy.done(1, handed[1][1])
    assert [(worker, job.number) for worker, job in policy.hand_out()] == [(1, 0)]
    policy.join(2)
    assert [(worker, job.number) for worker, job in policy.hand_out()] == [(2, 2), (2, 4)]


def test_a_job_that_raises_is_given_up_after_finite_tries() -> None:
    policy = Policy([Job("a", 0)], Limits(raises=3))
    policy.join(0)
    for expected in (False, False, True):
        [(worker, job)] = policy.hand_out()
        assert policy.failed(worker, job) is expected
    assert policy.finished
    assert policy.hand_out() == []


def test_a_job_that_takes_its_worker_with_it_comes_last_and_is_given_up_and_its_neighbours_are_not() -> None:
    policy = Policy([Job("a", i) for i in range(6)], Limits(deaths=3))
    for worker in range(2):  # each is lost at job 0, with job 1 waiting behind it or at work beside it
        policy.join(worker)
        assert [job.number for _, job in policy.hand_out()] == [0, 1]
        assert policy.leave(worker) == []
    policy.join(2)
    waiting, order = [], []
    while not order or order[-1] != 0:
        waiting += [job for _, job in policy.hand_out()]
        order.append(waiting[0].number)
        if order[-1] != 0:
            policy.done(2, waiting.pop(0))
    assert order == [2, 3, 4, 5, 0]
    assert waiting == [Job("a", 0)]  # alone
    assert policy.leave(2) == [Job("a", 0)]
    policy.join(3)
    assert policy.hand_out() == [(3, Job("a", 1))]


def lose(policy: Policy[Job], names: Iterator[int], at: Callable[[Job], bool]) -> list[Job]:
    """Works to the end with one worker after the other, each of which is lost at the first job that `at` says."""
    given_up: list[Job] = []
    while not policy.finished:
        worker = next(names)
        policy.join(worker)
        while handed := policy.hand_out():
            [(_, job)] = handed
            if at(job):
                break
            policy.done(worker, job)
        given_up += policy.leave(worker)
    return given_up


def test_a_job_that_ends_its_workers_is_told_from_chance_by_what_becomes_of_the_others() -> None:
    jobs = [Job("a", i) for i in range(200)]
    limits = Limits(deaths=50)
    policy = Policy(jobs, limits, in_flight=1)
    assert lose(policy, count(), lambda job: job.number == 7) == [Job("a", 7)]
    assert policy.deaths(Job("a", 7)) == (5, 0, 199)
    random_ = random.Random(0)
    policy = Policy(jobs, limits, in_flight=1)
    assert lose(policy, count(), lambda job: random_.random() < 0.5) == []  # machines that die all the time
    most = max(policy.deaths(job)[0] for job in jobs)
    assert most >= 5  # which would be too often where machines are well


def test_a_node_that_is_taken_away_is_no_job_s_fault() -> None:
    policy = Policy([Job("a", 0)], Limits(deaths=2))
    for worker in range(20):
        policy.join(worker)
        policy.hand_out()
        assert policy.leave(worker, by_chance=True) == []
    assert policy.deaths(Job("a", 0)) == (0, 0, 0)


def test_dropped_jobs_are_not_handed_out() -> None:
    policy = Policy([Job("a", i) for i in range(6)])
    policy.join(0)
    first, second = (job for _, job in policy.hand_out())
    policy.drop(lambda job: job.number != 5)
    assert policy.left("a") == 3
    policy.done(0, first)
    policy.done(0, second)
    [(_, last)] = policy.hand_out()
    assert last.number == 5
    policy.done(0, last)
    assert policy.finished


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_every_job_is_done_once_or_given_up(seed: int) -> None:
    random_ = random.Random(seed)
    jobs = [Job(str(random_.randrange(5)), i) for i in range(200)]
    policy = Policy(jobs, Limits(raises=3, deaths=4))
    flying: dict[int, list[Job]] = {}
    done: Counter[Job] = Counter()
    given_up: Counter[Job] = Counter()
    names = count()
    while not policy.finished:
        if len(flying) < 2 or (len(flying) < 8 and random_.random() < 0.2):
            worker = next(names)
            flying[worker] = []
            policy.join(worker)
        for worker, job in policy.hand_out():
            flying[worker].append(job)
            assert len(flying[worker]) <= 2
        worker = random_.choice([worker for worker in flying if flying[worker]])
        happens = random_.random()
        if happens < 0.1:
            del flying[worker]
            given_up.update(policy.leave(worker))
            continue
        job = flying[worker].pop(0)
        if happens < 0.25:
            given_up.update([job] if policy.failed(worker, job) else [])
        else:
            done[job] += 1
            policy.done(worker, job)
    assert done + given_up == Counter(jobs)
    assert len(given_up) < 20


def test_handing_out_is_quick_with_many_workers() -> None:
    """The cost of an event does not grow with the number of workers."""

    def steps(workers: int) -> float:
        import time

        policy = Policy([Job("a", i) for i in range(40_000)])
        for worker in range(workers):
            policy.join(worker)
        queue = policy.hand_out()
        start = time.perf_counter()
        for index in range(10_000):
            worker, job = queue[index]
            policy.done(worker, job)
            queue += policy.hand_out()
        return time.perf_counter() - start

    assert steps(2000) < 5 * min(steps(20), steps(20)) + 0.1
