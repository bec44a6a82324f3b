"""From an extractor's settings to what runs: files are read, and a classifier is trained, once a store and data set."""

from dataclasses import dataclass

import numpy as np
import torch

from pipeline.data.cache import Kept, kept
from pipeline.data.dataset import Dataset
from pipeline.data.store import Store
from pipeline.digests import digest
from pipeline.engine.progress import line
from pipeline.engine.work import ExtractorPlan
from pipeline.errors import SettingsError
from pipeline.metrics.extractors import Classifier, ExtractorSettings, train_classifier
from pipeline.training.loop import cpu_threads

CLASSIFIER_THREADS = 2  # part of what determines its weights, so the same on all machines


@dataclass(frozen=True)
class KeptClassifier:
    """A classifier of a data set.

    Args:
        plan: to run it.
        accuracy: on images of the data set that it was not trained on.
        num_validation: how many these were.
        dataset: the name of the data set.
    """

    plan: ExtractorPlan
    accuracy: float
    num_validation: int
    dataset: str

    def __str__(self) -> str:
        return f"classifier: {self.accuracy:.1%} of {self.num_validation:,} held-out images of {self.dataset}"


def extractor_plan(store: Store, settings: ExtractorSettings, dataset: str | None = None) -> ExtractorPlan:
    """An extractor with the bytes that it runs on.

    Args:
        store: keeps trained classifiers.
        settings: of the extractor.
        dataset: the name of the data set that a classifier learns from; other extractors need none.

    Raises:
        SettingsError: a classifier without a data set.
        DataError: the extractor's file, or the data set, cannot be used.
    """
    if not isinstance(settings, Classifier):
        return ExtractorPlan(settings, settings.load())
    if dataset is None:
        raise SettingsError("extractors", "a classifier needs the name of a data set to learn from (got none)")
    return classifier_for(store, dataset, settings).plan


def classifier_for(store: Store, dataset: str, settings: Classifier, progress: bool = True) -> KeptClassifier:
    """The classifier of a data set, trained where the store does not have it yet.

    Raises:
        DataError: there is no such data set, or not every image of it has a label.
    """
    data = Dataset.open(store, dataset)
    key = f"cache/classifiers/{digest({'classifier': settings, 'dataset': data.info.digest})}"
    weights, meta = kept(store, key, "weights.safetensors", lambda: _train(data, settings, progress))
    return KeptClassifier(ExtractorPlan(settings, weights), meta["accuracy"], meta["num_validation"], dataset)


def _train(data: Dataset, settings: Classifier, progress: bool) -> Kept:
    data.verify()  # a classifier of other images would be kept
    everything = np.arange(len(data), dtype=np.int64)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images, labels = data.images(everything), data.labels(everything)
    with (
        cpu_threads(CLASSIFIER_THREADS),
        line(f"epochs of the classifier of {data.info.name}", settings.epochs, progress) as told,
    ):

        def after_epoch(_: int, loss: float) -> None:
            told.advance(note=f"loss {loss:.4f}")

        told.begin()
        trained = train_classifier(settings, images, labels, data.info.num_classes, after_epoch, device)
    meta = {
        "classifier": settings,
        "dataset": {"name": data.info.name, "digest": data.info.digest},
        "accuracy": trained.accuracy,
        "num_validation": trained.num_validation,
        "device": device,
    }
    return Kept(trained.data, meta)
