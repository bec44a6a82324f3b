"""Runs in which points have seeds of their own, or may fail alone."""

from pathlib import Path

import pytest

from pipeline.data.samples import committed_chunks
from pipeline.data.store import Store
from pipeline.engine.generation import Seeds, generate
from pipeline.engine.work import Actors
from pipeline.errors import RunFailedError
from tests.engine.tiny import EXECUTION, put_snapshot, tiny_points

HERE = Actors(num_actors=0, max_task_retries=0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    put_snapshot(store, "net0", 0)
    put_snapshot(store, "net1", 1, spoilt=True)
    return store


def test_each_point_has_the_seeds_that_it_is_asked_for(store: Store) -> None:
    points = tiny_points(1)
    results = generate(store, points, [Seeds(0, 16), Seeds(16, 48)], EXECUTION, HERE, progress=False)
    assert [committed_chunks(store, result.samples_digest) for result in results] == [{0}, {1, 2, 3}]
    assert [result.generated for result in results] == [16, 48]
    again = generate(store, points, [Seeds(0, 16), Seeds(0, 64)], EXECUTION, HERE, progress=False)
    assert [result.generated for result in again] == [0, 16]


def test_one_setting_has_one_range_of_seeds_in_a_run(store: Store) -> None:
    point = tiny_points(1, steps=(3,))[0]
    with pytest.raises(ValueError, match="net0 3 steps is asked for with different ones"):
        generate(store, [point, point], [Seeds(0, 16), Seeds(0, 32)], EXECUTION, HERE, progress=False)


def test_what_fails_is_left_out_where_that_is_wanted(store: Store) -> None:
    points = tiny_points(2, steps=(3,))
    with pytest.raises(RunFailedError):
        generate(store, points, Seeds(0, 16), EXECUTION, HERE, progress=False)
    [whole] = generate(store, points, Seeds(0, 16), EXECUTION, HERE, progress=False, partly=True)
    assert whole.point == points[0]
    with pytest.raises(RunFailedError):
        generate(store, points[1:], Seeds(0, 16), EXECUTION, HERE, progress=False, partly=True)
