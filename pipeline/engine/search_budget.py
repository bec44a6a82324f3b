"""What a search may still spend, and what things would cost: network evaluations, counted in whole chunks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.config.search import SearchSettings
from pipeline.data.samples import spans
from pipeline.engine.search_state import SearchState
from pipeline.engine.trials import Trial, front


@dataclass(frozen=True)
class Ledger:
    """The prices of a search. They are those of an empty store, so that a search does not depend on what others did."""

    settings: SearchSettings

    @property
    def ladder(self) -> Sequence[int]:
        return self.settings.images

    def images(self, count: int, first: int | None = None) -> int:
        """So many images of consecutive seeds, in whole chunks."""
        size = self.settings.execution.chunk_size
        first = self.settings.first_seed if first is None else first
        return len(spans(first, count, size)) * size if count else 0

    def price(self, trial: Trial, images: int) -> float:
        """Of bringing a trial to so many images."""
        return max(self.images(images) - self.images(trial.made), 0) * trial.nfe

    def final_price(self, trials: Sequence[Trial], state: SearchState) -> float:
        """Of measuring them on fresh seeds, but those that were."""
        return self.fresh_images * sum(trial.nfe for trial in trials if trial.number not in state.finalists)

    @property
    def fresh_images(self) -> int:
        """Of each finalist, on fresh seeds."""
        final = self.settings.final
        return 0 if final is None else self.images(final.seeds.count, final.seeds.first)

    def left(self, state: SearchState) -> float:
        """Evaluations that may still be spent, by both limits; those of time by the pace so far."""
        budget = self.settings.budget
        left = math.inf if budget.nfe is None else budget.nfe - state.spent
        if budget.minutes is not None and state.spent:
            left = min(left, (60 * budget.minutes - state.seconds) * state.spent / max(state.seconds, 1e-9))
        return max(left, 0.0)

    def reserve(self, state: SearchState, proposals: Sequence[Trial]) -> float:
        """What the end of the search will take: all images, and the fresh ones, of the front as it is now. At the
        beginning it is that of the first proposals, but no more than half of all."""
        most = self.most
        best = front(state.trials, self.ladder, most)
        if best:
            return sum(self.price(trial, self.ladder[-1]) for trial in best) + self.final_price(best, state)
        typical = sum(trial.nfe for trial in proposals) / max(len(proposals), 1)
        left = self.left(state)
        end = most * typical * (self.images(self.ladder[-1]) + self.fresh_images)
        return min(end, left / 2 if math.isfinite(left) else 0.0)

    @property
    def most(self) -> int:
        """Settings of the front that are carried to the end."""
        return 6 if self.settings.final is None else self.settings.final.most

    def finalists(self, state: SearchState) -> list[Trial]:
        """As many of the front as can still be paid for."""
        left = self.left(state)
        for most in range(self.most, 0, -1):
            best = front(state.trials, self.ladder, most)
            if self.final_price(best, state) <= left:
                return best
        return []
