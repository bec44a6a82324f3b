"""Images in a folder or a zip archive, classes as subfolders or in a `dataset.json` as the EDM family writes it."""

import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.data.sources.base import Images, Item, check_path, existing
from pipeline.data.transform import SUFFIXES
from pipeline.errors import DataError

_MAX_FILE = 1 << 28  # bytes of one encoded image; a small zip can claim any size
_LISTING = "dataset.json"


@dataclass(frozen=True)
class Folder:
    """A folder or a zip of images; nothing of a zip is ever written to disk.

    With a `dataset.json` at its top ({"labels": [["00000/img0.png", 3], ...]}, or null for none), labels come from it.
    Otherwise the subfolders are the classes, in sorted order; images that lie at the top have none.

    Args:
        path: of the folder or the zip.
    """

    path: str
    kind: Literal["folder"] = "folder"

    def __post_init__(self) -> None:
        check_path("path", self.path)

    def open(self) -> Images:
        """Raises:
        DataError: no such path, no image in it, or a layout or listing that leaves the labels unclear.
        """
        path = existing(self.path)
        tree = FolderTree(path) if path.is_dir() else ZipTree(path)
        names = [name for name in tree.names if _is_image(name)]
        if not names:
            raise DataError(path, f"holds no image ({', '.join(SUFFIXES)})")
        if _LISTING in tree.names:
            labels, classes = _listed_labels(path, tree, names)
        else:
            labels, classes = _folder_labels(path, names)

        def read(chosen: NDArray[np.bool_]) -> Iterator[Item]:
            yield from tree.read_all([(names[i], int(labels[i])) for i in np.flatnonzero(chosen)])

        return Images(str(path), labels, classes, read)


class FolderTree:
    """The files below a folder, by their path from it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())

    def size(self, name: str) -> int:
        return (self.path / name).stat().st_size

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def read_all(self, wanted: list[tuple[str, int]]) -> Iterator[Item]:
        for name, label in wanted:
            try:
                size = (self.path / name).stat().st_size
                data, problem = (b"", _too_large(size)) if size > _MAX_FILE else (self.read(name), "")
            except OSError as error:
                data, problem = b"", f"cannot be read ({error.strerror})"
            yield Item(str(self.path / name), data, label if label >= 0 else None, problem)


class ZipTree:
    """The files of a zip, by their path in it, less the one folder that holds them all if somebody zipped a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                members = [member.filename for member in archive.infolist() if not member.is_dir()]
        except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
            raise DataError(path, f"is neither a folder nor a readable zip archive ({error})") from error
        self.top = _common_top(members)
        self.names = sorted({name[len(self.top) :] for name in members if name.startswith(self.top)})

    def size(self, name: str) -> int:
        with zipfile.ZipFile(self.path) as archive:
            return archive.getinfo(self.top + name).file_size

    def read(self, name: str) -> bytes:
        with zipfile.ZipFile(self.path) as archive:
            return archive.read(self.top + name)

    def read_all(self, wanted: list[tuple[str, int]]) -> Iterator[Item]:
        with zipfile.ZipFile(self.path) as archive:
            for name, label in wanted:
                data, problem = b"", ""
                try:
                    size = archive.getinfo(self.top + name).file_size  # zipfile reads no further than this
                    data, problem = (b"", _too_large(size)) if size > _MAX_FILE else (archive.read(self.top + name), "")
                except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, NotImplementedError) as error:
                    problem = f"cannot be unpacked ({error})"  # RuntimeError: it is encrypted
                yield Item(f"{self.path}: {name}", data, label if label >= 0 else None, problem)


def _too_large(size: int) -> str:
    return f"is a file of {size} bytes, more than {_MAX_FILE}"


def _is_image(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return name.lower().endswith(SUFFIXES) and not any(part.startswith((".", "__MACOSX")) for part in parts)


def _common_top(members: list[str]) -> str:
    """`data/` where all images and any listing lie two or more folders deep below one `data`; else an empty string."""
    names = [PurePosixPath(name) for name in members if _is_image(name) or name.endswith(_LISTING)]
    tops = {name.parts[0] for name in names}
    deep = all(len(name.parts) > 2 or (len(name.parts) == 2 and name.name == _LISTING) for name in names)
    return f"{tops.pop()}/" if len(tops) == 1 and deep else ""


def _folder_labels(path: Path, names: list[str]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    tops = ["" if "/" not in name else name.split("/", 1)[0] for name in names]
    classes = tuple(sorted(set(tops)))
    if classes == ("",):
        return np.full(len(names), -1, np.int64), ()
    if "" in classes:
        loose = names[tops.index("")]
        raise DataError(path, f"has images both in folders ({classes[1]!r}) and beside them ({loose!r}): move one kind")
    number = {name: label for label, name in enumerate(classes)}
    return np.array([number[top] for top in tops], np.int64), classes


def _listed_labels(
    path: Path, tree: FolderTree | ZipTree, names: list[str]
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    listed = _listing(path, tree)
    if listed is None:
        return np.full(len(names), -1, np.int64), ()
    missing = sorted(set(listed) - set(names))
    if missing:
        raise DataError(path, f"{_LISTING} names {len(missing)} images that are not there, first {missing[0]!r}")
    without = [name for name in names if name not in listed]
    if without:
        raise DataError(path, f"{len(without)} images have no label in {_LISTING}, first {without[0]!r}")
    return np.array([listed[name] for name in names], np.int64), ()


def _listing(path: Path, tree: FolderTree | ZipTree) -> Mapping[str, int] | None:
    try:
        if (size := tree.size(_LISTING)) > _MAX_FILE:
            raise DataError(path, f"{_LISTING} {_too_large(size)}")
        content = json.loads(tree.read(_LISTING))
    except (ValueError, OSError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise DataError(path, f"{_LISTING} is not readable JSON ({error})") from error
    entries = content.get("labels") if isinstance(content, dict) else content
    if entries is None:
        return None
    if not isinstance(entries, list) or not all(_is_entry(entry) for entry in entries):
        raise DataError(path, f'{_LISTING} must be {{"labels": [["file name", integer], ...]}} or {{"labels": null}}')
    return {str(name).replace("\\", "/"): label for name, label in entries}


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, list) or len(entry) != 2:
        return False
    return isinstance(entry[0], str) and type(entry[1]) is int and 0 <= entry[1] < 1 << 31
