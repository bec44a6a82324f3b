"""What a run still has to do: the chunks of a setting that the store does not have whole."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.data.features import ROOT as FEATURES
from pipeline.data.features import features_key, has_moments, read_score, verify_features
from pipeline.data.samples import ROOT, chunk_indices, chunk_key, read_counts, spans
from pipeline.data.store import Store
from pipeline.data.verified import Verified
from pipeline.engine.fleet import Say
from pipeline.engine.work import ExtractorPlan, Setting, Task
from pipeline.errors import StoreError

T = TypeVar("T")

_READERS = 8  # threads that verify what is there


@dataclass(eq=False)
class Progress:
    """How far a setting is, for the seeds that are asked for.

    Args:
        setting: of it.
        parts: which part of each chunk is asked for.
        tasks: what is to be done.
        left: how many of them are not done.
    """

    setting: Setting
    parts: dict[int, slice]
    tasks: list[Task] = field(default_factory=list)
    left: int = 0
    _nfe: int = 0
    _counted: int = 0

    def asked(self, index: int, nfe: NDArray[np.int64]) -> tuple[int, int]:
        """Of a chunk's evaluations: the sum over the seeds asked for, and how many seeds these are."""
        asked = nfe[self.parts[index]]
        return int(asked.sum()), len(asked)

    def count(self, evaluations: int, seeds: int) -> None:
        """Adds what `asked` told of a finished chunk."""
        self._nfe += evaluations
        self._counted += seeds

    @property
    def nfe(self) -> float:
        """Evaluations an image, the mean over the seeds asked for."""
        return self._nfe / max(self._counted, 1)


@dataclass(frozen=True)
class Found:
    """What is there of a chunk: the evaluations of the seeds asked for, how many these are, and whether images are."""

    evaluations: int
    seeds: int
    has_images: bool


def take_stock(
    store: Store, setting: Setting, seeds: tuple[int, int], extractors: Sequence[ExtractorPlan], say: Say,
    pictures: int | None = None,
) -> Progress:  # fmt: skip
    """Finds what is there by one listing of the images and one of each extractor's features, and verifies the bytes of
    what this machine has not verified before (`pipeline.data.verified`).

    What is damaged is set aside, told in one line, and counts as missing.

    Args:
        seeds: the first one, and how many.
        extractors: those whose features are wanted.
        say: told of what is damaged, and of images that are computed again because they were not kept.
        pictures: of so many of the first seeds the images are needed, of the others only what was counted and their
            features; of all of them by default.
    """
    size = int(setting.key["execution"]["chunk_size"])
    progress = Progress(setting, dict(spans(*seeds, size)))
    verified = Verified(store, f"{ROOT}/{setting.digest}")
    there = sorted(chunk_indices(verified.commits()) & set(progress.parts))
    with ThreadPoolExecutor(_READERS) as readers:
        read = partial(_intact_samples, store, progress, verified, say)
        found = dict(zip(there, readers.map(read, there), strict=True))
        verified.save()
        features = [_intact_features(store, setting.digest, plan, seeds, progress, say, readers) for plan in extractors]
    pictured = set(progress.parts) if pictures is None else {index for index, _ in spans(seeds[0], pictures, size)}
    not_kept = 0
    for index in progress.parts:
        counted = found.get(index)
        absent = tuple(plan for plan, chunks in enumerate(features) if index not in chunks)
        lacks_images = counted is not None and not counted.has_images and bool(absent or index in pictured)
        not_kept += lacks_images
        if counted is None or lacks_images or absent:
            progress.tasks.append(Task(setting, index, counted is None or lacks_images, absent))
        else:
            progress.count(counted.evaluations, counted.seeds)
    if not_kept:
        say(f"{setting.name}: the images of {not_kept} chunks were not kept, and are computed again")
    progress.left = len(progress.tasks)
    return progress


def _intact_samples(store: Store, progress: Progress, verified: Verified, say: Say, index: int) -> Found | None:
    name = progress.setting.digest
    key = chunk_key(name, index)

    def read() -> Found:
        known = verified.find(key)
        if known is None:
            counts = read_counts(store, name, index)
            known = {"nfe": _in_runs(counts.nfe), "has_images": counts.has_images}
            verified.add(key, known)
        nfe = np.repeat(*np.array(known["nfe"], np.int64))
        return Found(*progress.asked(index, nfe), known["has_images"])

    return _or_set_aside(store, key, say, read)


def _in_runs(values: NDArray[np.int64]) -> list[list[int]]:
    """Numbers, and how often each comes in a row."""
    begins = np.flatnonzero(np.diff(values, prepend=-1))
    return [values[begins].tolist(), np.diff(begins, append=len(values)).tolist()]


def _intact_features(
    store: Store, samples_digest: str, plan: ExtractorPlan, seeds: tuple[int, int], progress: Progress, say: Say,
    readers: ThreadPoolExecutor,
) -> set[int]:  # fmt: skip
    extractor = plan.digest
    if has_moments(store, samples_digest, extractor, *seeds) and all(
        read_score(store, samples_digest, extractor, name) is not None for name in plan.beside
    ):
        return set(progress.parts)  # as good as the features, for exactly these seeds
    verified = Verified(store, f"{FEATURES}/{samples_digest}/{extractor}")
    there = sorted(chunk_indices(verified.commits()) & set(progress.parts))

    def intact(index: int) -> bool:
        key = features_key(samples_digest, extractor, index)

        def verify() -> bool:
            if verified.find(key) is None:
                verify_features(store, samples_digest, extractor, index)
                verified.add(key, True)
            return True

        return bool(_or_set_aside(store, key, say, verify))

    whole = {index for index, whole in zip(there, readers.map(intact, there), strict=True) if whole}
    verified.save()
    return whole


def _or_set_aside(store: Store, key: str, say: Say, read: Callable[[], T]) -> T | None:
    try:
        return read()
    except StoreError as error:
        say(f"{error}; it is set aside and computed again")
        store.set_aside(key)
        return None
