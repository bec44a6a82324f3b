"""How long a run will take, from how long others took: what a dry run tells.

Where no run of a network is known (`pipeline.engine.paces`), its warm timings serve, which are of one worker alone.
"""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.data.samples import committed_chunks, spans
from pipeline.data.store import Store
from pipeline.engine.paces import Conditions, Pace, Paces, nfe_of
from pipeline.engine.timing import find_timing, seconds_per_evaluation
from pipeline.engine.work import Seeds, Setting

WARM_UP = 2  # evaluations of the network before a setting is timed


@dataclass(frozen=True)
class Forecast:
    """What a run will take.

    Args:
        seconds: of the whole; None where nothing like it was run or timed before.
        chunks: that are to be computed.
        workers: that compute them.
        source: what the number is from, or why there is none.
    """

    seconds: float | None
    chunks: int
    workers: int
    source: str


def forecast(
    store: Store, settings: Sequence[Setting], seeds: Seeds, conditions: Conditions, anew: bool = False
) -> Forecast:
    """The time until all images of these settings and seeds are in the store. Nothing is started, and nothing written.

    Args:
        conditions: with as many workers as there can be.
        anew: whatever is in the store is computed again.
    """
    unique = {setting.digest: setting for setting in settings}.values()
    missing = {setting: count for setting in unique if (count := _missing(store, setting, seeds, anew))}
    chunks = sum(missing.values())
    if not chunks:
        return Forecast(0.0, 0, 0, "all of it is in the store")
    workers, paces = min(conditions.workers, chunks), Paces(store)
    found, sources = [], dict[str, None]()
    for setting in missing:
        pace, source = _pace(store, paces, setting, conditions)
        if pace is None:
            return Forecast(None, chunks, workers, source)
        found.append(pace)
        sources[source] = None
    costs = [
        pace.per_evaluation * nfe_of(setting) * int(setting.key["execution"]["chunk_size"])
        for pace, (setting, count) in zip(found, missing.items(), strict=True)
        for _ in range(count)
    ]
    seconds = max(pace.start for pace in found) + makespan(costs, workers)
    return Forecast(seconds, chunks, workers, " and ".join(sources))


def forecast_timing(
    store: Store, settings: Sequence[Setting], batch_size: int, repeats: int, conditions: Conditions
) -> float | None:
    """Seconds to time the settings that were not timed before, one after the other; None where nothing is known."""
    paces, total = Paces(store), 0.0
    for setting in settings:
        if find_timing(store, setting, batch_size, repeats, conditions.device) is None:
            alone = seconds_per_evaluation(store, setting)
            pace = Pace(alone, 0.0) if alone is not None else _pace(store, paces, setting, conditions)[0]
            if pace is None:
                return None
            total += pace.per_evaluation * batch_size * (nfe_of(setting) * repeats + WARM_UP)
    return total + (paces.start if total else 0.0)


def makespan(costs: Iterable[float], workers: int) -> float:
    """When the last of some jobs ends that are handed out in their order, each to the worker that is free first."""
    free = [0.0] * workers
    for cost in costs:
        heapq.heapreplace(free, free[0] + cost)
    return max(free)


def _missing(store: Store, setting: Setting, seeds: Seeds, anew: bool) -> int:
    size = int(setting.key["execution"]["chunk_size"])
    wanted = {index for index, _ in spans(seeds.first, seeds.count, size)}
    return len(wanted if anew else wanted - committed_chunks(store, setting.digest))


def _pace(store: Store, paces: Paces, setting: Setting, conditions: Conditions) -> tuple[Pace | None, str]:
    """By other runs, else by warm timings of the network, else None; and the words for it."""
    found = paces.find(setting, conditions)
    if found is not None:
        pace, runs = found
        return pace, f"{runs} earlier run{'s' if runs > 1 else ''} of this network"
    timed = seconds_per_evaluation(store, setting)
    if timed is None:
        return None, f"the network of {setting.snapshot.title} was neither run nor timed before in this way"
    return Pace(timed, paces.start), "earlier timings of this network, one worker alone"
