"""How many generated images a classifier recognises as their labels."""

import torch


def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The share of images whose largest logit is that of their label.

    Args:
        logits: shape (N, num_classes).
        labels: shape (N,), integers; an image without a label (-1) counts as not recognised.

    Raises:
        ValueError: the shapes do not fit each other, or there are no images.
    """
    return float(recognised(logits, labels).double().mean())


def recognised(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Of each image whether it is, bool (N,); arguments and errors as of `accuracy`."""
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or len(labels) == 0:
        raise ValueError(f"accuracy: of logits {tuple(logits.shape)} and labels {tuple(labels.shape)} there is none")
    return logits.argmax(dim=1).cpu() == labels.cpu()
