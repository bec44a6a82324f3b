"""A data set in the store: one memory-mapped Arrow file and a manifest that says what is in it.

Key `datasets/<name>`; blob `images.arrow`: an uncompressed Arrow IPC file of one record batch, columns `image`
(FixedSizeBinary(C*H*W), raw bytes in the order C, H, W) and `label` (int64, -1 where there is none). One batch means
one buffer, so that any image is a pointer away.
"""

import hashlib
import mmap
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.data.dataset_info import DatasetInfo, check_name, info_of
from pipeline.data.formats import check_format
from pipeline.data.sources.base import Item
from pipeline.data.spool import Spool, disk_errors
from pipeline.data.store import Manifest, Store
from pipeline.errors import DataError, StoreError

__all__ = ["Dataset", "DatasetInfo", "commit_dataset"]

FORMAT = 1  # of the Arrow file, in its schema's metadata
_BLOB = "images.arrow"


class Dataset:
    """Images and labels by index, memory-mapped. Picklable: the copy maps the file anew.

    Args:
        store: where it lies.
        manifest: its commit; use `Dataset.open`.

    Raises:
        DataError: the manifest or the file is not what `commit_dataset` writes.
        NewerFormatError: a later version wrote it.
        StoreError: the file is missing or of another size.
    """

    def __init__(self, store: Store, manifest: Manifest) -> None:
        self._store = store
        self._manifest = manifest
        self.info = info_of(manifest)
        self._images, self._labels = _mapped(store.local_path(manifest, _BLOB), self.info)

    @classmethod
    def open(cls, store: Store, name: str) -> "Dataset":
        """Raises:
        DataError: there is no data set of this name, or it is damaged.
        """
        check_name(name)
        manifest = store.find(f"datasets/{name}")
        if manifest is None:
            there = ", ".join(key.removeprefix("datasets/") for key in store.committed("datasets")) or "none"
            problem = f"no data set {name!r} in the store (there are: {there}): make it with jobs.prepare"
            raise DataError(store.title, problem)
        return cls(store, manifest)

    @staticmethod
    def is_there(store: Store, name: str) -> bool:
        """Whether the store has a data set of this name, damaged or not."""
        check_name(name)
        return store.find(f"datasets/{name}") is not None

    def __reduce__(self) -> tuple[type["Dataset"], tuple[Store, Manifest]]:
        return (Dataset, (self._store, self._manifest))

    def __len__(self) -> int:
        return self.info.num_images

    def images(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """A copy of some images, uint8 (n, C, H, W).

        Raises:
            IndexError: an index is not in [0, len).
        """
        self._check(indices)
        return np.take(self._images, indices, axis=0).reshape(len(indices), *self.info.shape)

    def labels(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Their labels, int64 (n,), -1 where there is none.

        Raises:
            IndexError: an index is not in [0, len).
        """
        self._check(indices)
        return np.take(self._labels, indices)

    def verify(self) -> None:
        """Reads it all and compares it with the manifest. A damaged copy from object storage is fetched again.

        Raises:
            DataError: the file is not the one that was written.
        """
        path = self._store.local_path(self._manifest, _BLOB)
        if self._is_whole(path):
            return
        if not self._store.is_local:
            path.unlink()
            path = self._store.local_path(self._manifest, _BLOB)
            self._images, self._labels = _mapped(path, self.info)
        if not self._is_whole(path):
            raise DataError(path, f"is damaged: data set {self.info.name!r} was written with another content")

    def _is_whole(self, path: Path) -> bool:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == self._manifest.blobs[_BLOB].sha256

    def _check(self, indices: NDArray[np.int64]) -> None:
        if len(indices) and (int(indices.min()) < 0 or int(indices.max()) >= len(self)):
            raise IndexError(f"indices {indices.min()}..{indices.max()} of a data set of {len(self)} images")


def commit_dataset(
    store: Store,
    name: str,
    source_items: Iterable[Item],
    class_names: tuple[str, ...] = (),
    say: Callable[[str], None] = print,
) -> DatasetInfo:
    """Writes a data set, in bounded memory; nothing of it can be seen before all is written.

    Args:
        source_items: decoded images, uint8 (C, H, W), all of one shape, with a label each or none at all.
        class_names: by label; numbers are taken where there are none.
        say: gets one sentence if this very data set is there already.

    Returns:
        What is in the store now.

    Raises:
        DataError: no image, unequal shapes, labels that are missing or out of range, or another data set of this name.
        StoreError: the store cannot be written.
    """
    check_name(name)
    with _workplace() as folder:
        raw = Path(folder) / "pixels"
        with Spool(raw) as spool:
            for item in source_items:
                spool.add(item)
            spool.flush()
        info = spool.info(name, class_names)
        present = store.find(f"datasets/{name}")
        if present is not None and _is_whole(store, present, info, say):
            return info_of(present)
        arrow = Path(folder) / _BLOB
        _write_arrow(arrow, raw, info, spool.labels)
        with _map(arrow) as mapped, memoryview(mapped) as view:
            _commit(store, view, info, say, is_lost=present is not None)
    return info


def _commit(store: Store, arrow: memoryview, info: DatasetInfo, say: Callable[[str], None], is_lost: bool) -> None:
    """A name is given once: of two jobs that prepare it at once, the second finds what the first made of it."""
    key = f"datasets/{info.name}"
    if is_lost:  # a data set of this very content, whose file has to be written again
        store.commit(key, {_BLOB: arrow}, asdict(info))
    elif not store.commit_new(key, {_BLOB: arrow}, asdict(info)):
        _is_whole(store, store.manifest(key), info, say)


def _workplace() -> tempfile.TemporaryDirectory[str]:
    with disk_errors(Path(tempfile.gettempdir()) / _BLOB):
        return tempfile.TemporaryDirectory(prefix="sigmasweep-")


def _is_whole(store: Store, present: Manifest, info: DatasetInfo, say: Callable[[str], None]) -> bool:
    """Whether the data set that is there is the one that should be; False if its file is lost and must be written."""
    there = info_of(present)
    if there.digest != info.digest:
        problem = f"data set {info.name!r} exists with other content (digest {there.digest}, new {info.digest})"
        raise DataError(store.title, f"{problem}: choose another name")
    try:
        store.local_path(present, _BLOB)
    except StoreError:
        return False
    say(f"data set {info.name!r} is there already with the same content (digest {info.digest}): nothing to do")
    return True


def _map(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _write_arrow(path: Path, raw: Path, info: DatasetInfo, labels: NDArray[np.int64]) -> None:
    kind = pa.binary(info.image_size)
    shape = ",".join(str(length) for length in info.shape)
    metadata = {b"sigmasweep_format": str(FORMAT).encode(), b"shape": shape.encode()}
    schema = pa.schema([("image", kind), ("label", pa.int64())], metadata)
    with pa.memory_map(str(raw)) as source, disk_errors(path):
        images = pa.FixedSizeBinaryArray.from_buffers(kind, info.num_images, [None, source.read_buffer()])
        batch = pa.record_batch([images, pa.array(labels)], schema=schema)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            writer.write_batch(batch)


def _mapped(path: Path, info: DatasetInfo) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Views of the file, no copies: images (N, C*H*W), labels (N,)."""
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        check_format(path, "a data set's Arrow file", int(reader.schema.metadata[b"sigmasweep_format"]), FORMAT)
        batch = reader.get_batch(0)
        batch.validate(full=True)  # the lengths of its buffers: what lies behind them is another's memory
        size = batch.schema.field("image").type.byte_width
        labels = batch.column("label").to_numpy()
        images = np.frombuffer(batch.column("image").buffers()[1], np.uint8, len(batch) * size)
    except (pa.ArrowException, OSError, KeyError, AttributeError, IndexError, ValueError, TypeError) as error:
        raise DataError(path, f"is not a readable data set ({str(error).splitlines()[0]})") from error
    has_labels = labels.dtype == np.int64 and labels.shape == (info.num_images,)
    if not has_labels or len(batch) != info.num_images or size != info.image_size:
        raise DataError(path, "does not hold what its manifest says")
    return images.reshape(info.num_images, size), labels
