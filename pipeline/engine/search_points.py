"""The settings of a search's space, found in its store, and what their converged trajectories are made of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.config.search import SearchSettings
from pipeline.data.store import Store
from pipeline.digests import canonical
from pipeline.engine.generation import find_settings
from pipeline.engine.paces import nfe_of
from pipeline.engine.placement import Placement
from pipeline.engine.search_budget import Ledger
from pipeline.engine.trajectories import is_deterministic, reference_point
from pipeline.engine.work import Point, Setting

ToPoint = Callable[[Mapping[str, Any]], Point]


@dataclass
class SearchPoints:
    """Finds settings, each once.

    Args:
        store: with the checkpoint.
        settings: of the search.
        to_point: a setting of the space as the engine takes it.
        placement: where images are made.
    """

    store: Store
    settings: SearchSettings
    to_point: ToPoint
    placement: Placement
    _found: dict[str, tuple[Point, Setting]] = field(default_factory=dict)

    def find(self, chosen: Mapping[str, Any]) -> tuple[Point, Setting]:
        """A setting of the space, found and valid.

        Raises:
            UserError: it is none that the checkpoint can be sampled with.
        """
        name = canonical(chosen)
        if name not in self._found:
            point = self.to_point(chosen)
            self._found[name] = point, self._setting(point)
        return self._found[name]

    def flow(self, chosen: Mapping[str, Any]) -> str:
        """Names the converged trajectories that a setting is compared with; empty where there are none."""
        point, _ = self.find(chosen)
        if self.settings.metrics.trajectory is None or not is_deterministic(point.sampler):
            return ""
        return self._reference(point).digest

    def reference_price(self, chosen: Mapping[str, Any]) -> float:
        """Network evaluations that making them takes."""
        assert self.settings.metrics.trajectory is not None
        count = min(self.settings.metrics.trajectory.num_seeds, self.settings.images[0])
        return Ledger(self.settings).images(count) * nfe_of(self._reference(self.find(chosen)[0]))

    def _reference(self, point: Point) -> Setting:
        assert self.settings.metrics.trajectory is not None
        return self._setting(reference_point(point, self.settings.metrics.trajectory))

    def _setting(self, point: Point) -> Setting:
        return find_settings(self.store, [point], self.settings.execution, self.placement)[0]
