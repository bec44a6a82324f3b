"""Averages of the weights over the training, in float32, each with its own half-life or power-function profile."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pipeline.training.power_ema import PREFIX, gamma_of, power_decay
from pipeline.training.settings import EMA


def decay(batch_size: int, images_seen: int, halflife: float, ramp_up: float | None) -> float:
    """beta of one update: what is left of the old average after a step of `batch_size` images.

    Args:
        images_seen: before this step; half-lives are counted in images, so that they mean the same at any batch size.
        halflife: in images.
        ramp_up: bounds the half-life by this share of `images_seen`; at the first step nothing is left.
    """
    if ramp_up is not None:
        halflife = min(halflife, ramp_up * images_seen)
    return float(0.5 ** (batch_size / halflife)) if halflife > 0 else 0.0


class Averages:
    """Exponential moving averages of a network's parameters."""

    def __init__(self, settings: EMA, network: nn.Module) -> None:
        self._settings = settings
        self._network = network
        self._gammas = [gamma_of(std) for std in settings.power_stds]
        self._names = [name for name, _ in network.named_parameters()]
        self._parameters = [parameter.detach() for parameter in network.parameters()]
        self._sets = {
            name: [parameter.to(torch.float32, copy=True) for parameter in self._parameters] for name in settings.names
        }

    def update(self, batch_size: int, images_seen: int) -> None:
        """Moves every average towards the weights after a step; `images_seen` as in `decay`."""
        ema = self._settings
        betas = [decay(batch_size, images_seen, 1000 * halflife, ema.ramp_up) for halflife in ema.halflife_kimg]
        betas += [power_decay(batch_size, images_seen, gamma) for gamma in self._gammas]
        for averages, beta in zip(self._sets.values(), betas, strict=True):
            torch._foreach_lerp_(averages, self._parameters, 1 - beta)

    def state_dicts(self) -> dict[str, dict[str, Tensor]]:
        """State dictionaries of the network by the average's name; what is no parameter is as in the network."""
        return {
            name: {**self._network.state_dict(), **dict(zip(self._names, averages, strict=True))}
            for name, averages in self._sets.items()
        }

    def load(self, states: Mapping[str, Mapping[str, Tensor]]) -> None:
        for name, averages in self._sets.items():
            for parameter, average in zip(self._names, averages, strict=True):
                average.copy_(states[name][parameter])


def as_stored(
    weights: Mapping[str, Mapping[str, Tensor]], settings: EMA, network: nn.Module
) -> dict[str, dict[str, Tensor]]:
    """Sets of weights as a snapshot keeps them: parameters of power-function averages in the precision asked for."""
    half = {name for name, _ in network.named_parameters()} if settings.power_precision == "fp16" else set()
    return {
        name: {key: value.half() if name.startswith(PREFIX) and key in half else value for key, value in state.items()}
        for name, state in weights.items()
    }
