"""The parts of the U-Nets: initialized layers, embeddings of noise level and label, the residual block with attention.

Parameters have the names, shapes and order of channels of the networks of "Elucidating the Design Space of
Diffusion-Based Generative Models" (arXiv 2206.00364, appendix F.2), so that their weights fit without reshaping.
Everything works in both memory formats (contiguous, channels-last), in every floating-point type, and under
`torch.autocast` and `torch.compile`.
"""

import math
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SKIP_SCALE = math.sqrt(0.5)  # keeps the variance where two signals of equal variance are added
NORM_EPS = 1e-6
NEAR_ZERO = 1e-5  # gain of a layer that should begin as (almost) nothing

Resample = Literal["none", "down", "up"]


def _initialize(layer: nn.Conv2d | nn.Linear, gain: float) -> None:
    nn.init.xavier_uniform_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def conv(num_in: int, num_out: int, kernel: int, gain: float = 1.0) -> nn.Conv2d:
    """A convolution of odd kernel size that keeps the resolution; Xavier-uniform weights times `gain`, biases zero."""
    layer = nn.Conv2d(num_in, num_out, kernel, padding=kernel // 2)
    _initialize(layer, gain)
    return layer


def linear(num_in: int, num_out: int, gain: float = 1.0) -> nn.Linear:
    """A linear layer; Xavier-uniform weights times `gain`, biases zero."""
    layer = nn.Linear(num_in, num_out)
    _initialize(layer, gain)
    return layer


def group_norm(num_channels: int) -> nn.GroupNorm:
    """Group norm with min(32, channels / 4) groups, or the largest number below it that divides the channels."""
    most = max(1, min(32, num_channels // 4))
    num_groups = next(groups for groups in range(most, 0, -1) if num_channels % groups == 0)
    return nn.GroupNorm(num_groups, num_channels, eps=NORM_EPS)


def silu_(x: Tensor) -> Tensor:
    """SiLU of a tensor that nothing else reads: in place where no gradient is wanted, which saves an allocation."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


def resampling(mode: Resample) -> nn.Module:
    """Halves or doubles the resolution with the box filter [1, 1]: the average of 2x2 pixels, or the nearest pixel."""
    if mode == "down":
        return nn.AvgPool2d(2)
    if mode == "up":
        return nn.Upsample(scale_factor=2, mode="nearest")
    return nn.Identity()


def positional_embedding(c_noise: Tensor, num_channels: int, max_positions: float = 10_000.0) -> Tensor:
    """Sines, then cosines, of `c_noise` at frequencies from 1 down to 1/max_positions, both reached ("endpoint" style).

    Frequencies are computed where they are used and in float32 at least, for a buffer would be rounded with
    the network: in bfloat16 a c_noise near 1000 would be off by whole periods.

    Args:
        c_noise: the network's noise condition, shape (N,).
        num_channels: width, even and at least 4.
        max_positions: the ratio of the largest to the smallest frequency.

    Returns:
        Shape (N, num_channels), float32, or float64 if `c_noise` is.
    """
    positions = c_noise if c_noise.dtype == torch.float64 else c_noise.to(torch.float32)
    half = num_channels // 2
    exponents = torch.arange(half, dtype=positions.dtype, device=positions.device) / (half - 1)
    angles = positions[:, None] * torch.pow(1.0 / max_positions, exponents)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def one_hot(labels: Tensor | None, num_classes: int, like: Tensor) -> Tensor:
    """Labels as rows with one entry sqrt(num_classes), so of mean square 1; all zero where there is no label.

    Labels are not checked, since reading them back would stall the device: that they lie in -1..num_classes-1 is the
    caller's to see to.

    Args:
        labels: int64, shape (N,), -1 for none; None is -1 for all.
        num_classes: width of a row.
        like: any tensor of N rows whose type and device the result takes.

    Returns:
        Shape (N, num_classes).
    """
    if labels is None:
        return like.new_zeros(len(like), num_classes)
    classes = torch.arange(num_classes, device=labels.device)
    return (labels[:, None] == classes).to(like.dtype) * math.sqrt(num_classes)


def planar(rows: Tensor, num_heads: int) -> Tensor:
    """Reorders rows from (head, channel, [query, key, value]), as published, to ([query, key, value], head, channel).

    Attention on the interleaved values is 2-3 times slower on a CPU, where moving the rows of the small tensor that
    makes them (the weight, not the activations) costs next to nothing.
    """
    return rows.reshape(num_heads, -1, 3, *rows.shape[1:]).movedim(2, 0).flatten(0, 2)


def check_shape(resolution: int, channels: int, num_classes: int) -> None:
    """Raises ValueError unless a network can be built for images and labels of this shape."""
    for name, value in (("resolution", resolution), ("channels", channels), ("num_classes", num_classes)):
        least = 0 if name == "num_classes" else 1
        if value < least:
            raise ValueError(f"{name}: must be at least {least} (got {value})")


class Block(nn.Module):
    """The residual block of the U-Nets: norm, SiLU, convolution, twice; then self-attention where it has heads.

    Args:
        num_in: channels of the input.
        num_out: channels of the output.
        num_emb: width of the embedding of noise level and label; it is added between the convolutions.
        resample: halves or doubles the resolution before the first convolution, and on the skip path.
        num_heads: heads of attention over the pixels; 0 for a block without.
        dropout: probability, before the second convolution.
    """

    def __init__(
        self, num_in: int, num_out: int, num_emb: int, *, resample: Resample = "none", num_heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.resample = resampling(resample)
        self.norm0 = group_norm(num_in)
        self.conv0 = conv(num_in, num_out, kernel=3)
        self.affine = linear(num_emb, num_out)
        self.norm1 = group_norm(num_out)
        self.conv1 = conv(num_out, num_out, kernel=3, gain=NEAR_ZERO)
        self.skip: nn.Module = nn.Identity()
        if num_in != num_out or resample != "none":
            self.skip = conv(num_in, num_out, kernel=1)
        if num_heads > 0:
            self.norm2 = group_norm(num_out)
            self.qkv = conv(num_out, 3 * num_out, kernel=1, gain=math.sqrt(0.2))
            self.proj = conv(num_out, num_out, kernel=1, gain=NEAR_ZERO)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """x: (N, num_in, H, W), emb: (N, num_emb) -> (N, num_out, H', W')."""
        y = self.conv0(self.resample(silu_(self.norm0(x))))
        y += self.affine(emb)[:, :, None, None]
        y = F.dropout(silu_(self.norm1(y)), self.dropout, self.training)
        x = self.conv1(y).add_(self.skip(self.resample(x))).mul_(SKIP_SCALE)
        if self.num_heads > 0:
            x = (x + self._attend(self.norm2(x))).mul_(SKIP_SCALE)
        return x

    def _attend(self, x: Tensor) -> Tensor:
        """Self-attention over pixels. The 1x1 convolutions are done as matrix products on (N, H*W, C)."""
        n, c, h, w = x.shape
        size = c // self.num_heads
        weight = planar(self.qkv.weight.flatten(1), self.num_heads)
        bias = planar(cast(Tensor, self.qkv.bias), self.num_heads)
        rows = F.linear(x.flatten(2).mT, weight, bias).view(n, h * w, 3, self.num_heads, size)
        q, k, v = rows.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, h * w, c)
        y = F.linear(y, self.proj.weight.flatten(1), self.proj.bias)
        return y.mT.reshape(n, c, h, w)
