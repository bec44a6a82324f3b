"""The archives of CIFAR-10 and CIFAR-100 (Krizhevsky, 2009), binary and Python version, packed or unpacked."""

import tarfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.data.pickled_arrays import ARRAYS
from pipeline.data.sources.base import Images, array_images, check_path, existing
from pipeline.data.unpickle import RefusedPickleError, loads
from pipeline.errors import DataError

Split = Literal["train", "test"]
Labels = Literal["fine", "coarse"]

_PIXELS = 3 * 32 * 32
_MAX_FILE = 1 << 30
_TEN = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
_Part = tuple[NDArray[np.uint8], NDArray[np.int64]]  # pixels (N, 3072), labels (N,)


@dataclass(frozen=True)
class CifarBinary:
    """`cifar-10-binary.tar.gz` or `cifar-100-binary.tar.gz`, or a folder with their `.bin` files.

    Args:
        path: of the archive or folder.
        split: the 50,000 for training or the 10,000 for testing.
        labels: of CIFAR-100, 100 fine or 20 coarse classes; without effect on CIFAR-10.
    """

    path: str
    split: Split = "train"
    labels: Labels = "fine"
    kind: Literal["cifar_binary"] = "cifar_binary"

    def __post_init__(self) -> None:
        check_path("path", self.path)

    def open(self) -> Images:
        """Raises:
        DataError: no such path, a damaged archive, files missing or of a size that is no whole number of images.
        """
        ten, hundred = [f"{name}.bin" for name in _TEN[self.split]], [f"{self.split}.bin"]
        texts = ["batches.meta.txt", f"{self.labels}_label_names.txt"]
        path = existing(self.path)
        files = _files(path, {*ten, *hundred, *texts})
        names, is_ten = _complete(path, files, ten, hundred)
        column = 1 if not is_ten and self.labels == "fine" else 0
        parts = [_records(f"{path}: {name}", files[name], 1 if is_ten else 2, column) for name in names]
        lines = files.get(texts[0 if is_ten else 1], b"").decode("utf-8", "replace").split()
        return _joined(path, parts, tuple(lines))


@dataclass(frozen=True)
class CifarPython:
    """`cifar-10-python.tar.gz` or `cifar-100-python.tar.gz`, or a folder with their files.

    They are pickles, and are read by a reader that can build arrays and nothing else.

    Args:
        path: of the archive or folder.
        split: the 50,000 for training or the 10,000 for testing.
        labels: of CIFAR-100, 100 fine or 20 coarse classes; without effect on CIFAR-10.
    """

    path: str
    split: Split = "train"
    labels: Labels = "fine"
    kind: Literal["cifar_python"] = "cifar_python"

    def __post_init__(self) -> None:
        check_path("path", self.path)

    def open(self) -> Images:
        """Raises:
        DataError: no such path, a damaged archive, a pickle that wants more than data, or arrays of another shape.
        """
        path = existing(self.path)
        ten, hundred = _TEN[self.split], [str(self.split)]
        files = _files(path, {*ten, *hundred, "batches.meta", "meta"})
        names, is_ten = _complete(path, files, ten, hundred)
        key = "labels" if is_ten else f"{self.labels}_labels"
        parts = [_batch(f"{path}: {name}", files[name], key) for name in names]
        meta = "batches.meta" if is_ten else "meta"
        names_key = "label_names" if is_ten else f"{self.labels}_label_names"
        found = _dictionary(f"{path}: {meta}", files[meta]).get(names_key, []) if meta in files else []
        return _joined(path, parts, tuple(_text(name) for name in found) if isinstance(found, list) else ())


def _records(where: str, data: bytes, num_labels: int, column: int) -> _Part:
    """Records of one or two label bytes and 3 x 32 x 32 pixels."""
    size = num_labels + _PIXELS
    if not data or len(data) % size:
        raise DataError(where, f"holds {len(data)} bytes, no whole number of records of {size}: is it cut off?")
    records = np.frombuffer(data, np.uint8).reshape(-1, size)
    return records[:, num_labels:], records[:, column].astype(np.int64)


def _batch(where: str, data: bytes, labels_key: str) -> _Part:
    content = _dictionary(where, data)
    pixels, labels = content.get("data"), content.get(labels_key)
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != _PIXELS:
        raise DataError(where, f"'data' must be bytes of shape (N, {_PIXELS}), and is {_described(pixels)}")
    if not isinstance(labels, list) or len(labels) != len(pixels) or not all(type(n) is int for n in labels):
        raise DataError(where, f"{labels_key!r} must be a list of {len(pixels)} integers, and is {_described(labels)}")
    if not all(0 <= label < 1 << 16 for label in labels):
        raise DataError(where, f"{labels_key!r} holds labels below 0 or above {(1 << 16) - 1}")
    return np.asarray(pixels), np.array(labels, np.int64)


def _dictionary(where: str, data: bytes) -> Mapping[str, Any]:
    try:
        content = loads(data, ARRAYS)
    except RefusedPickleError as error:
        raise DataError(where, str(error)) from error
    if not isinstance(content, dict):
        raise DataError(where, f"holds no dictionary, but {_described(content)}")
    return {_text(key): value for key, value in content.items()}


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value if isinstance(value, str) else "?"


def _described(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} of shape {value.shape}"
    return f"a list of {len(value)}" if isinstance(value, list) else f"a {type(value).__name__}"


def _joined(path: Path, parts: list[_Part], names: tuple[str, ...]) -> Images:
    pixels = np.concatenate([part[0] for part in parts]).reshape(-1, 3, 32, 32)
    return array_images(str(path), pixels, np.concatenate([part[1] for part in parts]), names)


def _complete(path: Path, files: Mapping[str, bytes], ten: list[str], hundred: list[str]) -> tuple[list[str], bool]:
    """Which of the two sets it is, told by its files."""
    for names in (ten, hundred):
        missing = [name for name in names if name not in files]
        if not missing:
            return names, names is ten
        if len(missing) < len(names):
            raise DataError(path, f"lacks {', '.join(missing)} (it has {', '.join(sorted(files))})")
    raise DataError(path, f"holds neither {ten[0]!r} (CIFAR-10) nor {hundred[0]!r} (CIFAR-100)")


def _files(path: Path, wanted: set[str]) -> dict[str, bytes]:
    """The wanted files by their base name, wherever in the archive or folder they lie. Nothing is unpacked to disk."""
    with _errors(path):
        if path.is_dir():
            found = {file.name: file for file in sorted(path.rglob("*")) if file.name in wanted and file.is_file()}
            return {name: _capped(name, file.read_bytes()) for name, file in found.items()}
        files: dict[str, bytes] = {}
        with tarfile.open(path) as archive:
            for member in archive:
                name = PurePosixPath(member.name).name
                if name in wanted and member.isfile() and (stream := archive.extractfile(member)) is not None:
                    files[name] = _capped(name, stream.read(_MAX_FILE + 1))
        return files


def _capped(name: str, data: bytes) -> bytes:
    if len(data) > _MAX_FILE:
        raise OSError(f"{name} is larger than {_MAX_FILE} bytes")
    return data


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise DataError(path, f"cannot be read as a tar archive or a folder ({reason})") from error
