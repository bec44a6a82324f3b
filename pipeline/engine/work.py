"""The work of generation as data: a setting on a checkpoint, and the chunks of it that are to be computed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.data.chunk_file import ImageFormat
from pipeline.data.samples import Execution, Network, samples_key
from pipeline.data.store import Store
from pipeline.diffusion.decoding import Decoder, PixelDecoder
from pipeline.diffusion.labels import Labels
from pipeline.diffusion.sampling import Sampler, count_nfe
from pipeline.diffusion.timesteps import NoiseLevels
from pipeline.digests import digest
from pipeline.engine.devices import Device, torch_minor
from pipeline.errors import SettingsError
from pipeline.metrics.extractors import Classifier, Extractor, ExtractorSettings, ImageShape
from pipeline.training.snapshot import CheckpointRef, Snapshot

_AND = "+"  # between the names of a task's networks


@dataclass(frozen=True)
class Point:
    """One setting on one checkpoint, with a guide where its guidance needs one; `name` is for people and determines
    nothing."""

    name: str
    checkpoint: CheckpointRef
    sampler: Sampler
    labels: Labels
    guide: CheckpointRef | None = None


@dataclass(frozen=True)
class Seeds:
    """A range of seeds, one image each."""

    first: int = 0
    count: int = 1000

    def __post_init__(self) -> None:
        if self.first < 0:
            raise ValueError(f"first: must be 0 or more (got {self.first})")
        if self.count < 1:
            raise ValueError(f"count: must be at least 1 (got {self.count})")
        if self.first + self.count > 2**62:
            raise ValueError(f"count: seeds must be below 2**62 (got {self.first} + {self.count})")


@dataclass(frozen=True)
class Actors:
    """Who does the work; nothing here changes a bit of it.

    Args:
        num_actors: empty is `per_gpu` a GPU, or one for every `threads` CPUs; 0 is this process, without Ray.
        per_gpu: how many share a GPU. Each holds networks of its own, and while one prepares, decodes or writes, the
            GPU is another's: of use where networks are small.
        max_restarts: how often in a row, for each actor, one may be lost without a chunk being finished in between,
            before the run is given up.
        max_chunk_deaths: how many actors one chunk may lose before it is given up; fewer where the other chunks show
            that it is the chunk's fault (`policy`). Nodes that are taken away do not count.
        max_task_retries: how often a chunk that raises is tried again.
        hang_after_s: an actor that makes no progress for so many seconds, not an evaluation of a network or a batch of
            features, is ended, and its chunks go to others. A first evaluation includes compiling.
        denoiser_memory_gb: an actor keeps the networks it has loaded within this, the last one always.
    """

    num_actors: int | None = None
    max_restarts: int = 30
    max_chunk_deaths: int = 12
    max_task_retries: int = 2
    hang_after_s: float = 600.0
    denoiser_memory_gb: float = 4.0
    per_gpu: int = 1

    def __post_init__(self) -> None:
        for name, value in (("num_actors", self.num_actors or 0), ("max_restarts", self.max_restarts)):
            if value < 0:
                raise ValueError(f"{name}: must be 0 or more (got {value})")
        if self.max_task_retries < 0:
            raise ValueError(f"max_task_retries: must be 0 or more (got {self.max_task_retries})")
        for name, value in (("max_chunk_deaths", self.max_chunk_deaths), ("per_gpu", self.per_gpu)):
            if value < 1:
                raise ValueError(f"{name}: must be at least 1 (got {value})")
        if not self.hang_after_s > 0:
            raise ValueError(f"hang_after_s: must be positive (got {self.hang_after_s:g})")

    def gpus(self, device: str) -> float:
        """Of one actor, in Ray's counting."""
        return 1 / self.per_gpu if device == "cuda" else 0


@dataclass(frozen=True)
class ExtractorPlan:
    """An extractor as it travels: its settings, and the bytes it runs on; without bytes, they are loaded by path.

    Args:
        settings: of the extractor.
        weights: see above.
        beside: names of what must be kept beside moments (`data.features`) where these are to stand for features.
    """

    settings: ExtractorSettings
    weights: bytes | None = field(default=None, repr=False)
    beside: tuple[str, ...] = ()

    @cached_property
    def data(self) -> bytes:
        """Raises:
        SettingsError: they are a classifier's, which are made and not loaded.
        DataError: they cannot be read.
        """
        if self.weights is not None:
            return self.weights
        if isinstance(self.settings, Classifier):
            raise SettingsError("extractors", "a classifier is trained on a data set first: its weights must be given")
        return self.settings.load()

    @cached_property
    def digest(self) -> str:
        return self.settings.digest(self.data)

    @property
    def distance_name(self) -> str:
        return self.settings.distance_name(self.data)

    def build(self, image_shape: ImageShape, device: str) -> Extractor:
        return self.settings.build(self.data, image_shape, device)


@dataclass(frozen=True)
class WorkerSettings:
    """What all the work of one run has in common.

    Args:
        mark: the key of a file that the job has put into the store: a worker that does not find it there sees another
            store, as where a folder is not shared by all nodes. Empty: nobody looks.
    """

    store: Store
    execution: Execution
    device: Device
    family: Mapping[str, str]
    image_format: ImageFormat = "png"
    denoiser_memory_gb: float = 4.0
    decoder: Decoder = field(default_factory=PixelDecoder)
    mark: str = ""


@dataclass(frozen=True, eq=False)
class Setting:
    """A setting on a checkpoint, found and valid. Two points that differ in name only have one setting."""

    name: str
    snapshot: Snapshot
    sampler: Sampler
    labels: Labels
    key: Mapping[str, Any]
    guide: Snapshot | None = None

    @cached_property
    def digest(self) -> str:
        return digest(self.key)

    @property
    def snapshots(self) -> tuple[Snapshot, ...]:
        """Of the networks that it asks: its own, then the guide."""
        return (self.snapshot,) if self.guide is None else (self.snapshot, self.guide)

    @property
    def levels(self) -> NoiseLevels:
        """The noise levels that its networks can be asked.

        Raises:
            ValueError: the network and its guide have none in common.
        """
        levels = self.snapshot.model.preconditioning.levels()
        return levels if self.guide is None else levels.common(self.guide.model.preconditioning.levels())

    def count_nfe(self) -> int | None:
        """Network evaluations an image costs, the guide's among them; None where it varies."""
        return self._nfe

    @cached_property
    def _nfe(self) -> int | None:
        label = int(self.labels.of(torch.zeros(1, dtype=torch.int64), self.snapshot.model.num_classes)[0])
        return count_nfe(self.sampler, self.levels, label)


@dataclass(frozen=True, eq=False)
class Task:
    """A chunk of a setting of which something is missing.

    Args:
        setting: of the chunk.
        index: of the chunk.
        generate: its images are missing; otherwise they are read.
        extract: which of the run's extractors have no features of it.
    """

    setting: Setting
    index: int
    generate: bool
    extract: tuple[int, ...] = ()

    @property
    def checkpoint(self) -> str:
        """Names the networks to load; see `weights_names`."""
        return _AND.join(snapshot.weights_sha256 for snapshot in self.setting.snapshots)

    def __str__(self) -> str:
        return f"chunk {self.index} of {self.setting.name}"


@dataclass(frozen=True, eq=False)
class Done:
    """What a worker tells of a task.

    Args:
        nfe: evaluations counted for each seed, int64 (C,).
        damaged: what was found damaged and computed again, or an empty text.
    """

    nfe: NDArray[np.int64]
    damaged: str = ""


def weights_names(checkpoint: str) -> list[str]:
    """The sha256 of each network's weights, of a task's `checkpoint`."""
    return checkpoint.split(_AND)


def key_of(
    snapshot: Snapshot, sampler: Sampler, labels: Labels, execution: Execution, device: Mapping[str, str],
    namespace: str = "", guide: Snapshot | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The key of a setting's samples on a device family."""
    second = None if guide is None else Network(guide.weights_sha256, guide.model)
    return samples_key(
        snapshot.weights_sha256, snapshot.model, sampler, labels, execution, device, torch_minor(), namespace,
        guide=second,
    )  # fmt: skip
