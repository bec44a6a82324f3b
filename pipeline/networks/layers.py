"""The parts of the U-Nets: initialized layers, resampling, embeddings of noise level and label.

Parameters have the names, shapes and order of channels of the networks of "Elucidating the Design Space of
Diffusion-Based Generative Models" (arXiv 2206.00364, appendix F.2), so that their weights fit without reshaping.
Everything works in both memory formats (contiguous, channels-last), in every floating-point type, and under
`torch.autocast` and `torch.compile`.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SKIP_SCALE = math.sqrt(0.5)  # keeps the variance where two signals of equal variance are added
NORM_EPS = 1e-6
MAX_LAYERS = 1000  # of a level: what a file may ask for
NEAR_ZERO = 1e-5  # gain of a layer that should begin as (almost) nothing

Resample = Literal["none", "down", "up"]
Init = Literal["xavier", "fan_in"]
"""How weights begin: uniform with Xavier's bound and biases zero, or, biases too, uniform within 1 / sqrt(inputs)."""


def _initialize(layer: nn.Conv2d | nn.Linear, gain: float, init: Init) -> None:
    if init == "xavier":
        nn.init.xavier_uniform_(layer.weight, gain)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    elif gain != 1:  # torch's own beginning is the other one
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.mul_(gain)


def conv(num_in: int, num_out: int, kernel: int, gain: float = 1.0, init: Init = "xavier") -> nn.Conv2d:
    """A convolution of odd kernel size that keeps the resolution; its weights begin as `Init` says, times `gain`."""
    layer = nn.Conv2d(num_in, num_out, kernel, padding=kernel // 2)
    _initialize(layer, gain, init)
    return layer


def linear(num_in: int, num_out: int, gain: float = 1.0, init: Init = "xavier", *, bias: bool = True) -> nn.Linear:
    """A linear layer; its weights begin as `Init` says, times `gain`."""
    layer = nn.Linear(num_in, num_out, bias=bias)
    _initialize(layer, gain, init)
    return layer


class GroupNorm(nn.GroupNorm):
    """Group norm, with what may follow it: a scale and a shift of each image's channels, and SiLU."""

    def forward(
        self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None, *, silu: bool = False
    ) -> Tensor:
        """x: (N, C, H, W), scale and shift: (N, C, 1, 1), both or none -> silu(norm(x) (1 + scale) + shift)."""
        y = super().forward(x)
        if scale is not None and shift is not None:
            y = torch.addcmul(shift, y, scale + 1)
        return silu_(y) if silu else y


def group_norm(num_channels: int, eps: float = NORM_EPS) -> GroupNorm:
    """Group norm with min(32, channels / 4) groups, or the largest number below it that divides the channels."""
    most = max(1, min(32, num_channels // 4))
    num_groups = next(groups for groups in range(most, 0, -1) if num_channels % groups == 0)
    return GroupNorm(num_groups, num_channels, eps=eps)


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """torch's dropout; compiled for a CPU, with bits that cost less.

    There the compiler draws element by element (Philox, ten rounds, no vector instructions), which takes as long as a
    convolution. A hash of the element's place and of a number of torch's generator does for a mask.
    """
    if training and p > 0 and torch.compiler.is_compiling() and x.device.type == "cpu":
        return torch.where(_hashed(x) >= round(p * 2**32) - 2**31, x / (1 - p), 0)
    return F.dropout(x, p, training)


def _hashed(x: Tensor) -> Tensor:
    """An int32 for every element of (N, C, H, W): Wellons' hash lowbias32 of its place and a key. Of the masks of
    two keys one may be the other, moved along; with as many elements as images have, that is one pair of thousands."""
    n, c, h, w = x.shape
    key = torch.randint(-(2**31), 2**31, (1,), dtype=torch.int32, device=x.device)
    bits = torch.arange(x.numel(), dtype=torch.int32, device=x.device).view(n, h, w, c).permute(0, 3, 1, 2) + key
    bits = (bits ^ (bits >> 16 & 0xFFFF)) * 0x7FEB352D
    bits = (bits ^ (bits >> 15 & 0x1FFFF)) * (0x846CA68B - 2**32)
    return bits ^ (bits >> 16 & 0xFFFF)


def silu_(x: Tensor) -> Tensor:
    """SiLU of a tensor that nothing else reads: in place where no gradient is wanted, which saves an allocation."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


BOX = (1, 1)
FIR = (1, 3, 3, 1)


def resampling(mode: Resample, taps: tuple[int, ...] = BOX) -> nn.Module:
    """Halves or doubles the resolution with a filter, given by its taps along one axis; beyond the border is zero.

    With the box filter that is the average of 2x2 pixels, or the nearest pixel.
    """
    if mode == "none":
        return nn.Identity()
    if taps != BOX:
        return Filter(mode, taps)
    return nn.AvgPool2d(2) if mode == "down" else nn.Upsample(scale_factor=2, mode="nearest")


class Filter(nn.Module):
    """Halves or doubles the resolution of every channel with a symmetric filter of even length.

    Args:
        mode: "down" or "up".
        taps: of the filter along one axis; they are scaled so that a constant stays what it is.
        overlap: how far the filter reaches over the border; None for as far as makes the resolution half or double.
    """

    kernel: Tensor

    def __init__(self, mode: Resample, taps: tuple[int, ...], overlap: int | None = None) -> None:
        super().__init__()
        self.up = mode == "up"
        self.overlap = len(taps) // 2 - 1 if overlap is None else overlap
        row = torch.tensor(taps, dtype=torch.float32)
        row = row * ((2 if self.up else 1) / sum(taps))
        # Made by the settings, so no part of the weights; of [1, 3, 3, 1] every type holds it exactly.
        self.register_buffer("kernel", torch.outer(row, row)[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H', W')."""
        num = x.shape[1]
        kernel = self.kernel.to(x.dtype).expand(num, -1, -1, -1)
        function = F.conv_transpose2d if self.up else F.conv2d
        out: Tensor = function(x, kernel, stride=2, padding=self.overlap, groups=num)
        return out


def positional_embedding(
    c_noise: Tensor, num_channels: int, max_positions: float = 10_000.0, *, endpoint: bool = True
) -> Tensor:
    """Sines, then cosines, of `c_noise` at frequencies from 1 down to 1/max_positions.

    Frequencies are computed where they are used and in float32 at least, for a buffer would be rounded with
    the network: in bfloat16 a c_noise near 1000 would be off by whole periods.

    Args:
        c_noise: the network's noise condition, shape (N,).
        num_channels: width, even and at least 4.
        max_positions: the ratio of the largest to the smallest frequency.
        endpoint: whether the smallest frequency is reached, or is the one that would follow the last.

    Returns:
        Shape (N, num_channels), float32, or float64 if `c_noise` is.
    """
    positions = c_noise if c_noise.dtype == torch.float64 else c_noise.to(torch.float32)
    half = num_channels // 2
    exponents = torch.arange(half, dtype=positions.dtype, device=positions.device) / (half - endpoint)
    angles = positions[:, None] * torch.pow(1.0 / max_positions, exponents)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class FourierEmbedding(nn.Module):
    """Sines, then cosines, of 2 pi f c_noise at random f ~ N(0, scale^2), drawn once and kept in the weights.

    Source: Tancik et al. 2020, arXiv 2006.10739; with scale 16 in Song et al. 2021, arXiv 2011.13456.

    Args:
        num_channels: width, even.
        scale: standard deviation of the frequencies.
    """

    freqs: Tensor

    def __init__(self, num_channels: int, scale: float = 16.0) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.randn(num_channels // 2) * scale)

    def forward(self, c_noise: Tensor) -> Tensor:
        """(N,) -> (N, num_channels), float32, or float64 if `c_noise` is."""
        positions = c_noise if c_noise.dtype == torch.float64 else c_noise.to(torch.float32)
        angles = positions[:, None] * (2 * math.pi * self.freqs.to(positions.dtype))
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    def _apply(self, fn: Any, recurse: bool = True) -> "FourierEmbedding":
        """Moves with the network but keeps its type: in bfloat16 the frequencies would be off by whole periods."""
        before = self.freqs
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.freqs = self.freqs if self.freqs.dtype == before.dtype else before.to(self.freqs.device)
        return self


def one_hot(labels: Tensor | None, num_classes: int, like: Tensor, entry: float | None = None) -> Tensor:
    """Labels as rows with one entry sqrt(num_classes), so of mean square 1; all zero where there is no label.

    Labels are not checked, since reading them back would stall the device: that they lie in -1..num_classes-1 is the
    caller's to see to.

    Args:
        labels: int64, shape (N,), -1 for none; None is -1 for all.
        num_classes: width of a row.
        like: any tensor of N rows whose type and device the result takes.
        entry: another value than sqrt(num_classes).

    Returns:
        Shape (N, num_classes).
    """
    if labels is None:
        return like.new_zeros(len(like), num_classes)
    classes = torch.arange(num_classes, device=labels.device)
    return (labels[:, None] == classes).to(like.dtype) * (math.sqrt(num_classes) if entry is None else entry)


def as_condition(augment: Tensor | None, num: int, like: Tensor) -> Tensor:
    """The augmentation's numbers, shape (N, num), in the type and on the device of `like`; None is zeros."""
    return like.new_zeros(len(like), num) if augment is None else augment.to(like)


def planar(rows: Tensor, num_heads: int) -> Tensor:
    """Reorders rows from (head, channel, [query, key, value]), as published, to ([query, key, value], head, channel).

    Attention on the interleaved values is 2-3 times slower on a CPU, where moving the rows of the small tensor that
    makes them (the weight, not the activations) costs next to nothing.
    """
    return rows.reshape(num_heads, -1, 3, *rows.shape[1:]).movedim(2, 0).flatten(0, 2)


def check_depth(name: str, count: int) -> None:
    """Raises ValueError where a network would have so many layers that nobody means it; somebody's file may say so."""
    if count > MAX_LAYERS:
        raise ValueError(f"{name}: must be at most {MAX_LAYERS} (got {count})")


def check_shape(resolution: int, channels: int, num_classes: int) -> None:
    """Raises ValueError unless a network can be built for images and labels of this shape."""
    for name, value in (("resolution", resolution), ("channels", channels), ("num_classes", num_classes)):
        least = 0 if name == "num_classes" else 1
        if value < least:
            raise ValueError(f"{name}: must be at least {least} (got {value})")
