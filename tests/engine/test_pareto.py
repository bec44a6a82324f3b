"""The front against its definition."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engine.pareto import pareto_front

Points = list[tuple[float, float]]
VALUES = st.one_of(st.integers(0, 4).map(float), st.floats(allow_nan=True))  # small integers: many ties


def by_definition(points: Points) -> list[bool]:
    finite = [point for point in points if math.isfinite(point[0]) and math.isfinite(point[1])]
    return [
        point in finite and not any(q[0] <= point[0] and q[1] <= point[1] and q != point for q in finite)
        for point in points
    ]


@given(st.lists(st.tuples(VALUES, VALUES), max_size=30))
def test_the_front_is_what_the_definition_says(points: Points) -> None:
    assert pareto_front([p[0] for p in points], [p[1] for p in points]) == by_definition(points)


def test_a_known_front() -> None:
    costs = [5, 9, 9, 17, 17, 35, 79]
    distances = [40.0, 12.0, 15.0, 12.0, 3.0, 3.0, 2.5]
    assert pareto_front(costs, distances) == [True, True, False, False, True, False, True]


def test_equal_points_are_all_on_the_front() -> None:
    assert pareto_front([9, 9, 17], [2.0, 2.0, 2.0]) == [True, True, False]


def test_a_distance_that_is_not_a_number_beats_nothing() -> None:
    assert pareto_front([1, 2, 3], [math.nan, 5.0, -math.inf]) == [False, True, False]


def test_costs_and_distances_must_be_of_the_same_points() -> None:
    with pytest.raises(ValueError):
        pareto_front([1, 2], [1.0])
