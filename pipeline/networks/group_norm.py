"""Group norm of images in channels-last, on a CPU, with what follows it in one pass: scale, shift and SiLU.

Compilers go over images pixel by pixel for it, with a few channels at once. The kernel is `group_norm.cpp`; who uses it
loads it.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.networks.layers import GroupNorm

KERNEL = Path(__file__).with_name("group_norm.cpp")
WIDE = 16  # channels come in multiples of it
_OPERATOR = "sigmasweep::group_norm"

torch.library.define(
    _OPERATOR,
    "(Tensor x, Tensor weight, Tensor bias, Tensor? scale, Tensor? shift, int groups, float eps, bool silu) -> Tensor",
)


def _like(x: Tensor, *_: Any) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


torch.library.register_fake(_OPERATOR, _like)


class NativeGroupNorm(GroupNorm):
    """A group norm with the same parameters, for inference, of images in float32 or bfloat16; inside all is float32."""

    def forward(
        self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None, *, silu: bool = False
    ) -> Tensor:
        operands = (self.weight, self.bias, scale, shift, self.num_groups, self.eps, silu)
        y: Tensor = torch.ops.sigmasweep.group_norm(x, *operands)
        return y


def use_native_norms(network: nn.Module) -> int:
    """Lets the group norms of a network that fit take this way; how many these are."""
    found = [layer for layer in network.modules() if type(layer) is GroupNorm and layer.num_channels % WIDE == 0]
    for layer in found:
        layer.__class__ = NativeGroupNorm
    return len(found)
