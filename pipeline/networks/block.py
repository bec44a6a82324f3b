"""The residual block of the U-Nets, with self-attention."""

import math
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.networks.layers import (
    BOX,
    NEAR_ZERO,
    NORM_EPS,
    SKIP_SCALE,
    Init,
    Resample,
    conv,
    dropout,
    group_norm,
    linear,
    planar,
    resampling,
)


@dataclass(frozen=True)
class Style:
    """What all blocks of a network have in common. The defaults are those of DDPM++ (arXiv 2206.00364, table 7).

    Args:
        num_emb: width of the embedding of noise level and label.
        dropout: probability, before the second convolution.
        taps: of the filter that halves and doubles the resolution.
        adaptive: the embedding scales and shifts the second norm's output, instead of being added before it.
        project: whether the skip path has a convolution wherever the resolution changes, or only where channels do.
        skip_scale: what the sums of the two paths are multiplied with.
        norm_eps: of the group norms.
        init: how weights begin.
        init_attention: gain of the attention's first layer.
        init_last: gain of the layers that end a path.
    """

    num_emb: int
    dropout: float
    taps: tuple[int, ...] = BOX
    adaptive: bool = False
    project: bool = True
    skip_scale: float = SKIP_SCALE
    norm_eps: float = NORM_EPS
    init: Init = "xavier"
    init_attention: float = math.sqrt(0.2)
    init_last: float = NEAR_ZERO


class Block(nn.Module):
    """The residual block of the U-Nets: norm, SiLU, convolution, twice; then self-attention where it has heads.

    Args:
        num_in: channels of the input.
        num_out: channels of the output.
        style: of the network.
        num_heads: heads of attention over the pixels; 0 for a block without.
        resample: halves or doubles the resolution before the first convolution, and on the skip path.
    """

    def __init__(
        self, num_in: int, num_out: int, style: Style, num_heads: int = 0, resample: Resample = "none"
    ) -> None:
        super().__init__()
        self.style = style
        self.num_heads = num_heads
        self.resample = resampling(resample, style.taps)
        self.norm0 = group_norm(num_in, style.norm_eps)
        self.conv0 = conv(num_in, num_out, kernel=3, init=style.init)
        self.affine = linear(style.num_emb, num_out * (2 if style.adaptive else 1), init=style.init)
        self.norm1 = group_norm(num_out, style.norm_eps)
        self.conv1 = conv(num_out, num_out, kernel=3, gain=style.init_last, init=style.init)
        self.skip: nn.Module = nn.Identity()
        if num_in != num_out or (style.project and resample != "none"):
            self.skip = conv(num_in, num_out, kernel=1, init=style.init)
        if num_heads > 0:
            self.norm2 = group_norm(num_out, style.norm_eps)
            self.qkv = conv(num_out, 3 * num_out, kernel=1, gain=style.init_attention, init=style.init)
            self.proj = conv(num_out, num_out, kernel=1, gain=style.init_last, init=style.init)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """x: (N, num_in, H, W), emb: (N, num_emb) -> (N, num_out, H', W')."""
        y = self.conv0(self.resample(self.norm0(x, silu=True)))
        y = self._condition(y, self.affine(emb)[:, :, None, None])
        y = dropout(y, self.style.dropout, self.training)
        x = self.conv1(y).add_(self.skip(self.resample(x))).mul_(self.style.skip_scale)
        if self.num_heads > 0:
            x = (x + self._attend(self.norm2(x))).mul_(self.style.skip_scale)
        return x

    def _condition(self, y: Tensor, emb: Tensor) -> Tensor:
        """The second norm and its SiLU, with the embedding, (N, num_out, 1, 1) or twice as many channels, before or
        after it."""
        if not self.style.adaptive:
            y += emb
            y = self.norm1(y, silu=True)
        else:
            y = self.norm1(y, *emb.chunk(2, dim=1), silu=True)
        return y

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
