"""The loss of a checkpoint by noise level, on images of a data set: where its network is good, and where it is not.

Measured once a store: `cache/losses/<digest>`. The noise of an image is a function of its index, equal at all levels.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.data.cache import Kept, kept
from pipeline.data.dataset import Dataset
from pipeline.data.samples import Execution
from pipeline.data.store import Store
from pipeline.diffusion.denoiser import Denoiser
from pipeline.diffusion.noise import EDMWeighting
from pipeline.diffusion.seeds import INITIAL, draw, normal
from pipeline.digests import digest
from pipeline.engine.denoisers import load_denoiser
from pipeline.engine.devices import Device, family, fixed_arithmetic, local_device, torch_minor
from pipeline.engine.progress import line
from pipeline.errors import SettingsError
from pipeline.training.batches import Batch
from pipeline.training.loss import sample_losses
from pipeline.training.snapshot import Snapshot, read_weights

MEASUREMENT = 1  # the revision of how it is measured


@dataclass(frozen=True)
class LossPoint:
    """The loss at one noise level.

    Args:
        sigma: the level.
        loss: EDM's, lambda(sigma) |D(y + n) - y|^2 a pixel, the mean over the images: 1 for a network that says
            nothing, on data of standard deviation sigma_data about 0.
        standard_error: of this mean.
    """

    sigma: float
    loss: float
    standard_error: float


def loss_by_noise(
    store: Store, snapshot: Snapshot, dataset: Dataset, sigmas: Sequence[float], count: int, execution: Execution,
    progress: bool = True,
) -> list[LossPoint]:  # fmt: skip
    """Measures a checkpoint in this process.

    Args:
        dataset: its images are denoised; those that the network was trained on flatter it.
        sigmas: the levels.
        count: images, evenly spread over the data set.
        execution: batch size, precision, threads and device.

    Raises:
        SettingsError: the images are of another shape, or of more classes, than those of the network.
        CheckpointError: the weights are damaged.
    """
    _check(snapshot, dataset)
    count = min(count, len(dataset))
    execution = replace(execution, compile=False)  # it repays itself over more evaluations than these
    device = local_device(execution.device)
    about = {
        "measurement": MEASUREMENT, "weights": snapshot.weights_sha256, "model": snapshot.model,
        "dataset": dataset.info.digest, "count": count, "sigmas": list(sigmas), "execution": execution,
        "device": family(device, execution.precision), "torch": torch_minor(),
    }  # fmt: skip

    def measure() -> Kept:
        dataset.verify()
        points = _measure(store, snapshot, dataset, sigmas, count, execution, device, progress)
        return Kept(json.dumps(points).encode(), {"about": about, "checkpoint": snapshot.title})

    whole = kept(store, f"cache/losses/{digest(about)}", "losses.json", measure)
    return [LossPoint(*point) for point in json.loads(whole.data)]


def _check(snapshot: Snapshot, dataset: Dataset) -> None:
    info, model = dataset.info, snapshot.model
    if info.shape != model.shape:
        theirs, ours = ("x".join(map(str, shape)) for shape in (info.shape, model.shape))
        raise SettingsError(info.name, f"its images are {theirs}, those of {snapshot.title} are {ours}")
    if model.num_classes and info.num_classes > model.num_classes:
        problem = f"has {info.num_classes} classes, and {snapshot.title} knows {model.num_classes}"
        raise SettingsError(info.name, problem)


def _measure(
    store: Store, snapshot: Snapshot, dataset: Dataset, sigmas: Sequence[float], count: int, execution: Execution,
    device: Device, progress: bool,
) -> list[tuple[float, float, float]]:  # fmt: skip
    title = f"losses of {snapshot.title}"
    found: list[list[Tensor]] = [[] for _ in sigmas]
    with (
        fixed_arithmetic(execution.threads),
        torch.inference_mode(),
        line(title, count * len(sigmas), progress) as told,
    ):
        denoiser = load_denoiser(snapshot.model, read_weights(store, snapshot), execution, device)
        chosen = np.arange(count, dtype=np.int64) * len(dataset) // count
        for indices in np.array_split(chosen, range(execution.batch_size, count, execution.batch_size)):
            for losses, sigma in zip(found, sigmas, strict=True):
                losses.append(_losses(denoiser, dataset, indices, sigma, device))
                told.advance(len(indices))
    return [_point(sigma, torch.cat(losses)) for sigma, losses in zip(sigmas, found, strict=True)]


def _losses(denoiser: Denoiser, dataset: Dataset, indices: Any, sigma: float, device: Device) -> Tensor:
    """Of each image a pixel, float64 (N,)."""
    y = torch.from_numpy(dataset.images(indices)).to(device, torch.float32) / 127.5 - 1
    seeds = torch.from_numpy(indices)
    n = normal(seeds, draw(INITIAL, 0), y.shape[1:]).to(device, torch.float32)
    level = torch.full((len(y),), sigma, dtype=torch.float64, device=device)
    labels = torch.from_numpy(dataset.labels(indices)).to(device) if dataset.info.num_classes else None
    batch = Batch(0, y, n, level, level, labels, None)
    return sample_losses(denoiser, EDMWeighting(), batch).double().cpu() / y[0].numel()


def _point(sigma: float, losses: Tensor) -> tuple[float, float, float]:
    error = float(losses.std()) / len(losses) ** 0.5 if len(losses) > 1 else float("inf")
    return float(sigma), float(losses.mean()), error
