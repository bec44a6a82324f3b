"""Channels-last, where torch leaves open what that is.

Of a tensor with one channel, or of one pixel an image, both memory formats lie the same, and torch keeps the strides it
had. What looks at strides (convolutions, compiled code, DDP) then takes it for the other format. Here strides are those
of channels-last always.
"""

import torch
from torch import Tensor, nn


def channels_last(x: Tensor) -> Tensor:
    """A tensor of shape (N, C, H, W) in channels-last; itself or a view of it where it lies so already."""
    _, c, h, w = x.shape
    return x.contiguous(memory_format=torch.channels_last).as_strided(x.shape, (c * h * w, 1, w * c, c))


def to_channels_last(network: nn.Module) -> None:
    """Puts all weights of convolutions in channels-last, in place."""
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = channels_last(parameter.data)
