"""What a dry run says of time: by runs that were, by timings, or not at all."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.data.store import Store
from pipeline.diffusion.sampling import Sampler
from pipeline.diffusion.timesteps import EDMSteps
from pipeline.engine.forecast import Forecast, forecast, forecast_timing, makespan
from pipeline.engine.generation import find_settings, generate
from pipeline.engine.paces import Conditions, Paces
from pipeline.engine.placement import place
from pipeline.engine.timing import time_points
from pipeline.engine.work import Actors, Point, Seeds
from tests.engine.tiny import EXECUTION, tiny_points, tiny_store

HERE = Actors(num_actors=0)
PLACE = place(EXECUTION, HERE)
SEEDS = Seeds(0, 64)  # four chunks


def predicted(store: Store, points: list[Point], workers: int = 1, anew: bool = False) -> Forecast:
    settings = find_settings(store, points, EXECUTION, PLACE)
    return forecast(store, settings, SEEDS, Conditions(PLACE.family, PLACE.name, workers), anew)


def test_a_makespan_is_that_of_jobs_handed_out_in_their_order() -> None:
    assert makespan([3, 3, 3, 3], 1) == 12
    assert makespan([3, 3, 3, 3], 2) == 6
    assert makespan([1, 1, 5], 2) == 6
    assert makespan([], 3) == 0


def test_nothing_is_told_of_a_network_that_nobody_ran(tmp_path: Path) -> None:
    found = predicted(tiny_store(tmp_path), tiny_points())
    assert (found.seconds, found.chunks) == (None, 16)
    assert "net0-00000000@1000/raw was neither run nor timed before" in found.source


def test_timings_serve_where_nothing_was_run_and_workers_share_the_work(tmp_path: Path) -> None:
    store = tiny_store(tmp_path, 1)
    points = tiny_points(1, (3, 5))  # 5 and 9 evaluations
    [timing] = time_points(store, points[:1], EXECUTION, HERE, progress=False)
    one, two = (predicted(store, points, workers) for workers in (1, 2))
    assert one.seconds == pytest.approx(timing.seconds_per_1000 / 1000 * 64 * (5 + 9) / 5)
    assert two.seconds == pytest.approx(one.seconds / 2)
    assert "timings" in one.source
    settings = find_settings(store, points, EXECUTION, PLACE)
    conditions = Conditions(PLACE.family, PLACE.name, 1)
    assert forecast_timing(store, settings, 8, 3, conditions) == pytest.approx(
        timing.seconds_per_1000 / 1000 / 5 * 8 * (3 * 9 + 2)
    )


def test_a_run_is_remembered_and_what_is_there_takes_no_time(tmp_path: Path) -> None:
    store = tiny_store(tmp_path, 1)
    generate(store, tiny_points(1, (3,)), SEEDS, EXECUTION, HERE, progress=False)
    assert predicted(store, tiny_points(1, (3,))) == Forecast(0.0, 0, 0, "all of it is in the store")
    assert predicted(store, tiny_points(1, (3,)), anew=True).chunks == 4
    found = predicted(store, tiny_points(1, (3, 9)))
    assert found.chunks == 4
    assert found.source == "1 earlier run of this network"


def test_the_run_that_is_most_alike_is_believed(tmp_path: Path) -> None:
    store = tiny_store(tmp_path, 1)
    [setting] = find_settings(store, tiny_points(1, (3,)), EXECUTION, PLACE)
    for workers, seconds in ((1, 1.0), (8, 3.0)):
        conditions = Conditions(PLACE.family, PLACE.name, workers)
        meta = {"about": conditions.about(setting), "pace": {"per_evaluation": seconds, "start": 0.0}}
        store.commit(f"paces/{workers}", {}, meta)
    paces = Paces(store)
    for workers, seconds in ((1, 1.0), (8, 3.0), (2, 2.0)):
        found = paces.find(setting, Conditions(PLACE.family, PLACE.name, workers))
        assert found is not None
        assert found[0].per_evaluation == seconds
    [other] = find_settings(store, tiny_points(1, (3,)), replace(EXECUTION, precision="bf16"), PLACE)
    assert paces.find(other, Conditions(PLACE.family, PLACE.name, 1)) is None


@pytest.mark.slow
def test_a_prediction_is_within_thirty_percent_of_what_a_real_run_takes(tmp_path: Path) -> None:
    store = tiny_store(tmp_path, 1)
    generate(store, tiny_points(1, (10, 12)), Seeds(0, 256), EXECUTION, HERE, progress=False)
    grid = [replace(tiny_points(1)[0], name=str(n), sampler=Sampler(timesteps=EDMSteps(num_steps=n))) for n in (6, 20)]
    settings = find_settings(store, grid, EXECUTION, PLACE)
    found = forecast(store, settings, Seeds(0, 512), Conditions(PLACE.family, PLACE.name, 1))
    assert found.seconds is not None
    begin = time.perf_counter()
    generate(store, grid, Seeds(0, 512), EXECUTION, HERE, progress=False)
    assert found.seconds == pytest.approx(time.perf_counter() - begin, rel=0.3)
