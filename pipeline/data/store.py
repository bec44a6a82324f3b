"""The store: one place on a local disk or object storage where everything that was computed lies.

Layout (`docs/store.md` has it in full): `datasets/`, `checkpoints/`, `samples/<digest>/`,
`features/<samples digest>/<extractor digest>/`, `references/`, `timings/`, `cache/`.

One commit protocol for all of it, since object storage has neither rename nor fsync: blobs are written first, under
names that no other attempt uses, then one small manifest `<key>.json` with their digests. A manifest that verifies is
the commit; blobs without one are litter. Writing the same content twice is harmless.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pyarrow.fs as pafs

from pipeline.addresses import without_user
from pipeline.data import object_storage
from pipeline.data.formats import kind_of
from pipeline.data.manifest import Blob, Manifest, checked_places
from pipeline.data.verified import distrust
from pipeline.data.whole_files import attempt, create_file, replace_file
from pipeline.digests import canonical, sha256
from pipeline.errors import StoreError

__all__ = ["Blob", "Fence", "Manifest", "Store", "unfenced"]

Fence = Callable[[], None]  # raises where this process must not write any more


def unfenced() -> None:
    """The fence of what nobody else can be at."""


class File(NamedTuple):
    """A file as a listing knows it: its key, its size in bytes, and when it was written, in seconds since 1970."""

    key: str
    size: int
    modified: float


class Store:
    """Files by key ('/'-separated, relative) under one address. Picklable; opens its file system when first used.

    Args:
        uri: a local folder, or an address that pyarrow.fs knows (`s3://bucket/prefix`, `gs://...`; `docs/store.md`).
    """

    def __init__(self, uri: str | Path) -> None:
        text = str(uri)
        self.uri = text if "://" in text else str(Path(text).expanduser().absolute())
        self._opened: tuple[pafs.FileSystem, str] | None = None
        self._conditional: object_storage.ConditionalPuts | None = None

    def __reduce__(self) -> tuple[type["Store"], tuple[str]]:
        return (Store, (self.uri,))

    def __repr__(self) -> str:
        return f"Store({self.title!r})"

    # -- files ---------------------------------------------------------------------------------------------------

    def read(self, key: str) -> bytes:
        """Raises:
        StoreError: there is no such file, or it cannot be read.
        """
        with self._errors(key), self._fs.open_input_file(self._path(key)) as file:
            return bytes(file.read())

    def write(self, key: str, data: bytes | memoryview) -> None:
        """Writes a file whole or not at all, replacing what was there."""
        with self._errors(key):
            if not self.is_local:
                with self._fs.open_output_stream(self._path(key)) as stream:
                    stream.write(data)
                return
            replace_file(Path(self._path(key)), data)

    def create_if_absent(self, key: str, data: bytes) -> bool:
        """Creates a file unless it exists; of all that race, one gets True.

        Raises:
            StoreError: it cannot be written; or, on object storage, conditional puts are not to be had.
        """
        if not self.is_local:
            return self._conditional_puts.create(key, data)
        with self._errors(key):
            return create_file(Path(self._path(key)), data)

    def delete(self, key: str) -> None:
        """Removes a file; one that is not there is no error."""
        with self._errors(key), suppress(FileNotFoundError):
            self._fs.delete_file(self._path(key))

    def keys(self, prefix: str) -> list[str]:
        """All files under a folder, sorted, by one listing; none where the folder is missing."""
        with self._errors(prefix):
            selector = pafs.FileSelector(self._path(prefix), recursive=True, allow_not_found=True)
            found = [info.path for info in self._fs.get_file_info(selector) if info.type == pafs.FileType.File]
        start = len(self._root.rstrip("/")) + 1
        return sorted(path[start:] for path in found if not PurePosixPath(path).name.startswith("."))

    def files(self, prefix: str) -> list[File]:
        """All files under a folder, sorted, those that are being written or were left so too, by one listing."""
        with self._errors(prefix):
            selector = pafs.FileSelector(self._path(prefix), recursive=True, allow_not_found=True)
            found = [info for info in self._fs.get_file_info(selector) if info.type == pafs.FileType.File]
        start = len(self._root.rstrip("/")) + 1
        return sorted(File(info.path[start:], info.size or 0, (info.mtime_ns or 0) / 1e9) for info in found)

    # -- commits -------------------------------------------------------------------------------------------------

    def commit(
        self, key: str, blobs: Mapping[str, bytes | memoryview], meta: Mapping[str, Any], fence: Fence = unfenced
    ) -> Manifest:
        """Writes blobs, then the manifest that makes them true.

        Args:
            key: the name of the commit; its manifest is `<key>.json`.
            blobs: the files by a short name, such as `images.parquet`.
            meta: JSON that says what they are.
            fence: called between the two; what it raises undoes the attempt.

        Raises:
            StoreError: it cannot be written.
            NewerFormatError: what is there was written by a later version, and stays.
        """
        self._refuse_newer(key)
        with self._attempt(key, blobs, meta) as manifest:
            fence()
            self.write(f"{key}.json", manifest.to_bytes())
        return manifest

    def commit_new(self, key: str, blobs: Mapping[str, bytes | memoryview], meta: Mapping[str, Any]) -> bool:
        """As `commit`, unless there is a commit of this key; of all that race for it, one gets True."""
        with self._attempt(key, blobs, meta) as manifest:
            is_new = self.create_if_absent(f"{key}.json", manifest.to_bytes())
        if not is_new:
            self._discard(manifest.blobs.values())
        return is_new

    @contextmanager
    def _attempt(
        self, key: str, blobs: Mapping[str, bytes | memoryview], meta: Mapping[str, Any]
    ) -> Iterator[Manifest]:
        """Writes the blobs of a commit. Where anything goes wrong, then or within the block, they are removed again."""
        name, written = attempt(), dict[str, Blob]()
        try:
            for blob, data in blobs.items():
                blob_key = f"{key}-{name}-{blob}"
                self.write(blob_key, data)
                written[blob] = Blob(blob_key, sha256(data), len(data))
            yield Manifest(key, written, json.loads(canonical(meta)), kind_of(key).format)
        except BaseException:
            self._discard(written.values())
            raise

    def committed(self, prefix: str) -> list[str]:
        """The keys of all commits under a folder, sorted, by one listing. Their content is verified when it is read."""
        return [key.removesuffix(".json") for key in self.keys(prefix) if key.endswith(".json")]

    def find(self, key: str) -> Manifest | None:
        """The manifest of a commit, or None where there is none.

        Raises:
            StoreError: there is one, and it is damaged.
            NewerFormatError: there is one, and a later version wrote it.
        """
        data = self._manifest_bytes(key)
        return None if data is None else checked_places(Manifest.from_bytes(key, data), key)

    def manifest(self, key: str) -> Manifest:
        """As `find`, where the commit must be there."""
        found = self.find(key)
        if found is None:
            raise StoreError(f"{self.title}/{key}", "is not in the store")
        return found

    def blob(self, manifest: Manifest, name: str) -> bytes:
        """The verified bytes of one file of a commit.

        Raises:
            StoreError: the file is missing, or does not hold what the manifest says.
        """
        blob = self._blob(manifest, name)
        data = self.read(blob.key)
        if len(data) != blob.size or sha256(data) != blob.sha256:
            distrust(self.uri)
            raise StoreError(f"{self.title}/{blob.key}", "is damaged: its content is not what its manifest says")
        return data

    def local_path(self, manifest: Manifest, name: str) -> Path:
        """A local file with the content of a blob, for memory mapping; from object storage it is fetched once.

        A local store's file is checked for its size only: verify with `blob` where that matters.
        """
        blob = self._blob(manifest, name)
        if self.is_local:
            path = Path(self._path(blob.key))
            if not path.is_file() or path.stat().st_size != blob.size:
                raise StoreError(str(path), f"is missing or damaged: {blob.size} bytes were written")
            return path
        cached = Path.home() / ".cache" / "sigmasweep" / "blobs" / blob.sha256
        if not cached.is_file() or cached.stat().st_size != blob.size:
            try:
                replace_file(cached, self.blob(manifest, name))
            except OSError as error:
                raise StoreError(cached, f"cannot be written ({error.strerror or error})") from error
        return cached

    def set_aside(self, key: str) -> None:
        """Takes a damaged commit out of sight: its manifest moves under `damaged/`, its blobs stay as they are.

        Nothing happens where another process was faster.
        """
        if f"{key}.json" in self.keys(key.rpartition("/")[0]):
            self.write(f"damaged/{key}-{attempt()}.json", self.read(f"{key}.json"))
            self.delete(f"{key}.json")

    def remove(self, manifest: Manifest) -> None:
        """Undoes a commit: the manifest first, then its blobs."""
        self.delete(f"{manifest.key}.json")
        self._discard(manifest.blobs.values())

    def discard(self, manifest: Manifest) -> None:
        """Deletes the blobs of a commit that another one has taken the place of."""
        self._discard(manifest.blobs.values())

    def check_writable(self) -> None:
        """Raises:
        StoreError: nothing can be written there; said before any work is begun.
        """
        probe = f".probe-{attempt()}"
        self.write(probe, b".")  # an empty file fits on a full disk
        self.delete(probe)

    @property
    def is_local(self) -> bool:
        return isinstance(self._fs, pafs.LocalFileSystem)

    @property
    def title(self) -> str:
        """The address as people may read it: without passwords."""
        return object_storage.readable(self.uri) if "://" in self.uri else self.uri

    def address(self, key: str) -> str:
        """The whole address of what lies under a key."""
        return object_storage.below(self.uri, key) if "://" in self.uri else f"{self.uri}/{key}"

    # -- within --------------------------------------------------------------------------------------------------

    @property
    def _fs(self) -> pafs.FileSystem:
        return self._open()[0]

    @property
    def _root(self) -> str:
        return self._open()[1]

    def _open(self) -> tuple[pafs.FileSystem, str]:
        if self._opened is None:
            try:
                self._opened = pafs.FileSystem.from_uri(object_storage.for_arrow(self.uri))
            except (ValueError, OSError) as error:
                hint = "; keys in it must be percent-encoded: / as %2F, + as %2B" if "@" in self.uri else ""
                raise StoreError(
                    self.title, f"is not an address of a store ({without_user(str(error))}){hint}"
                ) from None
        return self._opened

    @property
    def _conditional_puts(self) -> object_storage.ConditionalPuts:
        if self._conditional is None:
            self._conditional = object_storage.ConditionalPuts(self.uri, getattr(self._fs, "region", None))
        return self._conditional

    def _manifest_bytes(self, key: str) -> bytes | None:
        with self._errors(key):
            if self._fs.get_file_info(self._path(f"{key}.json")).type != pafs.FileType.File:
                return None
        return self.read(f"{key}.json")

    def _refuse_newer(self, key: str) -> None:
        data = self._manifest_bytes(key)
        if data is not None:
            with suppress(StoreError):  # a damaged one is replaced
                Manifest.from_bytes(key, data)

    def _path(self, key: str) -> str:
        return f"{self._root.rstrip('/')}/{key}"

    def _blob(self, manifest: Manifest, name: str) -> Blob:
        if name not in manifest.blobs:
            raise StoreError(f"{self.title}/{manifest.key}", f"has no file {name!r} (it has {sorted(manifest.blobs)})")
        return manifest.blobs[name]

    def _discard(self, blobs: Iterable[Blob]) -> None:
        for blob in blobs:
            try:
                self.delete(blob.key)
            except StoreError:
                continue  # litter at worst, and the first error is the one to be told

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise StoreError(f"{self.title}/{key}", "is not there") from error
        except OSError as error:
            raise StoreError(f"{self.title}/{key}", f"cannot be read or written ({error.strerror or error})") from error
