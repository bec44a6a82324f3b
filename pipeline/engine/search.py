"""Search: the settings that nothing beats in quality and cost, for a fraction of what trying all of them would take.

A step is one call of the engine, so that all actors are busy: new settings with few images, and those that did well
with more. Optuna proposes; successive halving over the number of images decides who goes on; the distance to converged
trajectories may end a trial before, where it was seen to rank settings as the Frechet distance does. Then the front is
measured with all images, and at last on fresh seeds, by `benchmark`: what is best among many by the same images owes
some of it to chance.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.config.search import SearchSettings
from pipeline.config.space import one_by_one
from pipeline.data.store import Store
from pipeline.digests import digest
from pipeline.engine.evaluation import evaluate
from pipeline.engine.generation import PointResult, generate
from pipeline.engine.measures import Measure
from pipeline.engine.paces import nfe_of
from pipeline.engine.placement import place
from pipeline.engine.progress import say
from pipeline.engine.proposals import propose
from pipeline.engine.search_budget import Ledger
from pipeline.engine.search_points import SearchPoints, ToPoint
from pipeline.engine.search_runs import tell_trial
from pipeline.engine.search_state import SearchState, commit_state, read_state
from pipeline.engine.trajectories import Converged, converge
from pipeline.engine.trials import Trial, correlation, front, levelled, promotions, worse_half
from pipeline.engine.work import Actors, Point, Seeds, Setting
from pipeline.errors import CheckpointError, SettingsError
from pipeline.reporting import Reporter

REVISION = 1  # of how a search decides


@dataclass(frozen=True)
class Step:
    """What is done next.

    Args:
        proposals: trials that are new.
        images: how many each trial is brought to, by its number.
    """

    proposals: tuple[Trial, ...]
    images: Mapping[int, int]


@dataclass
class Search:
    """One search, from the state that its store has.

    Args:
        store: of everything.
        settings: of the search.
        to_point: a setting of the space as the engine takes it.
        measures: the first one decides.
        reporter: gets a run for every trial.
        actors: who computes.
        progress: show bars.
    """

    store: Store
    settings: SearchSettings
    to_point: ToPoint
    measures: Sequence[Measure]
    reporter: Reporter
    actors: Actors
    progress: bool = True

    def __post_init__(self) -> None:
        placement = place(self.settings.execution, self.actors)
        self.points = SearchPoints(self.store, self.settings, self.to_point, placement)
        self.ledger = Ledger(self.settings)
        first = next(one_by_one(self.settings.spaces[0]))
        _, found = self.points.find(first)  # a mistake that all settings share is told here
        self.digest = digest(self._identity(found))

    def run(self) -> SearchState:
        """Goes on from where the search was until its budget is spent.

        Raises:
            SettingsError: the budget is too small for anything.
            RunFailedError: no setting of a step could be sampled.
        """
        state = read_state(self.store, self.digest)
        while (step := self.plan(state)) is not None:
            commit_state(self.store, self.digest, self._carry_out(state, step), {"name": self.settings.name})
            state = read_state(self.store, self.digest)  # as the next process would find it
            self._say(state)
        return state

    # -- deciding ------------------------------------------------------------------------------------------------

    def plan(self, state: SearchState) -> Step | None:
        """The next step, a function of the state alone; None where all is done.

        Raises:
            SettingsError: the budget is too small for anything.
        """
        proposals = self._propose(state)
        left = self.ledger.left(state) - self.ledger.reserve(state, proposals)
        may_prune = bool(proposals) and self.may_prune(state)
        new = {trial.number: self._first_images(trial, may_prune) for trial in proposals}
        images = self._affordable([*state.trials, *proposals], {**self._promoted(state), **new}, left, state)
        taken = tuple(trial for trial in proposals if trial.number in images)
        if taken:
            return Step(taken, images)
        if not state.trials:
            raise SettingsError("budget", self._too_small(state, proposals))
        return self._closing(state)

    def _closing(self, state: SearchState) -> Step | None:
        """Brings the front to all images, as far as that and its measurement on fresh seeds can be paid for."""
        best = front(state.trials, self.ledger.ladder, self.ledger.most)
        wanted = {trial.number: self.ledger.ladder[-1] for trial in best if trial.images < self.ledger.ladder[-1]}
        left = self.ledger.left(state) - self.ledger.final_price(best, state)
        images = self._affordable(state.trials, wanted, left, state)
        return Step((), images) if images else None

    def _promoted(self, state: SearchState) -> dict[int, int]:
        """Who goes on: those that passed the comparison with their converged trajectories, and the best at each number
        of images."""
        passed = {t.number: self.ledger.ladder[0] for t in state.trials if not t.distances and t.state == "open"}
        best = promotions(state.trials, self.ledger.ladder, self.settings.keep_one_in)
        return {**passed, **{trial.number: images for trial, images in best}}

    def _affordable(
        self, trials: Sequence[Trial], wanted: Mapping[int, int], left: float, state: SearchState
    ) -> dict[int, int]:
        """As many of the wanted, in their order, as can be paid for."""
        by_number, taken, flows = {trial.number: trial for trial in trials}, dict[int, int](), set(state.references)
        for number, images in wanted.items():
            trial = by_number[number]
            price = self.ledger.price(trial, images)
            if trial.flow and trial.flow not in flows:
                price += self.points.reference_price(trial.chosen)
            if price <= left:
                taken[number] = images
                left -= price
                flows |= {trial.flow} - {""}
        return taken

    def _propose(self, state: SearchState) -> list[Trial]:
        """New trials; none where the space is tried out."""
        level = levelled(state.trials, self.ledger.ladder)
        worst = max(level.values(), default=1.0)
        told = [
            (trial, _log(trial.nfe), _log(level.get(trial.number, worst)))
            for trial in state.trials
            if trial.number in level or trial.state == "pruned"
        ]
        tried, asked = {trial.samples for trial in state.trials}, set[str]()

        def accept(chosen: dict[str, Any]) -> bool:
            try:
                _, setting = self.points.find(chosen)
                nfe = setting.count_nfe()
            except (SettingsError, CheckpointError):  # a combination that does not go together
                return False
            most = self.settings.max_nfe
            if setting.digest in tried | asked or (most is not None and nfe is not None and nfe > most):
                return False
            asked.add(setting.digest)
            return True

        spaces, count, seed = self.settings.spaces, self.settings.generation, self.settings.seed
        proposed = propose(spaces, told, count, seed, state.steps, accept)
        flows = [trial.flow for trial in state.trials if trial.flow]
        trials = []
        next_number = max((trial.number for trial in state.trials), default=-1) + 1
        for number, (params, chosen) in enumerate(proposed, next_number):
            trials.append(self._trial(number, params, chosen, flows))
            flows += [trials[-1].flow] if trials[-1].flow else []
        return trials

    def _trial(self, number: int, params: Mapping[str, float], chosen: dict[str, Any], flows: Sequence[str]) -> Trial:
        point, setting = self.points.find(chosen)
        flow = self.points.flow(chosen)
        if flow not in flows and len(set(flows)) >= self.settings.prune.references:
            flow = ""
        return Trial(number, params, chosen, point.name, setting.digest, flow, nfe_of(setting))

    def _first_images(self, trial: Trial, may_prune: bool) -> int:
        """Of a new trial: as few as its converged trajectories are compared with, where these may decide."""
        trajectory = self.settings.metrics.trajectory
        if trajectory is None or not trial.flow or not may_prune:
            return self.ledger.ladder[0]
        return min(trajectory.num_seeds, self.ledger.ladder[0])

    def may_prune(self, state: SearchState) -> bool:
        """Whether the distance to converged trajectories was seen to rank settings as the Frechet distance does."""
        found, prune = correlation(state.trials, self.ledger.ladder), self.settings.prune
        if found is None or found[1].kendall_interval is None or found[1].count < prune.trials:
            return False
        return found[1].kendall_interval[0] >= prune.correlation

    # -- doing ---------------------------------------------------------------------------------------------------

    def _carry_out(self, state: SearchState, step: Step) -> SearchState:
        begin = time.monotonic()
        trials = {trial.number: trial for trial in (*state.trials, *step.proposals)}
        spent, flows = state.spent, list(state.references)
        for number, images in step.images.items():
            trial = trials[number]
            spent += self.ledger.price(trial, images)
            if trial.flow and trial.flow not in flows:
                spent += self.points.reference_price(trial.chosen)
                flows.append(trial.flow)
        points = {number: self.points.find(trials[number].chosen)[0] for number in step.images}
        compared = [n for n in step.images if trials[n].flow and trials[n].rmse is None]
        converged = self._converged([points[number] for number in compared])
        seeds = [Seeds(self.settings.first_seed, images) for images in step.images.values()]
        results = generate(
            self.store, list(points.values()), seeds, self.settings.execution, self.actors, [self.measures[0].plan],
            progress=self.progress, partly=True,
        )  # fmt: skip
        found = {result.samples_digest: result for result in results}
        for number, images in step.images.items():
            trial = trials[number]
            result = found.get(trial.samples)
            trials[number] = (
                self._measured(trial, images, result, converged) if result else replace(trial, state="failed")
            )
        pruned = self._prune(trials, step)
        for number in step.images:
            trial = pruned[number]
            result = found.get(trial.samples)
            tell_trial(self.reporter, self.settings, self.digest, self.measures[0], trial, result)
        seconds = state.seconds + time.monotonic() - begin
        return SearchState(tuple(pruned.values()), state.steps + 1, spent, seconds, tuple(flows), state.finalists)

    def _measured(self, trial: Trial, images: int, result: PointResult | None, converged: Converged | None) -> Trial:
        if result is None:
            return replace(trial, state="failed")
        trial = replace(trial, nfe=result.nfe)
        if converged is not None and trial.flow and trial.rmse is None:
            error = converged.error_of(result.point, trial.samples)
            trial = replace(trial, rmse=None if error is None else error.rmse, probed=converged.seeds.count)
        if images < self.ledger.ladder[0]:
            return trial
        seeds, measure = Seeds(self.settings.first_seed, images), self.measures[0]
        [found] = evaluate(self.store, [result], seeds, measure.plan, measure.reference)
        return trial.measured(images, found.distance, found.half_width)

    def _prune(self, trials: dict[int, Trial], step: Step) -> dict[int, Trial]:
        """Ends those of the new trials that were only compared with their converged trajectories, and did badly."""
        worse = worse_half(list(trials.values()))
        probed = {trial.number for trial in step.proposals if not trials[trial.number].distances}
        ended = {number for number in probed & worse if trials[number].state == "open"}
        return {n: replace(trial, state="pruned") if n in ended else trial for n, trial in trials.items()}

    def _converged(self, points: Sequence[Point]) -> Converged | None:
        trajectory = self.settings.metrics.trajectory
        if trajectory is None or not points:
            return None
        seeds = Seeds(self.settings.first_seed, self.ledger.ladder[0])
        return converge(
            self.store, points, trajectory, seeds, self.settings.execution, self.actors, progress=self.progress
        )

    # -- small things --------------------------------------------------------------------------------------------

    def _too_small(self, state: SearchState, proposals: Sequence[Trial]) -> str:
        if not proposals:
            return "cannot be spent: no setting of the space goes with this checkpoint and `max_nfe`"
        cheapest = min(self.ledger.price(trial, self.ledger.ladder[0]) for trial in proposals)
        return (
            f"is too small: {self.ledger.ladder[0]:,} images of the cheapest of the first settings ({cheapest:,.0f} "
            f"evaluations), their converged trajectories and the final stage take more than its "
            f"{self.ledger.left(state):,.0f}; raise it, or lower `images`, `final.seeds.count` or `generation`"
        )

    def _identity(self, first: Setting) -> dict[str, Any]:
        """All that decides what a search finds, but its budget: with more of it, it goes on."""
        settings, measure = self.settings, self.measures[0]
        names = ("images", "keep_one_in", "generation", "first_seed", "seed", "max_nfe", "prune")
        return {
            "revision": REVISION,
            "first": first.key,
            "base": [settings.checkpoint, settings.guide, settings.sampler, settings.labels],
            "space": settings.space,
            "trajectory": settings.metrics.trajectory,
            "measure": [measure.plan.digest, measure.reference.digest],
            **{name: getattr(settings, name) for name in names},
        }

    def _say(self, state: SearchState) -> None:
        best = front(state.trials, self.ledger.ladder)
        limit = self.settings.budget.nfe
        share = "" if limit is None else f" ({state.spent / limit:.0%} of the budget)"
        say(
            f"step {state.steps}: {len(state.trials)} settings tried, {len(best)} on the front, "
            f"{state.spent:,.0f} evaluations{share}"
        )


def _log(value: float) -> float:
    return math.log(max(value, 1e-12))
