"""What a search would do, for --dry-run: its budget, its first settings, and what brute force would take."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.config.search import BudgetSettings, SearchSettings
from pipeline.config.space import one_by_one
from pipeline.data.store import Store
from pipeline.engine.generation import find_settings
from pipeline.engine.paces import nfe_of
from pipeline.engine.placement import place
from pipeline.engine.search_budget import Ledger
from pipeline.engine.trajectories import is_deterministic, reference_point
from pipeline.engine.work import Actors, Point
from pipeline.errors import CheckpointError, SettingsError

_COUNTED = 200  # settings of the full grid whose evaluations are counted, to know those of all


@dataclass(frozen=True)
class BruteForce:
    """The full grid with all images: how many settings go together, and what they would take."""

    settings: int
    evaluations: float


def brute_force(settings: SearchSettings, nfe: Callable[[Mapping[str, Any]], float]) -> BruteForce:
    """The full grid over a search's space. Of a large one some settings are counted, spread over it.

    Args:
        nfe: evaluations an image of a setting; raises a `UserError` where it cannot be sampled.
    """
    grid = settings.grid
    some = grid.some(_COUNTED)
    counted = [number for chosen in some if (number := _counted(settings, nfe, chosen)) is not None]
    number = round(len(counted) / max(len(some), 1) * len(grid))
    mean = sum(counted) / max(len(counted), 1)
    return BruteForce(number, number * mean * Ledger(settings).images(settings.images[-1]))


def _counted(
    settings: SearchSettings, nfe: Callable[[Mapping[str, Any]], float], chosen: Mapping[str, Any]
) -> float | None:
    """None of a setting that cannot be sampled, or is dearer than the search may try."""
    try:
        number = nfe(chosen)
    except (SettingsError, CheckpointError):
        return None
    return None if settings.max_nfe is not None and number > settings.max_nfe else number


def expected_cost(
    store: Store, settings: SearchSettings, to_point: Callable[[Mapping[str, Any]], Point], actors: Actors
) -> list[str]:
    """Lines for people.

    Raises:
        UserError: the checkpoint is not there, or the first setting does not go with it.
    """
    placement, ledger = place(settings.execution, actors), Ledger(settings)

    def nfe(point: Point) -> float:
        return nfe_of(find_settings(store, [point], settings.execution, placement)[0])

    first = to_point(next(one_by_one(settings.spaces[0])))
    nfe(first)  # its mistakes are told, those of combinations are not
    brute = brute_force(settings, lambda chosen: nfe(to_point(chosen)))
    mean = brute.evaluations / max(brute.settings * ledger.images(ledger.ladder[-1]), 1)
    few, many = ledger.ladder[0], ledger.ladder[-1]
    lines = [
        f"spends at most {_limits(settings.budget)}; a generation of {settings.generation} settings at {few:,} images "
        f"takes about {settings.generation * ledger.images(few) * mean:,.0f} evaluations",
        f"brute force, a grid of {brute.settings:,} settings at {many:,} images, would take about "
        f"{brute.evaluations:,.0f}",
    ]
    trajectory = settings.metrics.trajectory
    if trajectory is not None and is_deterministic(first.sampler):
        evaluations = ledger.images(min(trajectory.num_seeds, few)) * nfe(reference_point(first, trajectory))
        lines.append(f"converged trajectories take {evaluations:,.0f} for each flow")
    return lines


def _limits(budget: BudgetSettings) -> str:
    told = [
        "" if budget.nfe is None else f"{budget.nfe:,.0f} network evaluations",
        "" if budget.minutes is None else f"{budget.minutes:g} minutes",
    ]
    return " or ".join(limit for limit in told if limit)
