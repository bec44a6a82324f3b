"""What becomes of the workers of a fleet, and of their tasks."""

from dataclasses import dataclass

from pipeline.engine.work import Done, Task


@dataclass(frozen=True)
class Joined:
    """A worker is ready."""

    worker: int


@dataclass(frozen=True)
class Finished:
    worker: int
    task: Task
    done: Done


@dataclass(frozen=True)
class Raised:
    """A task raised; its worker is well."""

    worker: int
    task: Task
    error: Exception


@dataclass(frozen=True)
class Lost:
    """A worker is gone, with all that it had.

    Args:
        worker: which one.
        reason: in a few words.
        by_chance: it is known that the work is not to blame.
        hung: it was ended, for it did not go on.
    """

    worker: int
    reason: str
    by_chance: bool = False
    hung: bool = False


Event = Joined | Finished | Raised | Lost
