"""From a source of images to a data set in the store: choose, decode, resize, write."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline.data.dataset import commit_dataset
from pipeline.data.dataset_info import DatasetInfo, check_name, label_names
from pipeline.data.order import image_index
from pipeline.data.sources import Images, Item, Source
from pipeline.data.store import Store
from pipeline.data.transform import BrokenImageError, to_pixels
from pipeline.errors import DataError, SettingsError

_PART_SEED = 0x5EED  # fixed for ever: disjoint parts must be disjoint whenever they are made
_NAMED = 3  # broken images that a message names

OnBroken = Literal["stop", "skip"]
Progress = Callable[[int, int], None]


def prepare(
    store: Store,
    name: str,
    source: Source,
    *,
    size: int | None = None,
    channels: int | None = None,
    pad_to: int | None = None,
    part: tuple[float, float] = (0.0, 1.0),
    max_images: int | None = None,
    on_broken: OnBroken = "stop",
    progress: bool | Progress = True,
    say: Callable[[str], None] | None = None,
) -> DatasetInfo:
    """Makes a data set. The same inputs give the same digest on any machine.

    Args:
        store: where it is committed, as `datasets/<name>`.
        source: where the images come from.
        size: scale the shorter side to this and crop the centre square; None: all images must have one shape.
        channels: 1, 3, or None for what they have.
        pad_to: then pad with zeros to this height and width.
        part: takes the images whose place in a fixed shuffle, made within each class, is in [from, to), of [0, 1). So
            (0, 0.7) and (0.7, 1) are disjoint, and both have every class in proportion.
        max_images: at most so many, of the first places of that part.
        on_broken: what images that cannot be decoded do: stop the work, all being counted, or be left out.
        progress: True for a bar if stderr is a terminal, False for none, or a function of (images done, images in all).
        say: gets a sentence where something is to be told; by default it goes to stderr.

    Returns:
        What was written, or was there already.

    Raises:
        SettingsError: an argument is out of range.
        DataError: the source or its images cannot be used, or another data set has this name.
        StoreError: the store cannot be written.
    """
    check_name(name)
    _check_arguments(size, channels, pad_to, part, max_images, on_broken)
    say = say or _to_stderr
    images = source.open()
    names = label_names(images.where, images.labels, images.class_names)  # of all, so that parts have the same classes
    chosen = choose(images.labels, part, max_images)
    if not chosen.any():
        raise DataError(images.where, f"no image of its {len(images)} is in the part {part[0]}..{part[1]}")
    work = _Work(images, chosen, size, channels, pad_to, on_broken)
    info = commit_dataset(store, name, _counted(work.items(), int(chosen.sum()), progress), names, say)
    if work.broken:
        say(f"{images.where}: left out {_named(work.broken)}")
    return info


def choose(labels: NDArray[np.int64], part: tuple[float, float], max_images: int | None = None) -> NDArray[np.bool_]:
    """The mask (N,) of the images of a part; see `prepare`."""
    place = np.empty(len(labels), np.float64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        rank = image_index(_PART_SEED + int(label), np.arange(len(members)), len(members))
        place[members] = (rank + 0.5) / len(members)
    chosen: NDArray[np.bool_] = (part[0] <= place) & (place < part[1])
    if max_images is not None and int(chosen.sum()) > max_images:
        candidates = np.flatnonzero(chosen)
        first = candidates[np.argsort(place[candidates], kind="stable")[:max_images]]
        chosen = np.zeros(len(labels), np.bool_)
        chosen[first] = True
    return chosen


@dataclass
class _Work:
    images: Images
    chosen: NDArray[np.bool_]
    size: int | None
    channels: int | None
    pad_to: int | None
    on_broken: OnBroken
    broken: list[str] = field(default_factory=list)

    def items(self) -> Iterator[Item]:
        """The decoded images; the broken ones are collected, and stop the work at its end, when all are known."""
        for item in self.images.read(self.chosen):
            try:
                yield Item(item.name, self._pixels(item), item.label)
            except BrokenImageError as error:
                self.broken.append(f"{item.name} {error}")
        if self.broken and self.on_broken == "stop":
            mend = "mend them, or leave them out with on_broken: skip"
            raise DataError(self.images.where, f"{_named(self.broken)}; {mend}")

    def _pixels(self, item: Item) -> NDArray[np.uint8]:
        if item.problem:
            raise BrokenImageError(item.problem)
        return to_pixels(item.image, size=self.size, channels=self.channels, pad_to=self.pad_to)


def _counted(items: Iterator[Item], total: int, progress: bool | Progress) -> Iterator[Item]:
    if callable(progress):
        for done, item in enumerate(items, 1):
            yield item
            progress(done, total)
    else:
        yield from tqdm(items, total=total, unit=" images", disable=None if progress else True, file=sys.stderr)


def _named(broken: list[str]) -> str:
    more = f" and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
    return f"{len(broken)} broken image{'s' if len(broken) > 1 else ''}: {'; '.join(broken[:_NAMED])}{more}"


def _check_arguments(
    size: int | None,
    channels: int | None,
    pad_to: int | None,
    part: tuple[float, float],
    max_images: int | None,
    on_broken: str,
) -> None:
    for key, value in (("size", size), ("pad_to", pad_to), ("max_images", max_images)):
        if value is not None and value < 1:
            raise SettingsError(key, f"must be 1 or more (got {value})")
    if channels not in (None, 1, 3):
        raise SettingsError("channels", f"must be 1 or 3 (got {channels})")
    if not 0.0 <= part[0] < part[1] <= 1.0:
        raise SettingsError("part", f"must be [from, to) with 0 <= from < to <= 1 (got {part})")
    if size is not None and pad_to is not None and size > pad_to:
        raise SettingsError("pad_to", f"must not be below size = {size} (got {pad_to})")
    if on_broken not in ("stop", "skip"):
        raise SettingsError("on_broken", f"must be stop or skip (got {on_broken!r})")


def _to_stderr(sentence: str) -> None:
    tqdm.write(sentence, file=sys.stderr)
