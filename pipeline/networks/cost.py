"""What a network costs, found without the memory or the time it would take."""

from dataclasses import dataclass
from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.networks import Network


@dataclass(frozen=True)
class NetworkCost:
    """parameters: numbers that are learned. flops: floating-point operations of one forward pass of one image, a
    multiplication and an addition counted as two, as far as they are in convolutions and matrix products."""

    parameters: int
    flops: int


@cache
def network_cost(network: Network, resolution: int, channels: int, num_classes: int) -> NetworkCost:
    """Counted on torch's device `meta`, where tensors have shapes and no content.

    Raises:
        ValueError: the network cannot be built for such images.
    """
    with torch.device("meta"), torch.no_grad():
        module = network.build(resolution, channels, num_classes).eval()
        x = torch.empty(1, channels, resolution, resolution)
        labels = torch.zeros(1, dtype=torch.int64) if num_classes else None
        with FlopCounterMode(display=False) as counter:
            module(x, torch.zeros(1), labels)
    return NetworkCost(sum(parameter.numel() for parameter in module.parameters()), int(counter.get_total_flops()))
