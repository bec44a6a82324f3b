"""Trains the classifier. The same settings, images and number of CPU threads give the same weights, bit for bit."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from pipeline.errors import DataError
from pipeline.metrics.accuracy import accuracy
from pipeline.metrics.extractors.base import check_images, extraction
from pipeline.metrics.extractors.classifier import Classifier, ClassifierNetwork, to_bytes

Progress = Callable[[int, float], None]  # epochs done, mean loss of the last

EVALUATION_BATCH = 500


@dataclass(frozen=True)
class TrainedClassifier:
    """What `Classifier.build` takes, and how good it is.

    Args:
        data: the weights, a safetensors file.
        accuracy: on the images kept apart.
        num_validation: how many these were.
    """

    data: bytes
    accuracy: float
    num_validation: int


def train_classifier(
    settings: Classifier,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    num_classes: int,
    progress: Progress | None = None,
    device: torch.device | str = "cpu",
) -> TrainedClassifier:
    """Trains on all but `validation_fraction` of the images. Touches no global random state.

    Args:
        settings: what to train, and how.
        images: uint8 (N, C, H, W).
        labels: int64 (N,), in 0 ... num_classes - 1.
        num_classes: at least 2.
        progress: told after every epoch.
        device: bit-equality is promised for the CPU only.

    Raises:
        DataError: the labels cannot be learned from, or there are too few images.
    """
    x, y = torch.tensor(images), torch.tensor(labels)  # copies: given arrays may be read-only
    check_images(x)
    _check_labels(y, len(x), num_classes)
    random = torch.Generator().manual_seed(settings.seed)
    order = torch.randperm(len(x), generator=random)
    num_validation = max(1, round(settings.validation_fraction * len(x)))
    held_out, training = order[:num_validation], order[num_validation:]
    if len(training) < settings.batch_size:
        raise DataError("classifier", f"{len(training)} images are left to train on, less than one batch")
    network = _initial(settings, (x.shape[1], x.shape[2], x.shape[3]), num_classes).to(device)
    _fit(network, settings, x[training], y[training], random, progress)
    return TrainedClassifier(to_bytes(network), _accuracy(network, x[held_out], y[held_out]), num_validation)


def _check_labels(labels: torch.Tensor, num_images: int, num_classes: int) -> None:
    if labels.shape != (num_images,):
        raise ValueError(f"labels: must be one an image (got {tuple(labels.shape)} for {num_images} images)")
    if num_classes < 2:
        raise DataError("classifier", f"needs a data set of at least 2 classes to learn from (got {num_classes})")
    wrong = (labels < 0) | (labels >= num_classes)
    if bool(wrong.any()):
        i = int(wrong.nonzero()[0])
        raise DataError("classifier", f"image {i} has the label {int(labels[i])}, not one of 0 ... {num_classes - 1}")


def _initial(settings: Classifier, image_shape: tuple[int, int, int], num_classes: int) -> ClassifierNetwork:
    with torch.random.fork_rng(devices=[]):  # layers draw their weights from the global generator
        torch.default_generator.manual_seed(settings.seed)
        return ClassifierNetwork(image_shape, num_classes, settings.width, settings.num_features)


def _fit(
    network: ClassifierNetwork,
    settings: Classifier,
    images: torch.Tensor,
    labels: torch.Tensor,
    random: torch.Generator,
    progress: Progress | None,
) -> None:
    """Batches are whole: what is left of an epoch's order is dropped, so batch norm never sees a small one."""
    device = next(network.parameters()).device
    steps = len(images) // settings.batch_size
    optimizer = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, epochs=settings.epochs, steps_per_epoch=steps
    )
    network.train()
    for epoch in range(settings.epochs):
        total = 0.0
        order = torch.randperm(len(images), generator=random)[: steps * settings.batch_size]
        for batch in order.view(steps, settings.batch_size):
            x = _shifted(images[batch], settings.shift, random).to(device)
            loss = F.cross_entropy(network(x)[1], labels[batch].to(device))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += loss.item()
        if progress is not None:
            progress(epoch + 1, total / steps)


def _shifted(images: torch.Tensor, share: float, random: torch.Generator) -> torch.Tensor:
    """Every image moved by its own whole number of pixels; the border is repeated."""
    num, _, height, width = images.shape
    rows = _moved(num, height, round(share * height), random)
    columns = _moved(num, width, round(share * width), random)
    index = torch.arange(num)[:, None, None]
    return images.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _moved(num: int, size: int, most: int, random: torch.Generator) -> torch.Tensor:
    offsets = torch.randint(-most, most + 1, (num, 1), generator=random)
    return (torch.arange(size) + offsets).clamp(0, size - 1)


def _accuracy(network: ClassifierNetwork, images: torch.Tensor, labels: torch.Tensor) -> float:
    network.eval()
    device = next(network.parameters()).device
    with extraction():
        logits = [network(batch.to(device))[1] for batch in torch.split(images, EVALUATION_BATCH)]
    return accuracy(torch.cat(logits), labels)
