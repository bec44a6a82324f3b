"""The picture of a snapshot: a few samples, always of the same seeds and classes, so that progress can be seen."""

import time

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.data.pictures import image_grid
from pipeline.diffusion.decoding import quantize
from pipeline.diffusion.labels import Balanced
from pipeline.diffusion.sampling import Sampler, sample
from pipeline.training.settings import ModelSpec
from pipeline.training.snapshot import build_denoiser

_ROWS = 4
_MOST_COLUMNS = 10
_PATIENCE_S = 20.0  # no row is begun later, as the other workers wait; a large network on a CPU gets a smaller picture


def sample_picture(model: ModelSpec, weights: bytes, device: torch.device) -> NDArray[np.uint8]:
    """Samples of the EDM sampler (Heun, 18 steps), a class a column, seeds from 0 on.

    Args:
        weights: safetensors of the network.

    Returns:
        uint8 of shape (H, W, 3).
    """
    denoiser = build_denoiser(model, weights, torch.float32, device)
    columns = min(model.num_classes or _MOST_COLUMNS, _MOST_COLUMNS)
    stride = max(model.num_classes, columns)  # so that every row begins with the first class
    rows: list[torch.Tensor] = []
    started = time.monotonic()
    while len(rows) < _ROWS and time.monotonic() - started < _PATIENCE_S:
        seeds = torch.arange(columns, device=device) + stride * len(rows)
        labels = Balanced().of(seeds, model.num_classes) if model.num_classes else None
        rows.append(sample(denoiser, denoiser.levels, Sampler(), seeds, model.shape, labels).images)
    return image_grid(quantize(torch.cat(rows)).cpu().numpy(), columns)
