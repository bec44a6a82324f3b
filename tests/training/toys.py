"""Small data sets and settings that train in a moment."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.dataset import Dataset, commit_dataset
from pipeline.data.sources.base import Item
from pipeline.data.store import Store
from pipeline.networks import MLP
from pipeline.training.identity import resolve_model
from pipeline.training.settings import EMA, ModelSettings, ModelSpec, Optimizer, TrainingSettings

BATCH = 16


def items(images: NDArray[np.uint8], num_classes: int) -> Iterator[Item]:
    for index, image in enumerate(images):
        yield Item(f"image {index}", image, index % num_classes if num_classes else None)


def make_dataset(
    store: Store, name: str = "toy", shape: tuple[int, int, int] = (1, 8, 8), num_images: int = 100, num_classes: int = 4
) -> Dataset:
    """Random pixels, the same every time."""
    images = np.random.default_rng(7).integers(0, 256, (num_images, *shape), dtype=np.uint8)
    commit_dataset(store, name, items(images, num_classes), say=lambda text: None)
    return Dataset.open(store, name)


def make_model(dataset: Dataset, network: Any = None, **fields: Any) -> ModelSpec:
    chosen = network or MLP(hidden=32, num_layers=1)
    return resolve_model(ModelSettings(network=chosen, **fields), dataset.info)


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


def store_at(folder: Path) -> Store:
    return Store(folder / "store")
