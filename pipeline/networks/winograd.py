"""3x3 convolutions with fewer multiplications, on a CPU: Winograd's F(4x4, 3x3).

Source: Lavin and Gray 2015, arXiv 1509.09308. 4x4 pixels of output take 36 products a pair of channels, where the
definition takes 144. Linear maps carry 6x6 pixels of input and 3x3 weights there, and the products back:

    Y = M^T [(G g G^T) . (D d D^T)] M        (. element by element, summed over channels)

They follow from points at which polynomials are evaluated. The usual 0, +-1, +-2 and infinity lose a digit; with
0, +-5/8, +-3/2 the error in float32 is that of the definition. The kernel is `winograd.cpp`; who uses it loads it.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

KERNEL = Path(__file__).with_name("winograd.cpp")
POINTS = (0.0, 0.625, -0.625, 1.5, -1.5)
WIDE = 16  # channels come in multiples of it
LEAST = 32  # channels, below which the definition is as fast
_OPERATOR = "sigmasweep::conv3x3"

torch.library.define(_OPERATOR, "(Tensor x, Tensor weight, Tensor bias) -> Tensor")


@torch.library.register_fake(_OPERATOR)  # type: ignore[untyped-decorator]
def _shape_of(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # noqa: ARG001
    n, _, h, w = x.shape
    return torch.empty((n, weight.shape[2], h, w), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def weight_map() -> Tensor:
    """G: from 3 weights to 6 products; float64, (6, 3). A row is a point's powers, by its distances to the others."""
    rows = [[p**i / math.prod(p - q for q in POINTS if q != p) for i in range(3)] for p in POINTS]
    return torch.tensor([*rows, [0.0, 0.0, 1.0]], dtype=torch.float64)


def transformed(weight: Tensor) -> Tensor:
    """G g G^T for each pair of channels: (K, C, 3, 3) -> float32 (36, C, K)."""
    g = weight_map().float()
    outputs, inputs = weight.shape[:2]
    pairs = weight.float().permute(2, 3, 1, 0).reshape(3, 3, inputs * outputs)
    with torch.autocast("cpu", enabled=False):
        half = torch.einsum("ir,rsn->isn", g, pairs)
        return torch.einsum("js,isn->ijn", g, half).reshape(36, inputs, outputs)


class WinogradConv2d(nn.Module):
    """A convolution in float32, of images in float32 or bfloat16, for inference.

    Args:
        layer: the convolution that it computes; see `fits`.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        bias = torch.zeros(layer.out_channels) if layer.bias is None else layer.bias.detach().float()
        self.weight = nn.Parameter(transformed(layer.weight.detach()), requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K, H, W), channels-last."""
        y: Tensor = torch.ops.sigmasweep.conv3x3(x, self.weight, self.bias)
        return y

    def _apply(self, fn: Any, recurse: bool = True) -> "WinogradConv2d":
        """Moves with the network but stays float32: rounded, the products would lose what the sums cannot give back."""
        before = self.weight.data, self.bias.data
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for parameter, data in zip((self.weight, self.bias), before, strict=True):
            if parameter.dtype != torch.float32:
                parameter.data = data.to(parameter.device)
        return self


class TrainedWinogradConv2d(nn.Conv2d):
    """A convolution with the parameters of `nn.Conv2d`, for training: answers and gradients of images take Winograd's
    way, gradients of weights torch's."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K, H, W), channels-last; under autocast in its type."""
        y: Tensor = _convolution(x, self.weight, self.bias)
        return y


@torch.library.custom_op("sigmasweep::trained_conv3x3", mutates_args=())
def _convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """An operator of its own, which the compiler leaves whole."""
    y: Tensor = torch.ops.sigmasweep.conv3x3(x, transformed(weight), bias.float())
    return y


@_convolution.register_fake
def _shape_of_convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # noqa: ARG001
    n, _, h, w = x.shape
    return torch.empty((n, len(weight), h, w), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:  # noqa: ARG001
    ctx.save_for_backward(inputs[0], inputs[1])


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
    x, weight = ctx.saved_tensors
    images = None
    if ctx.needs_input_grad[0]:
        turned = weight.flip(2, 3).transpose(0, 1)
        images = _convolution(grad, turned, grad.new_zeros(len(turned)))
    one = [1, 1]
    _, weights, bias = torch.ops.aten.convolution_backward(
        grad, x, weight, [len(weight)], one, one, one, False, [0, 0], 1, [False, True, True]
    )
    return images, weights, bias


_convolution.register_autograd(_gradients, setup_context=_save)
_convolution.register_autocast("cpu", torch.bfloat16)


def fits(layer: nn.Module) -> bool:
    """Whether a layer is a convolution that `WinogradConv2d` computes, and faster."""
    if type(layer) is not nn.Conv2d or layer.padding_mode != "zeros":
        return False
    channels = (layer.in_channels, layer.out_channels)
    shape = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups)
    plain = shape == ((3, 3), (1, 1), (1, 1), (1, 1), 1)
    return plain and min(channels) >= LEAST and all(channel % WIDE == 0 for channel in channels)


def train_with_winograd(network: nn.Module) -> int:
    """Lets the convolutions of a network that fit take this way in training; parameters stay what they are."""
    found = [layer for layer in network.modules() if fits(layer) and layer.bias is not None]
    for layer in found:
        layer.__class__ = TrainedWinogradConv2d
    return len(found)


def use_winograd(network: nn.Module) -> int:
    """Exchanges the convolutions of a network that fit, in place; how many these were."""
    count = 0
    for name, layer in network.named_children():
        if fits(layer):
            setattr(network, name, WinogradConv2d(layer))  # type: ignore[arg-type]
            count += 1
        else:
            count += use_winograd(layer)
    return count
