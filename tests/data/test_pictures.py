import numpy as np
import pytest

from pipeline.data.pictures import BACKGROUND, Pixels, comparison_picture, image_grid


def noise(num: int, channels: int, height: int, width: int) -> Pixels:
    return np.random.default_rng(0).integers(0, 200, (num, channels, height, width), dtype=np.uint8)


def test_every_image_is_in_its_cell_with_its_pixels_repeated() -> None:
    images = noise(7, 3, 4, 5)
    picture = image_grid(images, columns=3, scale=2, padding=1)
    assert picture.shape == (3 * 9 + 1, 3 * 11 + 1, 3)
    for index, image in enumerate(images):
        y, x = 1 + index // 3 * 9, 1 + index % 3 * 11
        cell = picture[y : y + 8, x : x + 10]
        for dy in range(2):
            for dx in range(2):
                np.testing.assert_array_equal(cell[dy::2, dx::2], image.transpose(1, 2, 0))
    assert (picture[19:, 12:] == BACKGROUND).all()  # the cells that stay open


def test_grey_images_become_grey_pixels() -> None:
    picture = image_grid(noise(4, 1, 8, 8), padding=0, scale=1)
    assert picture.shape == (16, 16, 3)
    np.testing.assert_array_equal(picture[..., 0], picture[..., 2])


@pytest.mark.parametrize(("size", "scale"), [(8, 8), (16, 4), (28, 3), (32, 2), (64, 1), (256, 1)])
def test_small_images_are_scaled_up_to_be_seen(size: int, scale: int) -> None:
    assert image_grid(noise(1, 1, size, size), padding=0).shape == (size * scale, size * scale, 3)


def test_a_comparison_has_the_images_at_the_right_and_labels_at_the_left() -> None:
    first, second = noise(5, 1, 16, 16), noise(3, 1, 16, 16)
    picture = comparison_picture([("euler 18", first), ("heun 18, with a name that is rather long", second)], scale=4)
    grid = image_grid(np.concatenate([first, second, np.full((2, 1, 16, 16), BACKGROUND, np.uint8)]), 5, 4)
    np.testing.assert_array_equal(picture[:, -grid.shape[1] :], grid)
    labels = picture[:, : -grid.shape[1]]
    half = len(labels) // 2
    assert (labels[:half] < 100).any()
    assert (labels[half:] < 100).any()
    assert (labels[:, 0] == BACKGROUND).all()  # nothing is cut off at the edge


def test_the_same_images_make_the_same_picture() -> None:
    rows = [("euler", noise(5, 3, 16, 16))]
    np.testing.assert_array_equal(comparison_picture(rows), comparison_picture(rows))


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((4, 16, 16), np.uint8),
        np.zeros((4, 2, 16, 16), np.uint8),
        np.zeros((0, 3, 16, 16), np.uint8),
        np.zeros((4, 3, 16, 16), np.float32),
    ],
)
def test_what_is_no_set_of_images_is_refused(images: Pixels) -> None:
    with pytest.raises(ValueError, match="images: must be uint8"):
        image_grid(images)


def test_rows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in size"):
        comparison_picture([("a", noise(1, 1, 8, 8)), ("b", noise(1, 1, 9, 9))])
    with pytest.raises(ValueError, match="there are none"):
        comparison_picture([])
    with pytest.raises(ValueError, match="one for each of 2 rows"):
        image_grid(noise(4, 1, 8, 8), columns=2, row_labels=["one"])
