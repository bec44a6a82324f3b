"""The workers of a run: this process, or actors on a Ray cluster. A fleet takes tasks and tells what became of them.

Ray restarts nothing here: the driver hands the chunks of a lost actor to others at once, and starts another actor
wherever there is room. A chunk is named by its content, so doing it twice is harmless.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

from pipeline.engine.actor import Actor, ChunkWorker
from pipeline.engine.devices import fixed_arithmetic
from pipeline.engine.events import Event, Finished, Joined, Lost, Raised
from pipeline.engine.policy import IN_FLIGHT
from pipeline.engine.pulse import Vigil
from pipeline.engine.session import Resources
from pipeline.engine.starting import Starts
from pipeline.engine.work import Actors, ExtractorPlan, Task, WorkerSettings, weights_names
from pipeline.errors import RunFailedError, SettingsError, SigmasweepError
from pipeline.training.snapshot import Snapshot, read_weights

Say = Callable[[str], None]
_PATIENCE_S = 30.0  # before it is said that no device is free


class Fleet(Protocol):
    def submit(self, worker: int, task: Task) -> None: ...

    def wait(self) -> Sequence[Event]:
        """What happened since, at least one thing if there is something to wait for.

        Raises:
            SigmasweepError: there is no worker any more, and will be none.
        """
        ...

    def forget(self, checkpoint: str) -> None:
        """No task of this checkpoint will come any more."""
        ...

    def absolve(self) -> None:
        """It was a task that ended the workers that were lost, and it will not come any more."""
        ...


class LocalFleet:
    """One worker, in this process. `fixed_arithmetic` must hold around it."""

    def __init__(self, settings: WorkerSettings, plans: Sequence[ExtractorPlan]) -> None:
        self._worker = ChunkWorker(settings, plans)
        self._tasks: list[Task] = []
        self._joined = False

    def submit(self, worker: int, task: Task) -> None:
        self._tasks.append(task)

    def wait(self) -> Sequence[Event]:
        if not self._joined:
            self._joined = True
            return [Joined(0)]
        task = self._tasks.pop(0)
        try:
            return [Finished(0, task, self._worker.work(task))]
        except Exception as error:
            return [Raised(0, task, error)]

    def forget(self, checkpoint: str) -> None:
        pass

    def absolve(self) -> None:
        pass


class RayFleet:
    """Actors on the cluster that this process is connected to.

    Args:
        settings: of the run.
        plans: the extractors of the run.
        actors: limits.
        count: how many actors.
        say: told one line where somebody should know.
        actor: the class of the actors; `Actor` by default.
    """

    def __init__(
        self, settings: WorkerSettings, plans: Sequence[ExtractorPlan], actors: Actors, count: int, say: Say,
        actor: type | None = None,
    ) -> None:  # fmt: skip
        import ray

        # No retries by Ray: what is lost is handed out again by the policy, to whoever is free.
        self._actor = ray.remote(actor or Actor).options(
            num_cpus=settings.execution.threads, num_gpus=actors.gpus(settings.device), max_restarts=0,
            max_task_retries=0, max_concurrency=IN_FLIGHT + 1,  # and the pulse
        )  # fmt: skip
        self._shared = ray.put(settings), ray.put(list(plans))
        self._store = settings.store
        self._limit = actors.max_restarts * count
        self._count = count
        self._say = say
        self._handles: dict[int, Any] = {}
        self._ready: set[int] = set()
        self._calls: dict[Any, tuple[int, Task | None]] = {}
        self._weights: dict[str, Any] = {}
        self._events: list[Event] = []
        self._vigil, self._starts = Vigil(actors.hang_after_s), Starts(actors.hang_after_s)
        self._started = self._losses = 0
        self._refusal: SigmasweepError | None = None
        self._fill()

    def submit(self, worker: int, task: Task) -> None:
        try:
            needed = task.setting.snapshots if task.generate else ()
            weights = {snapshot.weights_sha256: self._weights_of(snapshot) for snapshot in needed}
        except SigmasweepError as error:
            self._events.append(Raised(worker, task, error))
            return
        self._calls[self._handles[worker].work.remote(task, weights)] = worker, task

    def wait(self) -> Sequence[Event]:
        import ray

        if not self._events:
            self._check_alive()
            patience = min(_PATIENCE_S, (self._vigil if self._ready else self._starts).interval)
            ready, _ = ray.wait(list(self._calls), num_returns=1, timeout=patience)
            if not ready and not self._ready:
                self._say("no actor has started yet: no device of the cluster is free, or a start takes long")
            if ready:  # and whatever else there is
                ready, _ = ray.wait(list(self._calls), num_returns=len(self._calls), timeout=0)
            for call in ready:
                if call in self._calls:  # and not lost with its actor meanwhile
                    self._receive(call, *self._calls.pop(call))
            for worker in self._vigil.look(self._at_work):
                self._lost(worker, self._vigil.words, hung=True)
            for worker in self._starts.look(self._starting):
                self._lost(worker, self._starts.words)
        events, self._events = self._events, []
        return events

    def forget(self, checkpoint: str) -> None:
        for name in weights_names(checkpoint):  # what another pair of networks needs too is read again
            self._weights.pop(name, None)

    def absolve(self) -> None:
        self._losses = 0
        self._fill()

    def close(self) -> None:
        """Ends all actors."""
        for worker in list(self._handles):
            self._end(worker)

    # -- within --------------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Starts actors where some are missing, unless too many were lost in a row."""
        while len(self._handles) < self._count and self._losses <= self._limit:
            worker = self._started
            self._started += 1
            self._handles[worker] = self._actor.remote(*self._shared)
            self._calls[self._handles[worker].hello.remote()] = worker, None

    def _weights_of(self, snapshot: Snapshot) -> Any:
        import ray

        name = snapshot.weights_sha256
        if name not in self._weights:
            self._weights[name] = ray.put(read_weights(self._store, snapshot))
        return self._weights[name]

    def _receive(self, call: Any, worker: int, task: Task | None) -> None:
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            answer = ray.get(call)
        except RayTaskError as error:
            self._raised(worker, task, error.cause)
        except RayError as error:
            self._lost(worker, why_lost(error), by_chance(error))
        else:
            self._vigil.progressed(worker)
            if task is None:
                self._ready.add(worker)
                self._events.append(Joined(worker))
            else:
                self._losses = 0
                self._events.append(Finished(worker, task, answer))
                self._fill()

    def _raised(self, worker: int, task: Task | None, error: Exception) -> None:
        if task is not None:
            self._events.append(Raised(worker, task, error))
            return
        self._end(worker)
        if not isinstance(error, SigmasweepError):
            raise RunFailedError("actor", f"does not start ({type(error).__name__}: {error})") from error
        self._refusal = error
        self._count -= 1
        self._say(f"an actor cannot take part: {error}")

    def _at_work(self) -> dict[int, Any]:
        """The actors that have chunks."""
        return {worker: self._handles[worker] for worker, task in self._calls.values() if task is not None}

    def _starting(self) -> dict[int, Any]:
        return {worker: actor for worker, actor in self._handles.items() if worker not in self._ready}

    def _lost(self, worker: int, reason: str, by_chance: bool = False, hung: bool = False) -> None:
        self._losses += 1
        if worker in self._ready:
            self._events.append(Lost(worker, reason, by_chance, hung))
        self._end(worker)
        if self._losses <= self._limit:
            self._say(f"an actor was lost ({reason}); its chunks go to others, and another actor is started")
            self._fill()

    def _end(self, worker: int) -> None:
        import ray

        ray.kill(self._handles.pop(worker))
        self._ready.discard(worker)
        self._calls = {call: of for call, of in self._calls.items() if of[0] != worker}

    def _check_alive(self) -> None:
        if self._handles:
            return
        if self._refusal is not None:
            raise self._refusal
        mend = "what was finished is kept, and the same command goes on from there"
        raise RunFailedError("actors", f"were lost {self._losses} times without finishing a chunk: given up; {mend}")


def by_chance(error: Exception) -> bool:
    """Whether an actor was lost with its node, or the connection to it was, as when Ray does not know yet that a node
    is gone: that tells nothing of its chunks."""
    from ray.exceptions import ActorUnavailableError

    return isinstance(error, ActorUnavailableError) or "node has died" in str(error)


def why_lost(error: Exception) -> str:
    """Why an actor was lost, in a few words of Ray's: the last of its lines that is not indented."""
    from ray.exceptions import ActorUnavailableError

    if isinstance(error, ActorUnavailableError):
        return "the connection to it was lost"
    said = [line for line in str(error).splitlines() if line.strip() and not line.startswith("\t")]
    return said[-1].split(". ")[0][:120] if said else type(error).__name__


def num_actors(actors: Actors, threads: int, device: str, resources: Resources) -> int:
    """How many actors the settings and the cluster give.

    Raises:
        SettingsError: the cluster has no room for a single one.
    """
    if device == "cuda" and not resources.gpus:
        raise SettingsError("execution.device", "asks for GPUs, and the cluster has none")
    if threads > resources.cpus:
        raise SettingsError(
            "execution.threads", f"asks for {threads} CPUs an actor, and the cluster has {resources.cpus}"
        )
    return actors.num_actors or (actors.per_gpu * resources.gpus if device == "cuda" else resources.cpus // threads)


@contextmanager
def local_fleet(settings: WorkerSettings, plans: Sequence[ExtractorPlan]) -> Iterator[Fleet]:
    """This process as a fleet of one."""
    with fixed_arithmetic(settings.execution.threads):
        yield LocalFleet(settings, plans)


@contextmanager
def ray_fleet(
    settings: WorkerSettings, plans: Sequence[ExtractorPlan], actors: Actors, count: int, say: Say,
    actor: type | None = None,
) -> Iterator[Fleet]:  # fmt: skip
    """Actors that end with the block. Extractors travel as bytes, once."""
    plans = [replace(plan, weights=plan.data) for plan in plans]
    fleet = RayFleet(settings, plans, actors, count, say, actor)
    try:
        yield fleet
    finally:
        fleet.close()
