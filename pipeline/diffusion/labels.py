"""Which class a sample is of: a function of its seed alone, so that any chunk of seeds can be made by itself."""

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from pipeline.diffusion.seeds import LABEL, draw, uniform


class LabelsShape(Protocol):
    def of(self, seeds: Tensor, num_classes: int) -> Tensor:
        """Labels for seeds, int64 of shape (N,); -1 is no label."""
        ...


@dataclass(frozen=True)
class Unlabelled:
    """No label: for networks without classes, or to sample a conditional one without condition."""

    kind: Literal["none"] = "none"
    revision: ClassVar[int] = 1

    def of(self, seeds: Tensor, num_classes: int) -> Tensor:
        return torch.full_like(seeds, -1)


@dataclass(frozen=True)
class Balanced:
    """Class = seed modulo the number of classes: every class equally often. Unlabelled networks get none."""

    kind: Literal["balanced"] = "balanced"
    revision: ClassVar[int] = 1

    def of(self, seeds: Tensor, num_classes: int) -> Tensor:
        return seeds % num_classes if num_classes else torch.full_like(seeds, -1)


@dataclass(frozen=True)
class Uniform:
    """A class drawn uniformly, keyed by the seed."""

    kind: Literal["uniform"] = "uniform"
    revision: ClassVar[int] = 1

    def of(self, seeds: Tensor, num_classes: int) -> Tensor:
        if not num_classes:
            return torch.full_like(seeds, -1)
        return (uniform(seeds, draw(LABEL, 0))[:, 0] * num_classes).long()


@dataclass(frozen=True)
class Fixed:
    """One class for all."""

    kind: Literal["fixed"] = "fixed"
    label: int = 0
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.label < 0:
            raise ValueError(f"label: must be 0 or more (got {self.label})")

    def of(self, seeds: Tensor, num_classes: int) -> Tensor:
        if self.label >= num_classes:
            raise ValueError(f"label: must be less than the network's {num_classes} classes (got {self.label})")
        return torch.full_like(seeds, self.label)


Labels = Balanced | Uniform | Fixed | Unlabelled
