"""A training whole: everything that one process needs to take its part in it, small and picklable."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.data.dataset import Dataset
from pipeline.data.lease import Say, held
from pipeline.data.store import Fence, Store, unfenced
from pipeline.errors import SettingsError
from pipeline.reporting import Reporter
from pipeline.training.augmentation import NUM_CONDITIONS
from pipeline.training.checkpoint import newest_position, versions
from pipeline.training.identity import training_folder, training_key
from pipeline.training.settings import ModelSpec, TrainingSettings
from pipeline.training.snapshot import snapshot_key, snapshot_moments

LEASES = "trainings"  # one a training, by its folder
_MOST_IMAGES = 2**32  # positions that the noise of training has numbers for


@dataclass(frozen=True)
class TrainingJob:
    """A training to be begun, gone on with, or prolonged: its folder in the store says which.

    Args:
        name: what people call it.
        store: where its checkpoints and snapshots go.
        dataset: what it is trained on.
        model: what is trained.
        settings: how.
        reporter: to whom it is told.
        tags: of its run.
        fence: asked before anything of it is written or told; raises where another process has taken it over.

    Raises:
        SettingsError: it would see more than 2^32 images, drop labels that the data set does not have, or augment
            images without telling the network.
    """

    name: str
    store: Store
    dataset: Dataset
    model: ModelSpec
    settings: TrainingSettings
    reporter: Reporter
    tags: Mapping[str, str] = field(default_factory=dict)
    fence: Fence = unfenced

    def __post_init__(self) -> None:
        if not self.num_images <= _MOST_IMAGES:
            raise SettingsError(
                "training.duration_kimg",
                f"must be at most {_MOST_IMAGES / 1000:,.0f} (got {self.settings.duration_kimg:g})",
            )
        if self.settings.label_dropout and not self.model.num_classes:
            raise SettingsError(
                "training.label_dropout",
                f"must be 0, as the images of {self.dataset.info.name} have no labels to drop "
                f"(got {self.settings.label_dropout:g})",
            )
        told = getattr(self.model.network, "augment_dim", 0)
        if self.settings.augment and told != NUM_CONDITIONS:
            raise SettingsError(
                "training.augment",
                f"needs a network that is told of it: set model.network.augment_dim: {NUM_CONDITIONS} (got {told})",
            )

    @property
    def folder(self) -> str:
        """`<name>-<digest>`, under `checkpoints/`."""
        return training_folder(self.name, self.model, self.settings, self.dataset.info)

    @property
    def key(self) -> str:
        """Of the run in the tracker."""
        return training_key(self.name, self.model, self.settings, self.dataset.info)

    @property
    def num_images(self) -> int:
        """Images to be seen in all: the duration, rounded up to whole steps."""
        batch_size = self.settings.batch_size
        return math.ceil(1000 * self.settings.duration_kimg / batch_size) * batch_size

    @property
    def meta(self) -> dict[str, Any]:
        """What is written beside all weights: enough to know how they were made."""
        info = self.dataset.info
        return {
            "training": self.name,
            "settings": self.settings.model_dump(mode="json"),
            "model": self.model.model_dump(mode="json"),
            "dataset": {"name": info.name, "digest": info.digest, "class_names": info.class_names},
            "versions": versions(),
        }

    def is_done(self) -> bool:
        """Whether the store holds the end of it already, or more."""
        position = newest_position(self.store, self.folder)
        return position is not None and position >= self.num_images and bool(self.snapshots())

    def snapshots(self) -> list[int]:
        """Images seen at each snapshot."""
        return snapshot_moments(self.store, self.folder)

    @contextmanager
    def owned(self, say: Say) -> Iterator["TrainingJob"]:
        """The job with its fence, while this process is the one that goes on with the training.

        Raises:
            StoreError: another process is at it.
        """
        with held(self.store, f"{LEASES}/{self.folder}", say) as lease:
            yield replace(self, fence=lease.check)

    def result(self) -> "TrainingResult":
        """What the store holds of it."""
        moments = self.snapshots()
        keys = tuple(snapshot_key(self.folder, moment) for moment in moments)
        return TrainingResult(self.folder, newest_position(self.store, self.folder) or 0, keys, self.key)


@dataclass(frozen=True)
class TrainingResult:
    """A training that has come to its end.

    Args:
        training: its folder under `checkpoints/`.
        num_images: images seen.
        snapshots: keys of its snapshots, ascending.
        key: of its run in the tracker.
    """

    training: str
    num_images: int
    snapshots: tuple[str, ...]
    key: str
