"""What a run still has to do: the chunks of a setting that the store does not have whole."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.data.features import committed_features, features_key, verify_features
from pipeline.data.samples import chunk_key, committed_chunks, read_nfe, spans
from pipeline.data.store import Store
from pipeline.engine.fleet import Say
from pipeline.engine.work import Setting, Task
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


def take_stock(
    store: Store, setting: Setting, seeds: tuple[int, int], extractors: Sequence[str], say: Say
) -> Progress:  # fmt: skip
    """Finds what is there by one listing of the images and one of each extractor's features, and verifies its bytes.

    What is damaged is set aside, told in one line, and counts as missing.

    Args:
        seeds: the first one, and how many.
        extractors: digests of those whose features are wanted.
        say: told of what is damaged.
    """
    size = int(setting.key["execution"]["chunk_size"])
    progress = Progress(setting, dict(spans(*seeds, size)))
    there = sorted(committed_chunks(store, setting.digest) & set(progress.parts))
    with ThreadPoolExecutor(_READERS) as readers:
        read = partial(_intact_samples, store, progress, say)
        found = dict(zip(there, readers.map(read, there), strict=True))
        features = [_intact_features(store, setting.digest, name, progress, say, readers) for name in extractors]
    for index in progress.parts:
        counted = found.get(index)
        absent = tuple(plan for plan, chunks in enumerate(features) if index not in chunks)
        if counted is None or absent:
            progress.tasks.append(Task(setting, index, counted is None, absent))
        else:
            progress.count(*counted)
    progress.left = len(progress.tasks)
    return progress


def _intact_samples(store: Store, progress: Progress, say: Say, index: int) -> tuple[int, int] | None:
    name = progress.setting.digest
    return _or_set_aside(
        store, chunk_key(name, index), say, lambda: progress.asked(index, read_nfe(store, name, index))
    )


def _intact_features(
    store: Store, samples_digest: str, extractor: str, progress: Progress, say: Say, readers: ThreadPoolExecutor
) -> set[int]:
    there = sorted(committed_features(store, samples_digest, extractor) & set(progress.parts))

    def intact(index: int) -> bool:
        def verify() -> bool:
            verify_features(store, samples_digest, extractor, index)
            return True

        return bool(_or_set_aside(store, features_key(samples_digest, extractor, index), say, verify))

    return {index for index, whole in zip(there, readers.map(intact, there), strict=True) if whole}


def _or_set_aside(store: Store, key: str, say: Say, read: Callable[[], T]) -> T | None:
    try:
        return read()
    except StoreError as error:
        say(f"{error}; it is set aside and computed again")
        store.set_aside(key)
        return None
