"""Group norm of images in channels-last, on a CPU, with what follows it in one pass: scale, shift and SiLU.

Compilers go over images pixel by pixel for it, with a few channels at once. The kernels are `group_norm.cpp`; who uses
them loads them.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.networks.layers import GroupNorm

KERNEL = Path(__file__).with_name("group_norm.cpp")
WIDE = 16  # channels come in multiples of it
_OPERATOR = "sigmasweep::group_norm"

_TRAINED = "sigmasweep::trained_group_norm"
_GIVEN = "Tensor weight, Tensor bias, Tensor? scale, Tensor? shift, int groups"
torch.library.define(_OPERATOR, f"(Tensor x, {_GIVEN}, float eps, bool silu) -> Tensor")
torch.library.define(_TRAINED, f"(Tensor x, {_GIVEN}, float eps, bool silu) -> (Tensor, Tensor)")
torch.library.define(
    f"{_TRAINED}_backward", f"(Tensor grad, Tensor x, Tensor stats, {_GIVEN}, bool silu) -> (Tensor, Tensor)"
)


def _like(x: Tensor, *_: Any) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _two_of_each(x: Tensor) -> Tensor:
    return torch.empty((len(x), 2, x.shape[1]), dtype=torch.float32, device=x.device)


torch.library.register_fake(_OPERATOR, _like)
torch.library.register_fake(_TRAINED, lambda x, *_: (_like(x), _two_of_each(x)))
torch.library.register_fake(f"{_TRAINED}_backward", lambda grad, x, *_: (_like(x), _two_of_each(x)))  # noqa: ARG005


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, bias, scale, shift, ctx.groups, _, ctx.silu = inputs
    ctx.save_for_backward(x, output[1], weight, bias, scale, shift)


def _gradients(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    x, stats, weight, bias, scale, shift = ctx.saved_tensors
    grad = grad.to(x.dtype)
    operands = weight, bias, scale, shift, ctx.groups, ctx.silu
    of_x, sums = torch.ops.sigmasweep.trained_group_norm_backward(grad, x, stats, *operands)
    plain, normed = sums.unbind(1)
    if scale is None:
        return of_x, normed.sum(0).to(weight.dtype), plain.sum(0).to(bias.dtype), None, None, None, None, None
    gain = scale.flatten(1).float() + 1
    of_weight, of_bias = (gain * normed).sum(0).to(weight.dtype), (gain * plain).sum(0).to(bias.dtype)
    of_scale = (weight.float() * normed + bias.float() * plain).reshape(scale.shape).to(scale.dtype)
    return of_x, of_weight, of_bias, of_scale, plain.reshape(shift.shape).to(shift.dtype), None, None, None


torch.library.register_autograd(_TRAINED, _gradients, setup_context=_save)


class NativeGroupNorm(GroupNorm):
    """A group norm with the same parameters, for inference, of images in float32 or bfloat16; inside all is float32."""

    def forward(
        self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None, *, silu: bool = False
    ) -> Tensor:
        operands = (self.weight, self.bias, scale, shift, self.num_groups, self.eps, silu)
        y: Tensor = torch.ops.sigmasweep.group_norm(x, *operands)
        return y


class TrainedGroupNorm(GroupNorm):
    """The same, with gradients."""

    def forward(
        self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None, *, silu: bool = False
    ) -> Tensor:
        operands = (self.weight, self.bias, scale, shift, self.num_groups, self.eps, silu)
        y: Tensor = torch.ops.sigmasweep.trained_group_norm(x, *operands)[0]
        return y


def use_native_norms(network: nn.Module, kind: type[GroupNorm] = NativeGroupNorm) -> int:
    """Lets the group norms of a network that fit take this way; how many these are."""
    found = [layer for layer in network.modules() if type(layer) is GroupNorm and layer.num_channels % WIDE == 0]
    for layer in found:
        layer.__class__ = kind
    return len(found)
