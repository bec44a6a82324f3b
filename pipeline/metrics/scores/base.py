"""What every score is: some numbers of a set of images, from their features and those of a reference set."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Better = Literal["less", "more", "neither"]
Need = Literal["features", "logits", "class_logits", "labels", "reference", "reference_labels", "held_out"]
Prepared = Mapping[str, NDArray[Any]]
IMAGES = frozenset[Need]({"features", "logits", "class_logits", "labels"})  # what is needed of the images themselves


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """What is known of N images.

    Args:
        features: float32 (N, d).
        logits: float32 (N, k), of whatever classes the extractor knows; None where it knows none.
        class_logits: float32 (N, c), of the classes of the data set; None where the extractor does not know them.
        labels: int64 (N,), the classes of the data set, -1 for none; None where no image has one.
        strata: the same where every class has its share of the images by design; else None.
        held_out: float32 (M, d), of a reference: features of images like its own that are not among them; None without.
    """

    features: NDArray[np.float32]
    logits: NDArray[np.float32] | None = None
    class_logits: NDArray[np.float32] | None = None
    labels: NDArray[np.int64] | None = None
    strata: NDArray[np.int64] | None = None
    held_out: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.features)

    @property
    def num_features(self) -> int:
        return int(self.features.shape[1])


@dataclass(frozen=True)
class Number:
    """One number that a score tells, before it is measured.

    Args:
        key: its name in tables and in the tracker.
        title: what people call it.
        better: which way.
        estimand: what its interval is of; empty where it has none, and `why_none` says why.
        why_none: see there.
        plain_key: its name where the features are not those of the published Inception network; the same if empty.
        plain_title: what people call it then.
    """

    key: str
    title: str
    better: Better
    estimand: str = ""
    why_none: str = ""
    plain_key: str = ""
    plain_title: str = ""

    def named(self, published: bool) -> tuple[str, str]:
        """Key and title; a score is called after Inception only where the features are Inception's, as published."""
        if published or not self.plain_key:
            return self.key, self.title
        return self.plain_key, self.plain_title


@dataclass(frozen=True)
class Estimate:
    """A number, and the ends of its 95 % interval where it has one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ClassRow:
    """What is known of the images of one class; None where it cannot be had."""

    label: int
    num_images: int
    accuracy: Estimate | None
    distance: Estimate | None


@dataclass(frozen=True)
class Pair:
    """An image and the nearest one of the reference set: their indices, and the distance of their features."""

    image: int
    reference: int
    distance: float


@dataclass(frozen=True)
class Found:
    """What a score tells of a set of images.

    Args:
        values: by `Number.key`. One that cannot be had of these images is left out.
        classes: class by class, where the score goes by class.
        pairs: the nearest pairs, the nearest first, where the score knows any.
    """

    values: Mapping[str, Estimate]
    classes: tuple[ClassRow, ...] = field(default=())
    pairs: tuple[Pair, ...] = field(default=())


class ScoreShape(Protocol):
    """The shape of a score, for reading. It is a frozen dataclass with a `kind`.

    `needs` must be there, `uses` is taken where it is to be had.
    """

    numbers: ClassVar[tuple[Number, ...]]
    needs: ClassVar[frozenset[Need]]
    uses: ClassVar[frozenset[Need]]

    @property
    def least(self) -> int:
        """The images, and reference images, without which there is no such number."""
        ...

    def prepare(self, reference: FeatureSet) -> Prepared:
        """What depends on the reference alone. Computed once for many settings."""
        ...

    def measure(self, images: FeatureSet, reference: FeatureSet | None, prepared: Prepared) -> Found:
        """The numbers, in float64. The same features in the same order give the same bits.

        Args:
            images: at least `least`, with all that `needs` names.
            reference: the same of the reference set; None where no reference is needed, or none is there.
            prepared: what `prepare` gave for this reference; empty without one.
        """
        ...


def wants_reference(score: ScoreShape) -> bool:
    """Whether the features of reference images are of use to it."""
    return not (score.needs | score.uses) <= IMAGES


def suffix(score: Any) -> str:
    """What is added to the keys of a score whose settings are not the usual ones: `_k5`."""
    told = [(item.name, getattr(score, item.name)) for item in fields(score) if item.name != "kind"]
    usual = type(score)()
    return "".join(f"_{name}{value}" for name, value in told if value != getattr(usual, name))


def at_least(**fields_and_least: tuple[int, int]) -> None:
    """Raises:
    ValueError: a whole number is below the least that it may be.
    """
    for name, (value, least) in fields_and_least.items():
        if value < least:
            raise ValueError(f"{name}: must be at least {least} (got {value})")
