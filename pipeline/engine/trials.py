"""What a search decides by: trials, their ranks, who goes on, and who is on the front. Plain functions on plain data.

Quality is measured with few images first. Distances of different numbers of images are never compared as they are: they
differ by a bias that is nearly the same for all settings, so the median difference of the trials that have both brings
them to one level.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import median
from typing import Any, Literal

from pipeline.engine.pareto import pareto_front
from pipeline.metrics.rank_correlation import RankCorrelation, rank_correlation

State = Literal["open", "pruned", "failed"]


@dataclass(frozen=True)
class Trial:
    """One setting that was tried.

    Args:
        number: in the order of the proposals.
        params: what was picked, by its path in the space.
        chosen: the dotted keys that it sets, and their values.
        name: in words.
        samples: the digest that names its images.
        flow: names what its converged trajectories are made of; empty where noise is added.
        nfe: evaluations an image.
        probed: images that were made to compare them with their converged trajectories alone.
        distances: by the number of images.
        half_widths: half the 95 % interval of each, where there is one.
        rmse: the distance to its converged trajectories, where there are any.
        state: pruned by that distance, failed where it cannot be sampled, or open.
    """

    number: int
    params: Mapping[str, float]
    chosen: Mapping[str, Any]
    name: str
    samples: str
    flow: str
    nfe: float
    probed: int = 0
    distances: Mapping[int, float] = field(default_factory=dict)
    half_widths: Mapping[int, float] = field(default_factory=dict)
    rmse: float | None = None
    state: State = "open"

    @property
    def images(self) -> int:
        """How many it was measured with, the most."""
        return max(self.distances, default=0)

    @property
    def made(self) -> int:
        """How many were made."""
        return max(self.images, self.probed)

    def measured(self, images: int, distance: float, half_width: float | None) -> "Trial":
        """The same with one more measurement; a distance that is no number is a failure."""
        if not math.isfinite(distance):
            return replace(self, state="failed")
        widths = self.half_widths if half_width is None else {**self.half_widths, images: half_width}
        return replace(self, distances={**self.distances, images: distance}, half_widths=widths)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Trial":
        """Of what `dataclasses.asdict` and JSON make of it: keys that are numbers come back as text."""
        numbered = {name: {int(key): value for key, value in content[name].items()} for name in _NUMBERED}
        return cls(**{**content, **numbered})


_NUMBERED = ("distances", "half_widths")


def ranked(costs: Sequence[float], qualities: Sequence[float]) -> list[int]:
    """The indices of points, best first: by fronts (what nothing beats, what nothing of the rest beats, ...), and
    within a front those first that stand most alone, as NSGA-II has it (Deb et al. 2002)."""
    left, order = list(range(len(costs))), list[int]()
    while left:
        on_front = pareto_front([costs[i] for i in left], [qualities[i] for i in left])
        front = [index for index, on in zip(left, on_front, strict=True) if on]
        if not front:  # nothing finite is left
            return order + left
        alone = _crowding([costs[i] for i in front], [qualities[i] for i in front])
        order += [front[place] for place in sorted(range(len(front)), key=lambda place: -alone[place])]
        left = [index for index in left if index not in front]
    return order


def _crowding(costs: Sequence[float], qualities: Sequence[float]) -> list[float]:
    """The crowding distance of each point of a front, in the logarithms of both; of the ends it is infinite."""
    alone = [0.0] * len(costs)
    for values in (costs, qualities):
        logs = [math.log(max(value, 1e-300)) for value in values]
        order = sorted(range(len(logs)), key=logs.__getitem__)
        span = (logs[order[-1]] - logs[order[0]]) or 1.0
        alone[order[0]] = alone[order[-1]] = math.inf
        for before, place, after in zip(order, order[1:], order[2:], strict=False):
            alone[place] += (logs[after] - logs[before]) / span
    return alone


def promotions(trials: Sequence[Trial], ladder: Sequence[int], keep_one_in: int) -> list[tuple[Trial, int]]:
    """Who goes on to how many images: at each number of them, the best of all that were ever measured with it.

    Successive halving as it comes (ASHA, Li et al. 2020, arXiv 1810.05934).
    """
    found = []
    for images, more in pairwise(ladder):
        pool = [trial for trial in trials if images in trial.distances and trial.state == "open"]
        order = ranked([trial.nfe for trial in pool], [trial.distances[images] for trial in pool])
        best = [pool[index] for index in order[: len(pool) // keep_one_in]]
        found += [(trial, more) for trial in best if trial.images == images]
    return found


def levelled(trials: Sequence[Trial], ladder: Sequence[int]) -> dict[int, float]:
    """The distance of each measured trial, by its number, brought to the level of the fewest images."""
    first = ladder[0]
    shift = {first: 0.0}
    for images in ladder[1:]:
        both = [t.distances[images] - t.distances[first] for t in trials if {images, first} <= set(t.distances)]
        shift[images] = median(both) if both else 0.0
    found = [trial for trial in trials if trial.distances and trial.state == "open"]
    return {trial.number: trial.distances[trial.images] - shift[trial.images] for trial in found}


def front(trials: Sequence[Trial], ladder: Sequence[int], most: int | None = None) -> list[Trial]:
    """The settings that nothing beats, by rising cost; at most so many, those kept that stand most alone, and the one
    of the least distance always."""
    level = levelled(trials, ladder)
    pool = [trial for trial in trials if trial.number in level]
    qualities = [level[trial.number] for trial in pool]
    on_front = pareto_front([trial.nfe for trial in pool], qualities)
    chosen = [(trial, quality) for trial, quality, on in zip(pool, qualities, on_front, strict=True) if on]
    if most is not None and len(chosen) > most:
        best = min(range(len(chosen)), key=lambda place: chosen[place][1])
        alone = _crowding([trial.nfe for trial, _ in chosen], [quality for _, quality in chosen])
        order = sorted(range(len(chosen)), key=lambda place: (place != best, -alone[place]))
        chosen = [chosen[place] for place in sorted(order[:most])]
    return sorted((trial for trial, _ in chosen), key=lambda trial: trial.nfe)


def correlation(trials: Sequence[Trial], ladder: Sequence[int]) -> tuple[str, RankCorrelation] | None:
    """How the distance to converged trajectories ranks the settings of one flow, the one most often tried: its name,
    and the correlation with the Frechet distance of the fewest images."""
    pairs: dict[str, list[tuple[float, float]]] = {}
    for trial in trials:
        if trial.rmse is not None and ladder[0] in trial.distances:
            pairs.setdefault(trial.flow, []).append((trial.rmse, trial.distances[ladder[0]]))
    if not pairs:
        return None
    flow = max(pairs, key=lambda name: len(pairs[name]))
    return flow, rank_correlation([rmse for rmse, _ in pairs[flow]], [distance for _, distance in pairs[flow]])


def worse_half(trials: Sequence[Trial]) -> set[int]:
    """The numbers of the trials whose evaluations and distance to converged trajectories, ranked among all of the same
    flow, are in the worse half."""
    worse: set[int] = set()
    for flow in {trial.flow for trial in trials if trial.rmse is not None}:
        pool = [(t.number, t.nfe, t.rmse) for t in trials if t.flow == flow and t.rmse is not None]
        order = ranked([nfe for _, nfe, _ in pool], [rmse for _, _, rmse in pool])
        worse |= {pool[index][0] for index in order[-(len(order) // 2) :]} if len(order) > 1 else set()
    return worse
