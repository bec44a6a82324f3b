"""What every source of images gives: labels at once, and the images one after another."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataError


@dataclass(frozen=True, eq=False)
class Item:
    """One image of a source.

    Args:
        name: where it lies, as a person would look for it.
        image: an encoded file, or uint8 pixels of shape (C, H, W).
        label: its class, or None.
        problem: why it could not even be read; then `image` is empty.
    """

    name: str
    image: bytes | NDArray[np.uint8]
    label: int | None = None
    problem: str = ""


@dataclass(frozen=True, eq=False)
class Images:
    """An opened source. Opening reads labels and names, no image.

    Args:
        where: the file or folder, for messages.
        labels: (N,), one an image, in the source's own fixed order; -1 where there is none.
        class_names: by label; empty where the source names none.
        read: the images that a mask (N,) chooses, in order. It raises DataError where the rest cannot be read.
    """

    where: str
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    read: Callable[[NDArray[np.bool_]], Iterator[Item]]

    def __len__(self) -> int:
        return len(self.labels)


def array_items(
    pixels: NDArray[np.uint8], labels: NDArray[np.int64] | None = None, name: str = "image", start: int = 0
) -> Iterator[Item]:
    """Items of images that are in memory, uint8 (N, C, H, W), named by their number, with labels (N,) or none."""
    for number, image in enumerate(pixels):
        label = None if labels is None or labels[number] < 0 else int(labels[number])
        yield Item(f"{name} {start + number}", image, label)


def array_images(where: str, pixels: NDArray[np.uint8], labels: NDArray[np.int64], names: tuple[str, ...]) -> Images:
    """A source that is in memory already."""

    def read(chosen: NDArray[np.bool_]) -> Iterator[Item]:
        for number in np.flatnonzero(chosen):
            yield Item(f"{where}: image {number}", pixels[number], _label(labels[number]))

    return Images(where, labels, names, read)


def existing(path: str) -> Path:
    """Raises:
    DataError: there is nothing at this path.
    """
    found = Path(path).expanduser()
    if not found.exists():
        raise DataError(path, f"there is no such file or folder (looked for {found.absolute()})")
    return found


def check_path(key: str, path: str) -> None:
    """For `__post_init__` of the sources."""
    if not path.strip():
        raise ValueError(f"{key}: must name a file or folder (got {path!r})")


def _label(label: np.int64) -> int | None:
    return None if label < 0 else int(label)
