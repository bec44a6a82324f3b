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
_OPERATOR = "sigmasweep::conv3x3"  # of products, (36, C, K)
_TRAINED = "sigmasweep::trained_conv3x3"  # of the weights themselves, (K, C, 3, 3) in float32

torch.library.define(_OPERATOR, "(Tensor x, Tensor weight, Tensor bias) -> Tensor")
torch.library.define(_TRAINED, "(Tensor x, Tensor weight, Tensor bias) -> Tensor")
torch.library.define(f"{_TRAINED}_image_gradient", "(Tensor grad, Tensor weight) -> Tensor")
torch.library.define(f"{_TRAINED}_weight_gradient", "(Tensor x, Tensor grad) -> Tensor")


def _like(x: Tensor, channels: int) -> Tensor:
    n, _, h, w = x.shape
    return torch.empty((n, channels, h, w), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _weight_like(x: Tensor, grad: Tensor) -> Tensor:
    shape = grad.shape[1], x.shape[1], 3, 3
    return torch.empty(shape, dtype=torch.float32, device=x.device, memory_format=torch.channels_last)


torch.library.register_fake(_OPERATOR, lambda x, weight, bias: _like(x, weight.shape[2]))  # noqa: ARG005
torch.library.register_fake(_TRAINED, lambda x, weight, bias: _like(x, weight.shape[0]))  # noqa: ARG005
torch.library.register_fake(f"{_TRAINED}_image_gradient", lambda grad, weight: _like(grad, weight.shape[1]))
torch.library.register_fake(f"{_TRAINED}_weight_gradient", _weight_like)


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
    """A convolution with the parameters of `nn.Conv2d`, for training: answers and gradients take Winograd's way."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K, H, W), channels-last. Under autocast images are of its type, weights are not."""
        if torch.is_autocast_enabled("cpu"):
            x = x.to(torch.get_autocast_dtype("cpu"))
        y: Tensor = torch.ops.sigmasweep.trained_conv3x3(x, self.weight, self.bias)
        return y


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:  # noqa: ARG001
    ctx.save_for_backward(inputs[0], inputs[1])


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
    x, weight = ctx.saved_tensors
    operators = torch.ops.sigmasweep
    images = operators.trained_conv3x3_image_gradient(grad, weight) if ctx.needs_input_grad[0] else None
    return images, operators.trained_conv3x3_weight_gradient(x, grad), grad.sum(dim=(0, 2, 3), dtype=torch.float32)


torch.library.register_autograd(_TRAINED, _gradients, setup_context=_save)


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
