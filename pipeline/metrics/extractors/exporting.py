"""Any image network as a `file` extractor: written once, with its resize and normalization, for `kind: file`.

DINOv2, whose Frechet distance (Stein et al. 2023, arXiv 2306.04675) agrees better with people than Inception's, is one
such network: docs/metrics.md says how.
"""

import copy
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.digests import sha256
from pipeline.errors import DataError
from pipeline.metrics.extractors.base import ImageShape
from pipeline.metrics.extractors.file import File

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MOST_IMAGES = 4096  # in one batch


class Prepared(nn.Module):
    """A network of normalized float images, called with uint8 ones.

    Args:
        network: from float images (N, 3, size, size) to features (N, d).
        size: of the square that images are resized to, bicubic with antialiasing, and clipped to what pixels can be.
        mean, std: of each channel, of pixels in [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, network: nn.Module, size: int, mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
    ) -> None:  # fmt: skip
        super().__init__()
        self.network = network
        self.size = size
        self.register_buffer("mean", torch.tensor(mean).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Features (N, d) of uint8 images (N, 3, H, W)."""
        x = images.float() / 255
        x = F.interpolate(x, (self.size, self.size), mode="bicubic", antialias=True, align_corners=False)
        features: Tensor = self.network((x.clamp(0, 1) - self.mean) / self.std)
        return features


def export_extractor(
    network: nn.Module, path: str | Path, image_shape: ImageShape, size: int, name: str | None = None,
    mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD,
) -> File:  # fmt: skip
    """Writes a network as a `.pt2` file (torch.export) for images of one shape (C, H, W), grey ones repeated.

    Returns:
        The extractor's settings, with the sha256 of what was written.

    Raises:
        DataError: the network cannot be exported, or the file not written.
    """
    prepared = Prepared(copy.deepcopy(network).eval(), size, mean, std)
    example = torch.zeros(2, 3, *image_shape[1:], dtype=torch.uint8)
    batch = {"images": {0: torch.export.Dim("batch", min=1, max=MOST_IMAGES)}}
    try:
        with torch.no_grad():
            program = torch.export.export(prepared, (example,), dynamic_shapes=batch)
        torch.export.save(program, path)
        data = Path(path).read_bytes()
    except Exception as error:  # torch promises no types here; every failure is of the network or the file
        raise DataError(path, f"the network cannot be exported ({str(error).strip().splitlines()[0][:200]})") from error
    return File(path=str(path), sha256=sha256(data), name=name)
