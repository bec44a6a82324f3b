"""The loop between the policy, which knows who gets what, and the fleet, which knows what became of it."""

from collections.abc import Callable

from pipeline.engine.events import Finished, Joined, Lost, Raised
from pipeline.engine.fleet import Fleet
from pipeline.engine.policy import Policy
from pipeline.engine.work import Done, Setting, Task
from pipeline.errors import RunFailedError, SigmasweepError

OnDone = Callable[[Task, Done], None]
OnFailed = Callable[[Task, SigmasweepError], None]


def drive(
    policy: Policy[Task], fleet: Fleet, on_done: OnDone, on_failed: OnFailed,
    on_joined: Callable[[], None] = lambda: None,
) -> None:  # fmt: skip
    """Works until nothing is left. A setting of which a chunk fails for good is left alone; the others go on.

    Args:
        on_done: told of every finished task.
        on_failed: told of every task that failed for good; what it raises ends the run.
        on_joined: told of every worker that is ready.

    Raises:
        SigmasweepError: there are no workers any more.
    """
    Driver(policy, fleet, on_done, on_failed, on_joined).run()


class Driver:
    """The state of `drive`."""

    def __init__(
        self, policy: Policy[Task], fleet: Fleet, on_done: OnDone, on_failed: OnFailed, on_joined: Callable[[], None]
    ) -> None:
        self._policy = policy
        self._fleet = fleet
        self._on_done = on_done
        self._on_failed = on_failed
        self._on_joined = on_joined
        self._failed: set[Setting] = set()

    def run(self) -> None:
        while not self._policy.finished:
            for worker, task in self._policy.hand_out():
                self._fleet.submit(worker, task)
            for event in self._fleet.wait():
                match event:
                    case Joined(worker):
                        self._policy.join(worker)
                        self._on_joined()
                    case Finished(worker, task, done):
                        self._policy.done(worker, task)
                        self._on_done(task, done)
                        self._forget(task)
                    case Raised(worker, task, error):
                        self._raised(worker, task, error)
                    case Lost():
                        self._lost(event)

    def _raised(self, worker: int, task: Task, error: Exception) -> None:
        """What is wrong with the settings or the store does not get right by trying again; other errors may."""
        if task.setting in self._failed:
            self._policy.done(worker, task)
        elif isinstance(error, SigmasweepError):
            self._policy.done(worker, task)
            self._give_up(task, error)
        elif self._policy.failed(worker, task):
            first_line = (str(error).strip().splitlines() or [""])[0]
            self._give_up(task, _failure(task, f"failed again and again ({type(error).__name__}: {first_line})"))

    def _lost(self, lost: Lost) -> None:
        for task in self._policy.leave(lost.worker, lost.by_chance, lost.hung):
            at_it, at_others, num_done = self._policy.deaths(task)
            others = f"the others lost {at_others} and {num_done} were finished: it is the chunk that ends them"
            self._give_up(
                task, _failure(task, f"lost each of the {at_it} workers that had it ({lost.reason}), while {others}")
            )
            self._fleet.absolve()
        self._drop()

    def _give_up(self, task: Task, error: SigmasweepError) -> None:
        if task.setting not in self._failed:
            self._failed.add(task.setting)
            self._on_failed(task, error)
            self._drop()
        self._forget(task)

    def _drop(self) -> None:
        if self._failed:
            self._policy.drop(lambda task: task.setting in self._failed)

    def _forget(self, task: Task) -> None:
        if not self._policy.left(task.checkpoint):
            self._fleet.forget(task.checkpoint)


def _failure(task: Task, problem: str) -> RunFailedError:
    size = int(task.setting.key["execution"]["chunk_size"])
    seeds = f"seeds {task.index * size} to {(task.index + 1) * size - 1}"
    return RunFailedError(task.setting.name, f"chunk {task.index} ({seeds}) {problem}")
