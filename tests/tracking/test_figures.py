import io
import math
import sys

import numpy as np
import pytest
from PIL import Image

from pipeline.tracking.figures import Point, pareto, pixels, quality_against_cost


def figure(points: list[Point]) -> Image.Image:
    return Image.open(io.BytesIO(quality_against_cost(points, "title")))


def has_colour(image: Image.Image, colour: tuple[int, int, int]) -> bool:
    return bool((np.abs(np.asarray(image.convert("RGB")).astype(int) - colour).sum(-1) < 10).any())


def test_the_front_is_what_no_other_point_beats() -> None:
    points = [Point("a", 10, 5), Point("a", 20, 3), Point("b", 20, 4), Point("b", 30, 3), Point("b", 5, 9)]
    assert pareto(points) == [True, True, False, False, True]


def test_equal_points_are_both_on_the_front() -> None:
    assert pareto([Point("a", 1, 1), Point("b", 1, 1)]) == [True, True]


def test_a_distance_that_is_not_a_number_is_on_no_front() -> None:
    assert pareto([Point("a", 1, math.nan), Point("b", 2, 1)]) == [False, True]


def test_each_series_has_its_own_line() -> None:
    image = figure([Point("euler", 5, 9), Point("euler", 10, 4), Point("heun", 5, 20), Point("heun", 10, 3)])
    assert image.size == (1200, 750)
    assert has_colour(image, (0x00, 0x72, 0xB2))
    assert has_colour(image, (0xD5, 0x5E, 0x00))
    assert not has_colour(image, (0x00, 0x9E, 0x73))


@pytest.mark.parametrize(
    "points",
    [
        [],
        [Point("euler", 5, 3)],
        [Point("euler", 5, math.nan), Point("euler", 6, math.inf)],
        [Point("euler", 5, 0.0), Point("euler", 500, 1e6)],
        [Point("euler", 5, -0.01, "below", low=-0.5, high=0.4), Point("heun", 5, -0.01)],
        [Point(f"solver {n}", n + 1, 3.0 + n) for n in range(12)],
    ],
)
def test_odd_numbers_make_a_figure_without_a_warning(points: list[Point], recwarn: pytest.WarningsRecorder) -> None:
    assert figure(points).size == (1200, 750)
    assert [str(warning.message) for warning in recwarn] == []


def test_the_same_points_make_the_same_bytes() -> None:
    points = [Point("euler", 5, 9), Point("euler", 10, 4)]
    assert quality_against_cost(points) == quality_against_cost(points)


def test_a_figure_becomes_pixels_for_the_tracker() -> None:
    found = pixels(quality_against_cost([Point("euler", 5, 9)]))
    assert found.shape == (750, 1200, 3)
    assert found.dtype == np.uint8


def test_no_state_of_pyplot_is_touched() -> None:
    quality_against_cost([Point("euler", 5, 9)])
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
