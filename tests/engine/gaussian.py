"""A checkpoint whose images are known in closed form: data N(0, s^2) in every pixel, and the exact denoiser of them.

With EDM's preconditioning a network that answers zero is D(x; sigma) = c_skip x = s^2 x / (s^2 + sigma^2): the
posterior mean of such data. Every deterministic sampler then multiplies its noise by a number: what is wrong with it is
how far that number is from s. So the Frechet distance of d pixels, of infinitely many images, is d (number - s)^2.
"""

from pathlib import Path

import numpy as np
import torch

from pipeline.data.dataset import commit_dataset
from pipeline.data.sources.base import Item
from pipeline.data.store import Store
from pipeline.diffusion.decoding import quantize
from pipeline.diffusion.preconditioning import EDMPreconditioning
from pipeline.digests import sha256
from pipeline.metrics.extractors import File
from pipeline.networks import MLP
from pipeline.training.settings import ModelSpec
from pipeline.training.snapshot import commit_snapshot

STD = 0.25  # four of them fit into the range of an image
SIZE = 8
FEATURES = 16
MODEL = ModelSpec(
    network=MLP(hidden=4, num_layers=1), preconditioning=EDMPreconditioning(), sigma_data=STD, resolution=SIZE,
    channels=1, num_classes=0,
)  # fmt: skip


class Pixels(torch.nn.Module):
    """Every fourth pixel as a feature, in the model's range."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, 0].flatten(1)[:, ::4].float() / 127.5


def put_network(store: Store, training: str = "gaussian-01234567") -> None:
    network = MODEL.network.build(SIZE, 1, 0)
    weights = {name: torch.zeros_like(value) for name, value in network.state_dict().items()}
    meta = {"settings": {}, "dataset": {"name": "gaussian", "digest": "0" * 32}}
    commit_snapshot(store, training, 1000, MODEL, {"ema-1": weights, "raw": weights}, meta)


def put_data(store: Store, count: int = 4000) -> None:
    """The data set `gaussian`."""
    generator = torch.Generator().manual_seed(0)
    images = quantize(STD * torch.randn(count, 1, SIZE, SIZE, generator=generator)).numpy()
    commit_dataset(store, "gaussian", (Item(str(index), image, 0) for index, image in enumerate(images)))


def put_extractor(folder: Path) -> File:
    path = folder / "pixels.pt2"
    dynamic = {"images": {0: torch.export.Dim("batch", min=1, max=4096)}}
    example = torch.zeros(4, 3, SIZE, SIZE, dtype=torch.uint8)
    torch.export.save(torch.export.export(Pixels(), (example,), dynamic_shapes=dynamic), path)
    return File(path=str(path), sha256=sha256(path.read_bytes()), name="pixels")


def gain(images: np.ndarray) -> float:
    """The standard deviation of all pixels, in the model's range."""
    return float(((images.astype(np.float64) + 0.5) / 127.5 - 128 / 127.5).std())
