"""The end of a search: its front measured again on fresh seeds, what it spent, and what brute force would have."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline.engine.benchmark import benchmark
from pipeline.engine.benchmark_record import commit_search_record
from pipeline.engine.benchmark_result import BenchmarkResult
from pipeline.engine.comparison import Compared
from pipeline.engine.paces import nfe_of
from pipeline.engine.search import Search
from pipeline.engine.search_plan import BruteForce, brute_force
from pipeline.engine.search_state import SearchState, commit_state, read_state
from pipeline.engine.table import Column, markdown, with_interval
from pipeline.engine.trials import Trial, correlation, front, levelled
from pipeline.engine.work import Seeds


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Args:
        name: of the search.
        digest: of all that decides it; names its state in the store.
        title: what the distance is called.
        state: all trials, and what they took.
        ladder: numbers of images that trials were measured with.
        final: the front on fresh seeds, if there was anything left for it.
        final_evaluations: of the network, on fresh seeds, with those of earlier fronts.
        brute_force: what trying everything would have taken.
        num_features: of the extractor.
    """

    name: str
    digest: str
    title: str
    state: SearchState
    ladder: tuple[int, ...]
    final: BenchmarkResult | None
    final_evaluations: float
    brute_force: BruteForce
    num_features: int

    @property
    def front(self) -> list[Trial]:
        return front(self.state.trials, self.ladder)

    @property
    def spent(self) -> float:
        """Evaluations, those of the final stage among them."""
        return self.state.spent

    @property
    def compared(self) -> list[Compared]:
        """The finalists in pairs with the best one, on the same fresh seeds, where the difference has an interval."""
        return [row for row in self.final.compared if row.comparison is not None] if self.final else []

    def summary(self) -> list[str]:
        """What was spent and why it may be trusted, in lines."""
        trials = self.state.trials
        ended = {state: sum(trial.state == state for trial in trials) for state in ("pruned", "failed")}
        share = self.spent / self.brute_force.evaluations if self.brute_force.evaluations else 0.0
        return [
            f"{len(trials)} settings tried in {self.state.steps} steps and {self.state.seconds / 60:,.1f} minutes; "
            f"{ended['pruned']} were ended by their converged trajectories alone, {ended['failed']} failed",
            f"spent {self.spent:,.0f} network evaluations, {self.final_evaluations:,.0f} of them on fresh seeds; the "
            f"full grid of {self.brute_force.settings:,} settings at {self.ladder[-1]:,} images would take "
            f"{self.brute_force.evaluations:,.0f} ({share:.1%})",
            *self._correlation(),
            *self._too_few(),
        ]

    def table(self) -> str:
        """The front on fresh seeds where it was measured there, else as the search saw it; Markdown."""
        if self.final is None:
            warning = "By the images that it was chosen by, which makes it look better than it is:"
            return "\n\n".join([warning, trials_table(self.front, self.title)])
        fresh = "The front, on seeds that nothing was chosen by:"
        return "\n\n".join([fresh, self.final.table(), *([self._pairs()] if self.compared else [])])

    def to_json(self) -> str:
        """All trials, and what the search took."""
        content = {
            "search": self.name, "digest": self.digest, "distance": self.title, "summary": self.summary(),
            "front": [trial.number for trial in self.front], "trials": [asdict(trial) for trial in self.state.trials],
        }  # fmt: skip
        return json.dumps(content, indent=1)

    def record(self) -> dict[str, Any]:
        """What its report is made of, beside the record of its final stage."""
        level, best = self.levels(), {trial.number for trial in self.front}
        marks = [
            {"series": f"{trial.images:,} images", "cost": trial.nfe, "distance": level[trial.number],
             "best": trial.number in best}
            for trial in sorted(self.state.trials, key=lambda trial: trial.images)
            if trial.number in level
        ]  # fmt: skip
        pairs = [{"name": name, "told": told} for name, told in self._differences()]
        return {
            "name": self.name, "distance": self.title, "summary": self.summary(), "marks": marks, "pairs": pairs,
            "spent": self.spent, "brute_force": self.brute_force.evaluations,
            "final": self.final.digest if self.final else "",
        }  # fmt: skip

    def levels(self) -> dict[int, float]:
        """The distance of each trial by its number, brought to the level of the fewest images."""
        return levelled(self.state.trials, self.ladder)

    def _correlation(self) -> list[str]:
        found = correlation(self.state.trials, self.ladder)
        if found is None:
            return []
        return [f"the distance to converged trajectories ranks settings as {self.title} does to: {found[1]}"]

    def _too_few(self) -> list[str]:
        few = [f"{images:,}" for images in self.ladder if images <= self.num_features]
        if not few:
            return []
        return [
            f"{' and '.join(few)} images are no more than the {self.num_features:,} features: such distances have no "
            "interval and rank settings less surely than those of more images"
        ]

    def _pairs(self) -> str:
        names, cells = zip(*self._differences(), strict=True)
        table = markdown([Column("on the same seeds", names, True), Column(self.title, cells)])
        return f"How much more than the best, seed by seed, with the 95 % interval:\n\n{table}"

    def _differences(self) -> list[tuple[str, str]]:
        """Of each pair a name, and by how much the first is farther."""
        return [
            (f"{row.name} less {row.baseline}",
             with_interval(row.comparison.difference.value, row.comparison.difference.half_width))
            for row in self.compared
            if row.comparison is not None
        ]  # fmt: skip


def trials_table(trials: Sequence[Trial], title: str) -> str:
    """Trials with what they were measured with, as Markdown."""
    return markdown(
        [
            Column("setting", tuple(trial.name for trial in trials), is_text=True),
            Column("NFE", tuple(f"{trial.nfe:g}" for trial in trials)),
            Column("images", tuple(f"{trial.images:,}" for trial in trials)),
            Column(title, tuple(_last(trial) for trial in trials)),
        ]
    )


def finish(search: Search, state: SearchState) -> SearchResult:
    """Measures the front on fresh seeds, as far as the budget goes, sums up, and keeps that in the store.

    Raises:
        UserError, RunFailedError: as `benchmark`.
    """
    finalists = search.ledger.finalists(state) if search.settings.final is not None else []
    final = _final(search, finalists) if finalists else None
    state = _with_finalists(search, state, finalists)
    result = SearchResult(
        name=search.settings.name,
        digest=search.digest,
        title=search.measures[0].plan.distance_name,
        state=state,
        ladder=tuple(search.settings.images),
        final=final,
        final_evaluations=sum(trial.nfe for trial in state.trials if trial.number in state.finalists)
        * search.ledger.fresh_images,
        brute_force=brute_force(search.settings, lambda chosen: nfe_of(search.points.find(chosen)[1])),
        num_features=search.measures[0].reference.gaussian.num_features,
    )
    commit_search_record(search.store, search.digest, result.record())
    return result


def _with_finalists(search: Search, state: SearchState, finalists: Sequence[Trial]) -> SearchState:
    """The state in which they are paid for; kept in the place of the last step's."""
    price = search.ledger.final_price(finalists, state)
    numbers = tuple(sorted({*state.finalists, *(trial.number for trial in finalists)}))
    if numbers == state.finalists:
        return state
    commit_state(
        search.store, search.digest, replace(state, spent=state.spent + price, finalists=numbers),
        {"name": search.settings.name},
    )  # fmt: skip
    return read_state(search.store, search.digest)


def _final(search: Search, finalists: Sequence[Trial]) -> BenchmarkResult:
    settings = search.settings
    assert settings.final is not None
    points = [search.points.find(trial.chosen)[0] for trial in finalists]
    seeds = Seeds(settings.final.seeds.first, settings.final.seeds.count)
    return benchmark(
        search.store, settings.name, points, seeds, search.measures, settings.execution, search.actors,
        search.reporter, settings.timing, settings.picture_seeds, progress=search.progress,
    )  # fmt: skip


def _last(trial: Trial) -> str:
    if not trial.distances:
        return "-"
    return with_interval(trial.distances[trial.images], trial.half_widths.get(trial.images))
