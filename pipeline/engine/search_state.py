"""What a search keeps: after every step, all its trials and what it has spent, `searches/<digest>/step-000007`.

A step that was cut off leaves nothing here; what it computed lies in the store all the same, and since proposals depend
on earlier trials alone, the next run asks for the same and finds it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.data.store import Store
from pipeline.engine.trials import Trial
from pipeline.errors import StoreError

ROOT = "searches"


@dataclass(frozen=True)
class SearchState:
    """Between two steps.

    Args:
        trials: in the order of their numbers.
        steps: that were done.
        spent: network evaluations, as if nothing had been in the store.
        seconds: that all runs took together.
        references: the flows whose converged trajectories were paid for.
        finalists: the numbers of the trials that were measured on fresh seeds.
    """

    trials: tuple[Trial, ...] = ()
    steps: int = 0
    spent: float = 0.0
    seconds: float = 0.0
    references: tuple[str, ...] = ()
    finalists: tuple[int, ...] = ()


def commit_state(store: Store, digest: str, state: SearchState, about: Mapping[str, Any]) -> None:
    """Keeps the state after a step; those of earlier steps stay."""
    store.commit(f"{ROOT}/{digest}/step-{state.steps:06d}", {}, {"state": asdict(state), "about": dict(about)})


def read_state(store: Store, digest: str) -> SearchState:
    """The last state that can be read; an empty one where there is none."""
    for key in reversed(store.committed(f"{ROOT}/{digest}")):
        if not key.rpartition("/")[2].startswith("step-"):
            continue
        try:
            content = store.manifest(key).meta["state"]
        except StoreError:  # damaged: the one before it will do
            continue
        trials = tuple(map(Trial.from_json, content["trials"]))
        lists = {name: tuple(content[name]) for name in ("references", "finalists")}
        return SearchState(**{**content, "trials": trials, **lists})
    return SearchState()
