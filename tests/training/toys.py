"""Small data sets and settings that train in a moment."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.dataset import Dataset, commit_dataset
from pipeline.data.sources.base import Item
from pipeline.data.store import Store
from pipeline.networks import MLP
from pipeline.reporting import MemoryReporter, Reporter
from pipeline.training.checkpoint import states_prefix
from pipeline.training.console import Terminal
from pipeline.training.identity import resolve_model
from pipeline.training.job import TrainingJob
from pipeline.training.settings import EMA, ModelSettings, ModelSpec, Optimizer, TrainingSettings

BATCH = 16


def make_dataset(
    store: Store,
    name: str = "toy",
    images: NDArray[np.uint8] | None = None,
    shape: tuple[int, int, int] = (1, 8, 8),
    num_classes: int = 4,
) -> Dataset:
    """A committed data set: of these images, or of 100 of random pixels, the same every time."""
    if images is None:
        images = np.random.default_rng(7).integers(0, 256, (100, *shape), dtype=np.uint8)
    commit_dataset(store, name, _items(images, num_classes), say=lambda text: None)
    return Dataset.open(store, name)


def make_model(dataset: Dataset, network: Any = None, **fields: Any) -> ModelSpec:
    return resolve_model(ModelSettings(network=network or MLP(hidden=32, num_layers=1), **fields), dataset.info)


def make_settings(steps: int = 6, **fields: Any) -> TrainingSettings:
    """Adam at its full rate, two averages, a checkpoint a step and one snapshot at the end, unless said otherwise."""
    defaults: dict[str, Any] = {
        "batch_size": BATCH,
        "duration_kimg": steps * BATCH / 1000,
        "snapshot_kimg": 1000,
        "checkpoint_kimg": BATCH / 1000,
        "log_kimg": BATCH / 1000,
        "loss_bins": 3,
        "optimizer": Optimizer(lr=1e-3, ramp_up_kimg=0),
        "ema": EMA(halflife_kimg=(0.05, 0.5), ramp_up=0.5),
    }
    return TrainingSettings(**{**defaults, **fields})


def make_job(
    store: Store, settings: TrainingSettings, network: Any = None, reporter: Reporter | None = None, name: str = "toy"
) -> TrainingJob:
    """A training on the toy data set, which is made where it is missing."""
    dataset = make_dataset(store)
    return TrainingJob(name, store, dataset, make_model(dataset, network), settings, reporter or MemoryReporter())


def state_digests(store: Store, training: str) -> dict[str, str]:
    """The digest of every file of the newest checkpoint: equal ones are equal to the last bit."""
    manifest = store.manifest(store.committed(states_prefix(training))[-1])
    return {"position": manifest.key, **{name: blob.sha256 for name, blob in manifest.blobs.items()}}


def quiet() -> Terminal:
    return Terminal(io.StringIO())


def store_at(folder: Path) -> Store:
    return Store(folder / "store")


def _items(images: NDArray[np.uint8], num_classes: int) -> Iterator[Item]:
    for index, image in enumerate(images):
        yield Item(f"image {index}", image, index % num_classes if num_classes else None)
