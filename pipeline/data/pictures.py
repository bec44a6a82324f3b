"""Pictures made of images: grids, and comparisons of settings. Plain functions on uint8 arrays, with Pillow only.

Images are (N, C, H, W) with C 1 or 3; a picture is (H, W, 3), ready for a PNG or the tracker.
"""

import textwrap
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pixels = NDArray[np.uint8]

BACKGROUND = 255
INK = (34, 34, 34)
TILE_TARGET = 64  # pixels an image is scaled up to at least, so that small digits can be seen
MAX_LABEL_CHARACTERS = 28  # of a line


def image_grid(
    images: Pixels,
    columns: int | None = None,
    scale: int | None = None,
    row_labels: Sequence[str] | None = None,
    padding: int = 2,
) -> Pixels:
    """Images in rows, each scaled up by repeating pixels.

    Args:
        images: uint8 (N, C, H, W).
        columns: images a row; about as many as rows if None.
        scale: pixels for one pixel; such that a tile has at least 64 if None.
        row_labels: a text drawn at the left of each row.
        padding: white pixels between tiles.

    Returns:
        The picture, uint8 (H', W', 3).

    Raises:
        ValueError: the images are not of this form, there are none, or the labels are not one a row.
    """
    images = _checked(images)
    num = len(images)
    columns = columns or int(np.ceil(np.sqrt(num)))
    rows = -(-num // columns)
    if row_labels is not None and len(row_labels) != rows:
        raise ValueError(f"row_labels: must be one for each of {rows} rows (got {len(row_labels)})")
    scale = scale or _scale(images)
    tiles = np.repeat(np.repeat(images.transpose(0, 2, 3, 1), scale, axis=1), scale, axis=2)
    height, width = tiles.shape[1] + padding, tiles.shape[2] + padding
    grid = np.full((rows * height + padding, columns * width + padding, 3), BACKGROUND, np.uint8)
    for index, tile in enumerate(tiles):
        y, x = padding + index // columns * height, padding + index % columns * width
        grid[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
    if row_labels is None:
        return grid
    return np.concatenate([_label_column(row_labels, height, padding, len(grid)), grid], axis=1)


def comparison_picture(rows: Sequence[tuple[str, Pixels]], scale: int | None = None) -> Pixels:
    """The same seeds in the same columns, one row a setting, its name at the left.

    Args:
        rows: (label, images uint8 (N, C, H, W)); shorter rows stay open at the right.
        scale: as in `image_grid`.

    Returns:
        The picture, uint8 (H', W', 3).

    Raises:
        ValueError: there are no rows, or their images differ in size.
    """
    if not rows:
        raise ValueError("rows: there are none")
    sets = [_checked(images) for _, images in rows]
    if len({images.shape[2:] for images in sets}) > 1:
        raise ValueError(f"rows: images differ in size (got {sorted({images.shape[2:] for images in sets})})")
    columns = max(len(images) for images in sets)
    filled = [_filled(images, columns) for images in sets]
    return image_grid(np.concatenate(filled), columns, scale, [label for label, _ in rows])


def _checked(images: Pixels) -> Pixels:
    """As three channels."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or images.size == 0:
        raise ValueError(f"images: must be uint8 (N, 1 or 3, H, W), not empty (got {images.dtype} {images.shape})")
    return np.repeat(images, 3, axis=1) if images.shape[1] == 1 else images


def _filled(images: Pixels, columns: int) -> Pixels:
    missing = np.full((columns - len(images), *images.shape[1:]), BACKGROUND, np.uint8)
    return np.concatenate([images, missing])


def _scale(images: Pixels) -> int:
    return max(1, -(-TILE_TARGET // int(max(images.shape[2:]))))


def _label_column(labels: Sequence[str], row_height: int, padding: int, height: int) -> Pixels:
    """White with the labels, right-aligned, each in the middle of its row."""
    texts = ["\n".join(textwrap.wrap(label, MAX_LABEL_CHARACTERS)) for label in labels]
    most_lines = max(text.count("\n") + 1 for text in texts)
    font = ImageFont.load_default(size=max(9, min(16, int(row_height / (most_lines * 1.25)))))
    ruler = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    margin = 10
    width = int(max(ruler.multiline_textbbox((0, 0), text, font=font)[2] for text in texts)) + 2 * margin
    canvas = Image.new("RGB", (width, height), (BACKGROUND,) * 3)
    draw = ImageDraw.Draw(canvas)
    for row, text in enumerate(texts):
        middle = padding / 2 + row * row_height + row_height / 2
        draw.multiline_text((width - margin, middle), text, fill=INK, font=font, anchor="rm", align="right")
    return np.asarray(canvas)
