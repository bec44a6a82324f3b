"""IDX files, the format of MNIST and its successors (http://yann.lecun.com/exdb/mnist), gzipped or not."""

import gzip
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, cast

import numpy as np
from numpy.typing import NDArray

from pipeline.data.sources.base import Images, Item, array_items, check_path, existing
from pipeline.errors import DataError

_UINT8 = 0x08
_MAX_DEFLATE = 1032  # no gzip file grows by more than this factor
_BLOCK = 4096


@dataclass(frozen=True)
class Idx:
    """Images (N, H, W) in one IDX file, labels (N,) in another.

    Args:
        images: path of the images file (`...-images-idx3-ubyte`, `.gz` or not).
        labels: path of the labels file, or None.
    """

    images: str
    labels: str | None = None
    kind: Literal["idx"] = "idx"

    def __post_init__(self) -> None:
        check_path("images", self.images)
        if self.labels is not None:
            check_path("labels", self.labels)

    def open(self) -> Images:
        """Raises:
        DataError: a file is missing, is no IDX file, is cut off, or the two do not fit.
        """
        path = existing(self.images)
        with _opened(path) as file:
            count = _header(path, file, num_dimensions=3)[0]
        labels = np.full(count, -1, np.int64) if self.labels is None else _labels(existing(self.labels))
        if len(labels) != count:
            raise DataError(self.labels, f"holds {len(labels)} labels for the {count} images of {path}")

        def read(chosen: NDArray[np.bool_]) -> Iterator[Item]:
            return _read(path, labels, chosen)

        return Images(str(path), labels, (), read)


def _read(path: Path, labels: NDArray[np.int64], chosen: NDArray[np.bool_]) -> Iterator[Item]:
    with _opened(path) as file:
        count, height, width = _header(path, file, num_dimensions=3)
        for start in range(0, count, _BLOCK):
            rows = min(_BLOCK, count - start)
            block = _exactly(path, file, rows * height * width, start * height * width)
            pixels = np.frombuffer(block, np.uint8).reshape(rows, 1, height, width)
            for number, item in enumerate(array_items(pixels, labels[start : start + rows], f"{path}: image", start)):
                if chosen[start + number]:
                    yield item
        _nothing_more(path, file)


def _labels(path: Path) -> NDArray[np.int64]:
    with _opened(path) as file:
        (count,) = _header(path, file, num_dimensions=1)
        labels = np.frombuffer(_exactly(path, file, count, 0), np.uint8).astype(np.int64)
        _nothing_more(path, file)
        return labels


def _header(path: Path, file: BinaryIO, num_dimensions: int) -> tuple[int, ...]:
    """The lengths; refuses a header that claims more than the file can hold, before anything is allocated."""
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0":
        raise DataError(path, f"is not an IDX file (it begins with {magic.hex() or 'nothing'})")
    if magic[2] != _UINT8 or magic[3] != num_dimensions:
        found = f"type 0x{magic[2]:02x} with {magic[3]} dimensions"
        raise DataError(path, f"holds {found}; needed are bytes (0x08) with {num_dimensions}: is it the right file?")
    lengths = np.frombuffer(_exactly(path, file, 4 * num_dimensions, 0), ">u4").tolist()
    held = path.stat().st_size * (_MAX_DEFLATE if isinstance(file, gzip.GzipFile) else 1)
    if min(lengths) < 1 or math.prod(lengths) > held:
        raise DataError(path, f"claims the shape {tuple(lengths)}, which this file cannot hold: is it cut off?")
    return tuple(lengths)


def _exactly(path: Path, file: BinaryIO, size: int, before: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise DataError(path, f"is cut off: {before + len(data)} bytes where {before + size} or more should be")
    return data


def _nothing_more(path: Path, file: BinaryIO) -> None:
    if file.read(1):
        raise DataError(path, "holds more bytes than its header says")


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if zipped:
                with gzip.GzipFile(fileobj=raw) as file:
                    yield cast(BinaryIO, file)
            else:
                yield raw
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(path, f"cannot be read ({str(error)[:200]})") from error
