"""What every extractor is: a function from images to features, with a digest of all that determines it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

ImageShape = tuple[int, int, int]  # channels, height, width
Classes = Literal["own", "other", "none"]  # that an extractor knows: the data set's, those of another one, or none


@dataclass(frozen=True, eq=False)
class Features:
    """What an extractor tells of N images, on the extractor's device.

    Args:
        features: shape (N, d), float32.
        logits: shape (N, num_classes), float32, where the extractor knows the classes of the data set, else None.
    """

    features: torch.Tensor
    logits: torch.Tensor | None = None


class Extractor(Protocol):
    """A network in eval mode. It does not choose batches: what it is given in one call is one batch."""

    @property
    def digest(self) -> str:
        """Names weights and settings: equal digests give equal features, up to rounding."""
        ...

    @property
    def num_features(self) -> int: ...

    @property
    def distance_name(self) -> str:
        """What a Frechet distance of these features is called: "FID", or "FD, " and a name."""
        ...

    def __call__(self, images: torch.Tensor) -> Features:
        """Features of uint8 images of shape (N, C, H, W), C in {1, 3}, on any device.

        Raises:
            ValueError: these are no such images.
        """
        ...


@contextmanager
def extraction() -> Iterator[None]:
    """No gradients, and float32 that is float32: TF32 and autotuned kernels would make numbers depend on the GPU."""
    with torch.inference_mode(), torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=False):
        yield


def check_images(images: torch.Tensor) -> None:
    """Raises:
    ValueError: the images are not uint8 of shape (N, C, H, W) with one or three channels.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images: must be uint8 (N, 1 or 3, H, W) (got {images.dtype} {tuple(images.shape)})")


def as_rgb(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Checked images with three channels on a device: grey is repeated."""
    check_images(images)
    return images.to(device).expand(-1, 3, -1, -1).contiguous()
