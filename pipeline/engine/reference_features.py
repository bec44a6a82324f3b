"""The features of every image of a data set, where a score asks for more of a reference than its moments.

Kept beside the moments, `references/<data set's digest>/<extractor's digest>/chunk-000007`, in the pieces in which they
are computed. The labels are those of the data set itself, which the same digest names.
"""

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.data.dataset import Dataset
from pipeline.data.features import (
    StoredFeatures,
    commit_reference_features,
    committed_reference_features,
    read_reference_features,
    reference_features_key,
)
from pipeline.data.samples import Execution
from pipeline.data.store import Store
from pipeline.engine.progress import line
from pipeline.engine.references import chunks_of, over_chunks
from pipeline.engine.work import Actors, ExtractorPlan
from pipeline.errors import StoreError

logger = logging.getLogger("pipeline.engine")


@dataclass(frozen=True, eq=False)
class ReferenceFeatures:
    """Where the features of a data set lie, all of them; `read` loads them.

    Args:
        dataset: the data set.
        plan: the extractor.
    """

    store: Store
    dataset: Dataset
    plan: ExtractorPlan

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self) -> StoredFeatures:
        """All of them, in the order of the data set: 4 bytes a feature and image in memory.

        Raises:
            StoreError: some of them are damaged.
        """
        names = self.dataset.info.digest, self.plan.digest
        parts = [read_reference_features(self.store, *names, index) for index in range(len(chunks_of(self.dataset)))]
        logits = [part.logits for part in parts if part.logits is not None]
        return StoredFeatures(
            np.concatenate([part.features for part in parts]), np.concatenate(logits) if logits else None
        )

    def labels(self) -> NDArray[np.int64] | None:
        """Of the data set, in its order; None where it has none."""
        if not self.dataset.info.num_classes:
            return None
        return self.dataset.labels(np.arange(len(self.dataset), dtype=np.int64))


def reference_features(
    store: Store, dataset: Dataset, plan: ExtractorPlan, execution: Execution | None = None,
    actors: Actors | None = None, progress: bool = True,
) -> ReferenceFeatures:  # fmt: skip
    """Makes sure that the features of all images of a data set are in the store: those that are not, or are damaged,
    are computed. Their bits do not depend on how many actors compute them.

    Args:
        execution: its threads and device are those of the work.
        actors: who computes them; without, this process.
        progress: show a bar.

    Raises:
        DataError: the data set is damaged.
        RunFailedError: actors were lost again and again.
    """
    missing = _missing(store, dataset, plan)
    if missing:
        dataset.verify()  # wrong features would be kept
        chunks = [chunks_of(dataset)[index] for index in missing]
        found = over_chunks(dataset, plan, execution or Execution(), actors or Actors(num_actors=0), chunks, "features")
        title = f"features of {dataset.info.name} ({plan.distance_name})"
        with line(title, sum(map(len, chunks)), progress) as told:
            for index, features in zip(missing, found, strict=True):
                commit_reference_features(store, dataset.info.digest, plan.digest, index, features)
                told.advance(len(features.features))
    return ReferenceFeatures(store, dataset, plan)


def _missing(store: Store, dataset: Dataset, plan: ExtractorPlan) -> list[int]:
    """The chunks that are not there whole; damaged ones are set aside."""
    names = dataset.info.digest, plan.digest
    there = committed_reference_features(store, *names)
    missing = []
    for index, chunk in enumerate(chunks_of(dataset)):
        if index in there:
            try:
                if len(read_reference_features(store, *names, index).features) == len(chunk):
                    continue
            except StoreError as error:
                logger.warning("%s; it is set aside and made again", error)
            store.set_aside(reference_features_key(*names, index))
        missing.append(index)
    return missing
