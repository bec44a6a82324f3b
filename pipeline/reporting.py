"""The port through which work is reported. The engine speaks to it; `pipeline.tracking` is one that stands behind it.

A `Reporter` is small and picklable: a Ray worker gets a copy and opens its own runs. A run is found by its key, so
opening the same key twice (a restart, another worker) goes on with the same run.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray


class Run(Protocol):
    """One comparable unit: a training, or one sampler setting on one checkpoint. No call blocks on a server."""

    def params(self, settings: Mapping[str, Any]) -> None:
        """Nested settings; logged flattened with dotted keys."""
        ...

    def tags(self, tags: Mapping[str, str]) -> None: ...

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Numbers at a step (images seen in training, NFE in a benchmark). NaN and infinity are allowed."""
        ...

    def image(self, key: str, pixels: NDArray[np.uint8], step: int = 0) -> None:
        """A picture, uint8 of shape (H, W, 3) or (H, W); shown in the UI's image grid under `key`."""
        ...

    def text(self, text: str, name: str) -> None:
        """A text artifact, such as the resolved settings."""
        ...

    def dataset(self, name: str, digest: str, use: str, about: Mapping[str, Any]) -> None:
        """A data set that the run is based on.

        Args:
            name: what people call it.
            digest: of its content.
            use: what for: `training`, or `reference`.
            about: such as the number of images.
        """
        ...

    def file(self, path: Path, folder: str = "") -> None:
        """A file artifact; it must stay where it is until the run is closed."""
        ...

    def link(self) -> str:
        """Where a person can look at the run, or an empty string."""
        ...

    def close(self, status: str = "FINISHED") -> None:
        """Sends what is buffered, as far as the server can be reached. Status: FINISHED, FAILED or KILLED."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Reporter(Protocol):
    """Opens runs. Picklable."""

    def run(self, key: str, name: str, tags: Mapping[str, str]) -> Run:
        """The run of this key, opened anew or again.

        Args:
            key: what makes the run the same run, a digest.
            name: what a person reads in the runs table.
            tags: such as `benchmark`, `checkpoint`, `protocol`.
        """
        ...

    def link(self, tags: Mapping[str, str]) -> str:
        """Where a person can compare the runs that carry these tags, or an empty string."""
        ...

    def settle(self) -> None:
        """Waits until what was reported is kept, whatever becomes of this process."""
        ...


@dataclass
class MemoryRun:
    """A run kept in memory: for tests, and where nothing is to be tracked."""

    key: str
    name: str
    all_tags: dict[str, str] = field(default_factory=dict)
    all_params: dict[str, Any] = field(default_factory=dict)
    history: list[tuple[int, str, float]] = field(default_factory=list)
    images: dict[tuple[str, int], NDArray[np.uint8]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    datasets: list[tuple[str, str, str]] = field(default_factory=list)
    status: str = "RUNNING"

    def params(self, settings: Mapping[str, Any]) -> None:
        self.all_params.update(settings)

    def tags(self, tags: Mapping[str, str]) -> None:
        self.all_tags.update(tags)

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        self.history.extend((step, key, value) for key, value in values.items())

    def image(self, key: str, pixels: NDArray[np.uint8], step: int = 0) -> None:
        self.images[key, step] = pixels

    def text(self, text: str, name: str) -> None:
        self.texts[name] = text

    def dataset(self, name: str, digest: str, use: str, about: Mapping[str, Any]) -> None:
        self.datasets.append((name, digest, use))

    def file(self, path: Path, folder: str = "") -> None:
        self.files.append(f"{folder}/{path.name}".lstrip("/"))

    def link(self) -> str:
        return ""

    def close(self, status: str = "FINISHED") -> None:
        self.status = status

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close("FINISHED" if kind is None else "FAILED")


@dataclass
class MemoryReporter:
    """Keeps its runs in memory, by key."""

    runs: dict[str, MemoryRun] = field(default_factory=dict)

    def run(self, key: str, name: str, tags: Mapping[str, str]) -> MemoryRun:
        run = self.runs.setdefault(key, MemoryRun(key, name))
        run.tags(tags)
        return run

    def link(self, tags: Mapping[str, str]) -> str:
        return ""

    def settle(self) -> None:
        """Nothing is to be waited for."""
