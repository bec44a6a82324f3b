"""The best snapshot is chosen on seeds that are not those reported."""

import pytest

from pipeline.data.dataset import Dataset
from pipeline.data.samples import Execution
from pipeline.data.store import Store
from pipeline.diffusion.labels import Balanced
from pipeline.diffusion.sampling import Sampler
from pipeline.diffusion.solvers import Euler
from pipeline.diffusion.timesteps import EDMSteps
from pipeline.engine.evaluation import evaluate
from pipeline.engine.extractors import extractor_plan
from pipeline.engine.generation import Seeds, generate
from pipeline.engine.measures import Measure
from pipeline.engine.references import reference_moments
from pipeline.engine.snapshots import best_snapshot, check_disjoint, snapshot_refs
from pipeline.engine.work import Actors, Point
from pipeline.errors import CheckpointError, SettingsError
from pipeline.training.snapshot import CheckpointRef
from tests.engine.digits import CLASSIFIER, TRAINING, put_dataset, put_snapshot

EXECUTION = Execution(batch_size=40, chunk_size=40)
HERE = Actors(num_actors=0)
SAMPLER = Sampler(timesteps=EDMSteps(num_steps=3), solver=Euler())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("store"))
    put_dataset(store, "a", 0, 600)
    for number in (1, 2):
        put_snapshot(store, 1000 * number, seed=number)
    put_snapshot(store, training="other-76543210")
    return store


@pytest.fixture(scope="module")
def measure(store: Store) -> Measure:
    plan = extractor_plan(store, CLASSIFIER, "a")
    return Measure("classifier", plan, reference_moments(store, Dataset.open(store, "a"), plan, progress=False))


def test_every_average_of_every_snapshot_is_a_candidate(store: Store) -> None:
    refs = snapshot_refs(store, "tiny")
    assert refs == [CheckpointRef(TRAINING, at, ema) for at in (1000, 2000) for ema in ("ema-1", "ema-2")]
    with pytest.raises(CheckpointError, match="no such training"):
        snapshot_refs(store, "nobody")


def test_the_best_one_is_chosen_by_some_seeds_and_reported_on_others(store: Store, measure: Measure) -> None:
    select, report = Seeds(200, 120), Seeds(0, 120)
    found = best_snapshot(store, "tiny", SAMPLER, Balanced(), select, report, measure, EXECUTION, HERE, progress=False)
    distances = {}
    for ref in snapshot_refs(store, "tiny"):
        results = generate(store, [Point("p", ref, SAMPLER, Balanced())], select, EXECUTION, HERE, progress=False)
        assert results[0].generated == 0
        [evaluation] = evaluate(store, results, select, measure.plan, measure.reference)
        distances[ref] = evaluation.distance
    assert found.best == min(distances, key=lambda ref: distances[ref])
    assert {ref: evaluation.distance for ref, evaluation in found.candidates} == distances
    assert [evaluation.distance for _, evaluation in found.candidates] == sorted(distances.values())
    assert found.reported.protocol.first_seed == 0
    assert found.reported.distance not in distances.values()


@pytest.mark.parametrize(
    ("select", "report"), [((0, 10), (9, 10)), ((9, 10), (0, 10)), ((0, 100), (50, 1)), ((5, 1), (5, 1))]
)
def test_seeds_that_overlap_are_refused(select: tuple[int, int], report: tuple[int, int]) -> None:
    with pytest.raises(SettingsError, match="overlap"):
        check_disjoint(Seeds(*select), Seeds(*report))


def test_seeds_that_touch_do_not_overlap() -> None:
    check_disjoint(Seeds(0, 10), Seeds(10, 10))
    check_disjoint(Seeds(10, 10), Seeds(0, 10))
