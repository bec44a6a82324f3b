"""Who goes on, who is on the front: by hand, and on trials whose quality is known."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest

from pipeline.engine.pareto import pareto_front
from pipeline.engine.trials import Trial, correlation, front, levelled, promotions, ranked, worse_half

LADDER = [100, 300, 900]


def trial(number: int, nfe: float, **distances: float) -> Trial:
    by_images = {int(images[1:]): value for images, value in distances.items()}
    return Trial(number, {}, {}, f"t{number}", f"d{number}", "flow", nfe, distances=by_images)


def test_points_are_ranked_front_by_front() -> None:
    generator = np.random.default_rng(0)
    costs, qualities = generator.uniform(1, 2, size=(2, 40))
    order = ranked(list(costs), list(qualities))
    assert sorted(order) == list(range(40))
    left = list(range(40))
    place = 0
    while left:
        flags = pareto_front([costs[i] for i in left], [qualities[i] for i in left])
        on_front = {index for index, on in zip(left, flags, strict=True) if on}
        assert set(order[place : place + len(on_front)]) == on_front
        place += len(on_front)
        left = [index for index in left if index not in on_front]


def test_one_in_three_goes_on_and_nobody_twice() -> None:
    trials = [trial(n, 10.0, n100=float(n + 1)) for n in range(9)]
    assert [(one.number, more) for one, more in promotions(trials, LADDER, 3)] == [(0, 300), (1, 300), (2, 300)]
    trials[0] = replace(trials[0], distances={100: 1.0, 300: 0.9})
    assert [one.number for one, _ in promotions(trials, LADDER, 3)] == [1, 2]
    trials[1] = replace(trials[1], state="failed")
    assert [one.number for one, _ in promotions(trials, LADDER, 3)] == [2]


def test_distances_of_different_numbers_of_images_are_brought_to_one_level() -> None:
    trials = [trial(n, n + 1.0, n100=5.0 + n, n300=3.0 + n) for n in range(3)] + [trial(3, 9.0, n100=6.5)]
    level = levelled(trials, LADDER)
    assert level == {0: 5.0, 1: 6.0, 2: 7.0, 3: 6.5}
    assert [one.number for one in front(trials, LADDER)] == [0]


def test_a_front_that_is_too_long_keeps_its_best_and_its_ends() -> None:
    trials = [trial(n, float(2**n), n100=float(100 / 3**n)) for n in range(8)]
    assert [one.number for one in front(trials, LADDER)] == list(range(8))
    kept = [one.number for one in front(trials, LADDER, most=3)]
    assert len(kept) == 3
    assert {0, 7} <= set(kept)
    assert [one.number for one in front(trials, LADDER, most=1)] == [7]


def test_the_worse_half_is_that_of_one_flow() -> None:
    trials = [replace(trial(n, 10.0), rmse=float(n), flow="a" if n < 4 else "b") for n in range(8)]
    assert worse_half(trials) == {2, 3, 6, 7}
    assert worse_half(trials[:1]) == set()


def test_the_correlation_is_that_of_the_flow_most_often_tried() -> None:
    trials = [replace(trial(n, 10.0, n100=float(n)), rmse=float(n), flow="a") for n in range(5)]
    trials += [replace(trial(9, 10.0, n100=0.0), rmse=9.0, flow="b"), trial(10, 1.0, n100=3.0)]
    found = correlation(trials, LADDER)
    assert found is not None
    assert found[0] == "a"
    assert (found[1].kendall, found[1].count) == (pytest.approx(1.0), 5)
    assert correlation([trial(0, 1.0)], LADDER) is None


def test_a_trial_survives_json_and_what_is_no_number_is_a_failure() -> None:
    one = replace(trial(3, 7.0, n100=2.5), params={"x": 1}, chosen={"a.b": {"kind": "c"}}, rmse=0.1)
    assert Trial.from_json(json.loads(json.dumps(asdict(one)))) == one
    assert one.measured(300, math.nan, None).state == "failed"
    assert one.measured(300, 2.0, 0.5).half_widths == {300: 0.5}
