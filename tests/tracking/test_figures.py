import io
import math
import sys

import numpy as np
import pytest
from PIL import Image

from pipeline.tracking.figures import Point, pixels, quality_against_cost


def figure(points: list[Point]) -> Image.Image:
    return Image.open(io.BytesIO(quality_against_cost(points, "title")))


def has_colour(image: Image.Image, colour: tuple[int, int, int]) -> bool:
    return bool((np.abs(np.asarray(image.convert("RGB")).astype(int) - colour).sum(-1) < 10).any())


def test_only_the_best_points_have_a_ring() -> None:
    ring = (0x22, 0x22, 0x22)  # also the colour of the axes, so there is more of it with rings than without
    plain, ringed = (
        np.asarray(figure([Point("a", 1, 2, best=best), Point("a", 2, 1)]).convert("RGB")) for best in (False, True)
    )
    count = [int((np.abs(image.astype(int) - ring).sum(-1) < 10).sum()) for image in (plain, ringed)]
    assert count[1] > count[0] + 100


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
