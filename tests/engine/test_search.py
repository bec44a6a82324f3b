"""A search on a network whose quality is known in closed form, in this process."""

import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.load import validate
from pipeline.config.measuring import MetricSettings
from pipeline.config.search import SearchSettings
from pipeline.data.store import Store
from pipeline.engine.evaluation import evaluate
from pipeline.engine.generation import Seeds, generate
from pipeline.engine.measures import Measure, build_measures
from pipeline.engine.search import Search
from pipeline.engine.search_result import SearchResult, finish
from pipeline.engine.search_state import read_state
from pipeline.engine.trials import ranked
from pipeline.engine.work import Actors, Point
from pipeline.errors import SettingsError
from pipeline.metrics.extractors import File
from pipeline.reporting import MemoryReporter
from pipeline.training.snapshot import CheckpointRef
from tests.engine.gaussian import put_data, put_extractor, put_network

pytest.importorskip("optuna", reason="the extra `search` brings it")
HERE = Actors(num_actors=0)
SPACE = {
    "sampler.solver": [{"kind": "euler"}, {"kind": "heun"}, {"kind": "dpmpp_2m"}],
    "sampler.timesteps.num_steps": {"low": 3, "high": 12},
    "sampler.timesteps.rho": {"low": 2.0, "high": 11.0},
}


@dataclass(frozen=True)
class Toy:
    store: Store
    extractor: File

    def settings(self, **changes: Any) -> SearchSettings:
        content = {
            "name": "toy", "checkpoint": {"training": "gaussian"}, "space": SPACE, "budget": {"nfe": 45_000},
            "metrics": {"extractors": [self.extractor], "dataset": "gaussian", "trajectory": {"num_seeds": 50}},
            "images": [100, 200, 400], "generation": 6, "final": {"seeds": {"first": 1000, "count": 400}, "most": 4},
            "execution": {"batch_size": 50, "chunk_size": 50}, **changes,
        }  # fmt: skip
        return validate(SearchSettings, content, "search.yaml")

    def measures(self, settings: SearchSettings) -> tuple[Measure, ...]:
        metrics = MetricSettings(extractors=[self.extractor])
        return build_measures(self.store, metrics, "gaussian", settings.execution, HERE, progress=False)

    def search(self, reporter: MemoryReporter | None = None, **changes: Any) -> Search:
        settings = self.settings(**changes)

        def to_point(chosen: Any) -> Point:
            name, point = settings.point(chosen)
            return Point(name, CheckpointRef("gaussian"), point.sampler.build(), point.labels)

        reporter = reporter or MemoryReporter()
        return Search(self.store, settings, to_point, self.measures(settings), reporter, HERE, progress=False)

    def run(self, **changes: Any) -> SearchResult:
        search = self.search(**changes)
        return finish(search, search.run())


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """Nothing was searched here yet."""
    root = tmp_path_factory.mktemp("toy")
    store = Store(root / "store")
    put_network(store)
    put_data(store)
    return Toy(store, put_extractor(root))


def copied(toy: Toy, folder: Path) -> Toy:
    shutil.copytree(toy.store.uri, folder / "store")
    return replace(toy, store=Store(folder / "store"))


@pytest.fixture
def fresh(original: Toy, tmp_path: Path) -> Toy:
    return copied(original, tmp_path)


@pytest.fixture(scope="module")
def reporter() -> MemoryReporter:
    return MemoryReporter()


@pytest.fixture(scope="module")
def toy(original: Toy, tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return copied(original, tmp_path_factory.mktemp("searched"))


@pytest.fixture(scope="module")
def result(toy: Toy, reporter: MemoryReporter) -> SearchResult:
    search = toy.search(reporter)
    return finish(search, search.run())


def distances_of_the_grid(search: Search, images: int) -> list[tuple[float, float]]:
    """(NFE, distance) of the full grid that the search stands against, measured."""
    points = [search.to_point(chosen) for chosen in search.settings.grid.some(10_000)]
    named = [replace(point, name=f"{point.name} {number}") for number, point in enumerate(points)]
    seeds, measure = Seeds(0, images), search.measures[0]
    results = generate(search.store, named, seeds, search.settings.execution, HERE, [measure.plan], progress=False)
    found = evaluate(search.store, results, seeds, measure.plan, measure.reference)
    return [(result.nfe, one.distance) for result, one in zip(results, found, strict=True)]


def beaten(points: list[tuple[float, float]], among: list[tuple[float, float]]) -> float:
    """The hypervolume that points beat: the area, in the logarithms of both, up to the worst of some."""
    worst = [max(column) for column in zip(*among, strict=True)]
    area, lowest = 0.0, math.log(worst[1])
    for nfe, distance in sorted(points):
        if nfe <= worst[0] and math.log(distance) < lowest:
            area += math.log(worst[0] / nfe) * (lowest - math.log(distance))
            lowest = math.log(distance)
    return area


def test_it_finds_the_front_of_the_full_grid_for_a_fraction_of_its_evaluations(
    toy: Toy, result: SearchResult, fresh: Toy
) -> None:
    assert result.brute_force.settings == 3 * 4 * 4
    grid = distances_of_the_grid(fresh.search(), 400)
    assert result.brute_force.evaluations == sum(400 * nfe for nfe, _ in grid)
    assert result.spent < 0.25 * result.brute_force.evaluations
    found = [(trial.nfe, trial.distances[400]) for trial in result.front if 400 in trial.distances]
    assert len(found) >= 4  # as many as the final stage takes
    assert beaten(found, grid) >= 0.97 * beaten(grid, grid)
    assert min(distance for _, distance in found) <= 1.05 * min(distance for _, distance in grid)


def test_the_budget_is_kept_to_the_last_image(toy: Toy, result: SearchResult) -> None:
    assert result.final is not None
    trials = result.state.trials
    made = sum(max(trial.images, trial.probed) * trial.nfe for trial in trials)
    assert result.final_evaluations == sum(400 * row.nfe for row in result.final.rows)
    references = result.spent - made - result.final_evaluations
    assert references == pytest.approx(50 * 139, rel=0.05)  # Dormand-Prince with 24 steps, 50 seeds
    assert result.spent <= 45_000
    chunks = [key.split("/")[1] for key in toy.store.committed("samples") if "/chunk-" in key]
    nfe = {trial.samples: trial.nfe for trial in trials}
    images = sum(50 * nfe[name] for name in chunks if name in nfe)
    assert images == made + result.final_evaluations  # what the store holds is what was counted


def test_a_search_that_is_run_again_does_nothing(toy: Toy, result: SearchResult) -> None:
    commits = set(toy.store.committed(""))
    again = toy.run()
    assert again.state == result.state == read_state(toy.store, result.digest)
    assert set(toy.store.committed("")) == commits
    assert again.final is not None
    assert again.final.generated == 0


def test_a_step_that_is_lost_is_done_again_from_what_lies_in_the_store(
    result: SearchResult, toy: Toy, tmp_path: Path
) -> None:
    other = copied(toy, tmp_path)
    before = set(other.store.committed("samples"))
    for key in other.store.committed(f"searches/{result.digest}")[2:]:
        other.store.remove(other.store.manifest(key))
    again = other.run()
    assert again.state.trials == result.state.trials
    assert again.spent == result.spent
    assert set(other.store.committed("samples")) == before


def test_with_more_budget_it_goes_on_where_it_was(result: SearchResult, toy: Toy, tmp_path: Path) -> None:
    more = copied(toy, tmp_path).run(budget={"nfe": 70_000})
    assert more.digest == result.digest
    assert 50_000 < more.spent <= 70_000
    before = len(result.state.trials)
    assert len(more.state.trials) > before
    assert [trial.chosen for trial in more.state.trials[:before]] == [trial.chosen for trial in result.state.trials]
    assert set(result.state.finalists) <= set(more.state.finalists)


def test_another_seed_is_another_search_and_the_same_one_proposes_the_same(result: SearchResult, toy: Toy) -> None:
    other = toy.search(seed=1)
    assert other.digest != result.digest
    state = read_state(toy.store, other.digest)
    assert state.steps == 0
    assert other.plan(state) == toy.search(seed=1).plan(state) != toy.search().plan(state)


def test_every_trial_is_a_run_and_what_decided_is_told(result: SearchResult, reporter: MemoryReporter) -> None:
    runs = {run.name: run for run in reporter.runs.values() if run.all_tags["kind"] == "search"}
    assert set(runs) == {trial.name for trial in result.state.trials}
    for trial in result.state.trials:
        run = runs[trial.name]
        assert run.all_tags["state"] == trial.state
        assert {step: value for step, key, value in run.history if key == "fd"} == dict(trial.distances)
    assert any("converged trajectories ranks settings" in line for line in result.summary())
    assert "on seeds that nothing was chosen by" in result.table()
    assert result.final is not None
    assert len(result.compared) == len(result.final.rows) - 1


def test_finalists_are_compared_in_pairs_with_the_best_and_less_unsurely_than_alone(result: SearchResult) -> None:
    assert result.final is not None
    alone = {row.name: row for row in result.final.rows}
    best = min(result.final.rows, key=lambda row: row.distance)
    assert result.compared
    for one, told in zip(result.compared, result.record()["pairs"], strict=True):
        assert one.comparison is not None
        found, row = one.comparison.difference, alone[one.name]
        assert one.baseline == best.name
        assert found.value == pytest.approx(row.distance - best.distance)
        assert found.value >= 0
        halves = [row.half_widths["pixels"], best.half_widths["pixels"]]
        assert 0 < found.half_width < sum(half for half in halves if half is not None)
        assert told["name"] == f"{one.name} less {best.name}"


def test_trajectories_prune_where_they_were_seen_to_rank_alike_and_nowhere_else(fresh: Toy) -> None:
    few = {"images": [200, 400], "budget": {"nfe": 40_000}, "final": None}
    trusting = fresh.run(prune={"correlation": 0.0, "trials": 6}, **few)
    assert any(trial.state == "pruned" and not trial.distances for trial in trusting.state.trials)
    distrusting = fresh.run(prune={"correlation": 0.0, "trials": 1000}, **few)
    assert not any(trial.state == "pruned" for trial in distrusting.state.trials)
    assert len(trusting.state.trials) > len(distrusting.state.trials)


def test_a_small_space_is_tried_out_and_then_the_search_ends(fresh: Toy) -> None:
    result = fresh.run(space={"sampler.solver": SPACE["sampler.solver"]}, budget={"nfe": 10**9}, final=None)
    trials = result.state.trials
    assert len(trials) == 3
    assert all(trial.images == 400 for trial in result.front)
    assert "makes it look better than it is" in result.table()
    assert trials[ranked([t.nfe for t in trials], [t.distances[t.images] for t in trials])[0]] in result.front


def test_a_budget_of_minutes_ends_a_search_too(fresh: Toy) -> None:
    result = fresh.run(budget={"minutes": 0.02}, final=None, images=[100])
    assert result.state.steps >= 1
    assert result.state.seconds < 4 * 0.02 * 60


def test_a_budget_that_is_too_small_or_a_space_where_nothing_goes_is_told(fresh: Toy) -> None:
    with pytest.raises(SettingsError, match=r"budget: is too small: 100 images of the cheapest .* more than its 400;"):
        fresh.run(budget={"nfe": 400})
    with pytest.raises(SettingsError, match="no setting of the space goes with this checkpoint and `max_nfe`"):
        fresh.run(max_nfe=1)
