"""Where images wait on disk while a data set is made, and what is counted of them on the way."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pipeline.data.dataset_info import DatasetInfo, label_names
from pipeline.data.sources.base import Item
from pipeline.digests import digest
from pipeline.errors import DataError

_FLUSH = 1024  # images in memory


class Spool:
    """Appends the pixels of images to a file and keeps count of what a `DatasetInfo` says.

    Args:
        path: of the file, which is made; raw bytes (N, C, H, W).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with disk_errors(path):
            self._file = path.open("wb")
        self._shape: tuple[int, int, int] | None = None
        self._histogram = np.zeros((0, 256), np.int64)
        self._pixels_digest = hashlib.sha256()
        self._waiting: list[NDArray[np.uint8]] = []
        self._labels: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        with disk_errors(self._path):
            self._file.close()

    def add(self, item: Item) -> None:
        """Raises:
        DataError: the image has another shape than the first, or is none.
        """
        image = item.image
        if isinstance(image, bytes) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[0] not in (1, 3):
            raise DataError(item.name, "is not decoded: needed are uint8 pixels of shape (1 or 3, H, W)")
        shape = (image.shape[0], image.shape[1], image.shape[2])
        if self._shape is None:
            self._shape = shape
            self._histogram = np.zeros((shape[0], 256), np.int64)
        if shape != self._shape:
            problem = f"is {_sizes(shape)} where the first image is {_sizes(self._shape)}: set size or channels"
            raise DataError(item.name, problem)
        self._waiting.append(image)
        self._labels.append(-1 if item.label is None else item.label)
        if len(self._waiting) == _FLUSH:
            self.flush()

    def flush(self) -> None:
        """Writes what waits in memory."""
        if not self._waiting:
            return
        batch = np.stack(self._waiting)
        self._waiting.clear()
        for channel, counts in enumerate(self._histogram):
            counts += np.bincount(batch[:, channel].reshape(-1), minlength=256)
        data = batch.tobytes()
        self._pixels_digest.update(data)
        with disk_errors(self._path):
            self._file.write(data)
            self._file.flush()

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,), -1 where there is none."""
        return np.array(self._labels, np.int64)

    def info(self, name: str, class_names: tuple[str, ...]) -> DatasetInfo:
        """What was added. From exact integer sums, so that the numbers are the same on every machine.

        Raises:
            DataError: nothing was added, or the labels are not as `label_names` wants them.
        """
        if self._shape is None:
            raise DataError(name, "there is no image for this data set")
        labels = self.labels
        classes = label_names(name, labels, class_names)
        shape = (len(labels), *self._shape)
        labels_digest = hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest()
        content = {"shape": shape, "pixels": self._pixels_digest.hexdigest(), "labels": labels_digest}
        mean, std = _moments(self._histogram)
        return DatasetInfo(name, *shape, len(classes), classes, mean, std, digest(content))


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Tells which folder is full, and that it can be another one."""
    try:
        yield
    except OSError as error:
        problem = f"cannot hold the images while they are prepared ({error.strerror or error}): set TMPDIR"
        raise DataError(path.parent, problem) from error


def _moments(histogram: NDArray[np.int64]) -> tuple[tuple[float, ...], float]:
    """From how often each channel has each value, (C, 256): means per channel, overall deviation, in [-1, 1]."""
    counts: list[list[int]] = histogram.tolist()
    means = tuple(sum(n * value for value, n in enumerate(row)) / sum(row) / 127.5 - 1 for row in counts)
    total: list[int] = histogram.sum(axis=0).tolist()
    num_pixels = sum(total)
    first = sum(n * value for value, n in enumerate(total))
    second = sum(n * value * value for value, n in enumerate(total))
    variance = (num_pixels * second - first * first) / num_pixels**2
    return means, float(variance**0.5) / 127.5


def _sizes(shape: tuple[int, int, int]) -> str:
    return f"{shape[1]} x {shape[2]} with {shape[0]} channel{'s' if shape[0] > 1 else ''}"
