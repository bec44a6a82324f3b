"""What is kept of samples: images, or their features alone, or only the moments of these.

A chunk whose images were given up stays as a commit, with its seeds, labels, evaluations and the digest of its content:
it counts as done wherever nobody asks for its images. Who does has them computed again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from pipeline.config.measuring import Keep
from pipeline.data.features import ROOT as FEATURES
from pipeline.data.samples import (
    ROOT,
    WITHOUT_IMAGES,
    chunk_indices,
    chunk_key,
    committed_chunks,
    give_up_images,
    read_setting,
    spans,
)
from pipeline.data.store import File, Store
from pipeline.errors import StoreError

_MOMENTS = "moments-"


@dataclass(frozen=True)
class Removal:
    """Something that can go.

    Args:
        what: in a word, for the sums.
        key: of the commit, or of a single file.
        size: bytes that are free then.
        images_of: the chunk of samples that loses its images; empty for what goes as a whole.
        single_file: it is a file of no commit.
    """

    what: str
    key: str
    size: int
    images_of: tuple[str, int] | None = None
    single_file: bool = False

    def carry_out(self, store: Store) -> None:
        """What is gone already is no error: somebody else may tidy up too."""
        if self.images_of is not None:
            give_up_images(store, *self.images_of)
        elif self.single_file:
            store.delete(self.key)
        else:
            manifest = store.find(self.key)
            if manifest is not None:
                store.remove(manifest)


@dataclass(frozen=True)
class Ages:
    """When things were written, by one listing; what is younger than the limit is left alone."""

    files: Sequence[File]
    before: float

    def is_old(self, key: str) -> bool:
        """What came after the listing is young."""
        return self._modified.get(key, self.before) < self.before

    @cached_property
    def _modified(self) -> dict[str, float]:
        return {file.key: file.modified for file in self.files}


def removals(
    store: Store, keep: Keep, pictures: int, ages: Ages | None = None, only: Sequence[str] | None = None,
    first_seed: int = 0,
) -> Iterator[Removal]:  # fmt: skip
    """Images, and features, that need not be kept.

    Images go where the features of the same chunk, or moments over it, are there; features where moments are.

    Args:
        pictures: the images of so many seeds from `first_seed` on stay always.
        ages: what is young stays; nothing is young without.
        only: the digests of the samples that are meant; all of them by default.
    """
    if keep == "images":
        return
    digests = only if only is not None else sorted({key.split("/")[1] for key in store.committed(ROOT)})
    for name in digests:
        yield from _of_samples(store, name, keep, pictures, ages, first_seed)


def _of_samples(
    store: Store, name: str, keep: Keep, pictures: int, ages: Ages | None, first_seed: int
) -> Iterator[Removal]:
    try:
        size = int(read_setting(store, name)["execution"]["chunk_size"])
    except StoreError:  # nobody knows what these are; they are left as they are
        return
    shown = {index for index, _ in spans(first_seed, pictures, size)} if pictures else set()
    by_extractor = _extracted(store, name, size)
    measured = {index for features, covered in by_extractor.values() for index in features | covered}
    for index in sorted((committed_chunks(store, name) & measured) - shown):
        removal = _images(store, name, index, ages)
        if removal is not None:
            yield removal
    if keep == "moments":
        for extractor, (features, covered) in by_extractor.items():
            for index in sorted(features & covered):
                key = f"{FEATURES}/{name}/{extractor}/{chunk_key(name, index).rpartition('/')[2]}"
                if ages is None or ages.is_old(f"{key}.json"):
                    yield Removal("features", key, _size(store, key))


def _images(store: Store, name: str, index: int, ages: Ages | None) -> Removal | None:
    key = chunk_key(name, index)
    try:
        manifest = store.manifest(key)
    except StoreError:
        return None
    kept = manifest.meta.get("encoding") != WITHOUT_IMAGES
    if not kept or not (ages is None or ages.is_old(f"{key}.json")):
        return None
    return Removal("images", key, sum(blob.size for blob in manifest.blobs.values()), (name, index))


def _extracted(store: Store, name: str, size: int) -> dict[str, tuple[set[int], set[int]]]:
    """By extractor: the chunks that have features, and those all of whose seeds are among those of kept moments."""
    keys: dict[str, list[str]] = {}
    for key in store.committed(f"{FEATURES}/{name}"):
        keys.setdefault(key.split("/")[2], []).append(key)
    return {extractor: (chunk_indices(found), _covered(found, size)) for extractor, found in keys.items()}


def _covered(keys: Sequence[str], size: int) -> set[int]:
    """Of one chunk several moments may hold a part each."""
    whole: set[int] = set()
    parts: dict[int, set[int]] = {}
    for key in keys:
        name = key.rpartition("/")[2]
        if name.startswith(_MOMENTS):
            first, count = map(int, name.removeprefix(_MOMENTS).split("-"))
            for index, part in spans(first, count, size):
                if part.stop - part.start == size:
                    whole.add(index)
                else:
                    parts.setdefault(index, set()).update(range(part.start, part.stop))
    return whole | {index for index, seeds in parts.items() if len(seeds) == size}


def _size(store: Store, key: str) -> int:
    try:
        return sum(blob.size for blob in store.manifest(key).blobs.values())
    except StoreError:
        return 0


def retain(store: Store, samples: Sequence[str], keep: Keep, first_seed: int, pictures: int) -> int:
    """Frees what a job that is done does not keep of its own samples; the bytes that are free then."""
    found = list(removals(store, keep, pictures, only=list(dict.fromkeys(samples)), first_seed=first_seed))
    for removal in found:
        removal.carry_out(store)
    return sum(removal.size for removal in found)
