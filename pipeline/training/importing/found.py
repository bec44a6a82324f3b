"""A checkpoint that was recognised, in our terms."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pipeline.data.unpickle import printable
from pipeline.errors import CheckpointError, SettingsError
from pipeline.training.settings import ModelSpec

Weights = Mapping[str, Tensor]


class NotRecognisedError(ValueError):
    """What is in a file has no counterpart here; the text says what, and `recognise` adds where."""


@dataclass(frozen=True, eq=False)
class Found:
    """What was in a file or folder, and is not in the store yet.

    Args:
        origin: what it was recognised as, in one line.
        model: its settings here.
        weights: state dictionaries of the model's network, by name, the preferred one first.
        licence: of the weights, where the file itself says it.
        usual_licence: what such weights were published under, to suggest it.
        notes: what was left out, or is to be known.
        num_images: images seen in training, 0 where nobody says.
        dataset: `name` and `digest` of what it was trained on; empty where nobody says.
    """

    origin: str
    model: ModelSpec
    weights: Mapping[str, Weights] = field(repr=False)
    licence: str | None = None
    usual_licence: str | None = None
    notes: tuple[str, ...] = ()
    num_images: int = 0
    dataset: Mapping[str, Any] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """What was recognised, for people."""
        model, levels = self.model, self.model.preconditioning.levels()
        classes = f"{model.num_classes} classes" if model.num_classes else "no classes"
        parameters = sum(tensor.numel() for tensor in next(iter(self.weights.values())).values())
        lines = [
            f"recognised: {self.origin}",
            f"network: {model.network.kind} for images of {model.channels}x{model.resolution}x{model.resolution}, "
            f"{classes}; {parameters:,} parameters",
            f"preconditioning: {model.preconditioning.kind}, sigma from {levels.sigma_min:.6g} to "
            f"{levels.sigma_max:.6g}, sigma_data {model.sigma_data:g}",
            f"sets of weights: {len(self.weights)} ({', '.join(self.weights)})",
            *self.notes,
        ]
        return [printable(line) for line in lines]


def check_fits(found: Found) -> None:
    """Holds the weights against the network that the model's settings build, without the memory it would need.

    Raises:
        NotRecognisedError: names, shapes or number types differ, or a number is not finite.
    """
    expected = _shapes(found.model)
    for name, weights in found.weights.items():
        missing, unknown = expected.keys() - weights.keys(), weights.keys() - expected.keys()
        if missing or unknown:
            raise NotRecognisedError(
                f"the weights {name!r} do not fit the network {found.model.network.kind}: "
                f"{_few(missing, 'is missing')}{' and ' if missing and unknown else ''}{_few(unknown, 'has no place')}"
            )
        for key, tensor in sorted(weights.items()):  # a file gives them in an order of its own
            if tensor.shape != expected[key]:
                shapes = f"{list(tensor.shape)}, where the network has {list(expected[key])}"
                raise NotRecognisedError(f"the weights {name!r} hold {key} of shape {shapes}")
            if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
                raise NotRecognisedError(f"the weights {name!r} hold numbers in {key} that are not finite floats")


def _shapes(model: ModelSpec) -> dict[str, torch.Size]:
    try:
        with torch.device("meta"):
            network = model.network.build(model.resolution, model.channels, model.num_classes)
    except SettingsError:
        raise
    except (ValueError, RuntimeError, TypeError, NotImplementedError) as error:
        raise NotRecognisedError(f"no network can be built of its settings ({error})") from error
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


def _few(names: set[str], problem: str) -> str:
    shown = sorted(names)
    more = f" and {len(shown) - 2} more" if len(shown) > 2 else ""
    return f"{', '.join(shown[:2])}{more} {problem}" if shown else ""


def refuse(where: object, error: ValueError) -> CheckpointError:
    """The sentence for people."""
    return CheckpointError(where, printable(str(error))[:600])
