"""What a data set says of itself, and the rules for names and labels."""

import re
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.store import Manifest
from pipeline.errors import DataError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class DatasetInfo:
    """What a data set holds.

    Args:
        num_classes: 0 where the images have no labels.
        mean: per channel, in the model's range [-1, 1].
        std: of all pixels about the mean of all pixels, in the model's range: the suggestion for sigma_data.
        digest: of shape, pixels and labels; not of names or time.
    """

    name: str
    num_images: int
    channels: int
    height: int
    width: int
    num_classes: int
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: float
    digest: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one image: (C, H, W)."""
        return (self.channels, self.height, self.width)

    @property
    def image_size(self) -> int:
        """Bytes of one image."""
        return self.channels * self.height * self.width


def info_of(manifest: Manifest) -> DatasetInfo:
    """Raises:
    DataError: the manifest is not that of a data set, or another version's.
    """
    meta: dict[str, Any] = dict(manifest.meta)
    if set(meta) != {field.name for field in fields(DatasetInfo)}:
        raise DataError(manifest.key, "was written by another version of sigmasweep: prepare it again under a new name")
    return DatasetInfo(**{**meta, "class_names": tuple(meta["class_names"]), "mean": tuple(meta["mean"])})


def check_name(name: str) -> None:
    """Raises:
    DataError: the name could not be a file's everywhere.
    """
    if not _NAME.fullmatch(name):
        problem = "is no name for a data set: letters, digits, '.', '_' and '-' only, and a letter or digit first"
        raise DataError(repr(name), problem)


def label_names(where: str, labels: NDArray[np.int64], given: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The names of the classes 0..K-1: those given, else numbers; none for images without labels.

    Args:
        where: for messages.
        labels: (N,), -1 where there is none.
        given: all names, if they are known; then a class may have no image.

    Raises:
        DataError: some images have a label and some have none, or a label is out of range.
    """
    if len(labels) == 0 or (labels == -1).all():
        return ()
    if (labels == -1).any():
        raise DataError(where, f"{int((labels == -1).sum())} of {len(labels)} images have no label: label all or none")
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0:
        raise DataError(where, f"labels must be 0 to K-1 (got {lowest})")
    if given and highest >= len(given):
        raise DataError(where, f"label {highest} is out of range: there are {len(given)} classes, counted from 0")
    if not given:
        present = np.unique(labels)
        gaps = np.flatnonzero(present != np.arange(len(present)))
        if len(gaps):
            raise DataError(where, f"labels must be 0 to K-1, but the largest is {highest} and no image has {gaps[0]}")
    return given or tuple(str(label) for label in range(highest + 1))
