"""The parts of the magnitude-preserving U-Net: what each puts out has the mean square of what it gets, on expectation.

Source: Karras et al., "Analyzing and Improving the Training Dynamics of Diffusion Models", arXiv 2312.02696, section 2
and appendix B. "Magnitude" is the root of the mean square throughout. Everything works in both memory formats, in
every floating-point type, and under `torch.autocast` and `torch.compile`.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.networks.layers import Resample, dropout, planar, resampling

EPS = 1e-4  # added to a magnitude before dividing by it
SILU_MAGNITUDE = 0.596  # of silu(x), x ~ N(0, 1); the published rounding of 0.59562

Flavor = Literal["enc", "dec"]


def magnitude(x: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """The root of the mean square over some dimensions, which stay with length 1; in float32 at least."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    norm: Tensor = torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=dtype)
    return norm * math.sqrt(norm.numel() / x.numel())


def normalize(x: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Scales to the magnitude 1 (less EPS) over some dimensions."""
    return x / (magnitude(x, dim) + EPS).to(x.dtype)


def mp_silu(x: Tensor) -> Tensor:
    """SiLU, divided by the magnitude that it gives unit normal values."""
    return F.silu(x) / SILU_MAGNITUDE


def mp_sum(a: Tensor, b: Tensor, t: float) -> Tensor:
    """(1 - t) a + t b, divided by what this makes of the magnitude of two unrelated tensors of magnitude 1."""
    length = math.hypot(1 - t, t)
    return a * ((1 - t) / length) + b * (t / length)  # torch 2.13 loses add's `alpha` when it compiles


def mp_cat(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Concatenates channels so that b contributes the share t of the result, seen by a layer, and a the rest.

    The whole keeps the magnitude 1, with a scaled by sqrt(C / C_a) (1 - t) / length and b likewise by t.
    """
    num_a, num_b = a.shape[1], b.shape[1]
    whole = math.sqrt((num_a + num_b) / ((1 - t) ** 2 + t**2))
    return torch.cat([a * (whole * (1 - t) / math.sqrt(num_a)), b * (whole * t / math.sqrt(num_b))], dim=1)


class MPFourier(nn.Module):
    """Random Fourier features sqrt(2) cos(2 pi (f x + phi)) of a number, f ~ N(0, 1), phi ~ U(0, 1).

    Frequencies and phases are drawn from torch's global generator and stored, both times 2 pi. They stay in float32
    when the network is cast, for in bfloat16 the angles would be off by tenths.
    """

    freqs: Tensor
    phases: Tensor

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 2 * math.pi * torch.randn(num_channels))
        self.register_buffer("phases", 2 * math.pi * torch.rand(num_channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N,) -> (N, num_channels), float32, or float64 if x is."""
        x = x if x.dtype == torch.float64 else x.to(torch.float32)
        angles = x[:, None] * self.freqs.to(x.dtype) + self.phases.to(x.dtype)
        return angles.cos() * math.sqrt(2)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "MPFourier":
        before = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in before.items():
            if not buffer.is_meta:
                self._buffers[name] = buffer.to(getattr(self, name).device)
        return self


class MPConv(nn.Module):
    """A convolution that keeps the resolution, or without a kernel size a linear layer; weights of unit norm, no bias.

    Whatever the stored weights, those used are normalized over each output's inputs. `normalize_weights` also makes
    the stored ones so, to be called before each step of training.
    """

    def __init__(self, num_in: int, num_out: int, kernel: int | None = None) -> None:
        super().__init__()
        size = () if kernel is None else (kernel, kernel)
        self.weight = nn.Parameter(torch.randn(num_out, num_in, *size))

    def effective_weight(self, gain: Tensor | float = 1.0) -> Tensor:
        """The weights in use, each output's of norm `gain`; in float32 at least."""
        dims = tuple(range(1, self.weight.dim()))
        weight = self.weight.to(torch.promote_types(self.weight.dtype, torch.float32))
        return normalize(weight, dims) * (gain / math.sqrt(weight[0].numel()))

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        """(N, num_in, ...) -> (N, num_out, ...)."""
        weight = self.effective_weight(gain).to(x.dtype)
        if weight.dim() == 2:
            return F.linear(x, weight)
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2)

    @torch.no_grad()
    def normalize_weights(self) -> None:
        self.weight.copy_(normalize(self.weight, tuple(range(1, self.weight.dim()))))


def normalize_weights(network: nn.Module) -> None:
    """Forced weight normalization: overwrites the weights of every `MPConv` with themselves at magnitude 1.

    Without it the stored weights grow as the training goes on, and its effective learning rate falls unseen. Networks
    without such layers stay as they are.
    """
    for module in network.modules():
        if isinstance(module, MPConv):
            module.normalize_weights()


class MPBlock(nn.Module):
    """The residual block of the magnitude-preserving U-Net, with self-attention where it has heads.

    Args:
        num_in: channels of the input.
        num_out: channels of the output.
        num_emb: width of the embedding of noise level and label; it scales the channels between the convolutions.
        flavor: `enc` brings the channels to `num_out` and normalizes each pixel first; `dec` takes the input as it is.
        resample: halves or doubles the resolution first.
        num_heads: heads of attention over the pixels; 0 for a block without.
        dropout: probability, before the second convolution.
        res_balance: the share of the residual branch in the sum, from 0 to 1.
        attn_balance: the share of the attention.
        clip: activations are cut off at this size.
    """

    def __init__(
        self, num_in: int, num_out: int, num_emb: int, *, flavor: Flavor, resample: Resample = "none", num_heads: int,
        dropout: float, res_balance: float, attn_balance: float, clip: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.flavor = flavor
        self.num_heads = num_heads
        self.dropout = dropout
        self.res_balance, self.attn_balance, self.clip = res_balance, attn_balance, clip
        self.resample = resampling(resample)
        self.emb_gain = nn.Parameter(torch.zeros(()))
        self.conv_res0 = MPConv(num_out if flavor == "enc" else num_in, num_out, kernel=3)
        self.emb_linear = MPConv(num_emb, num_out)
        self.conv_res1 = MPConv(num_out, num_out, kernel=3)
        self.conv_skip = MPConv(num_in, num_out, kernel=1) if num_in != num_out else None
        if num_heads > 0:
            self.attn_qkv = MPConv(num_out, 3 * num_out, kernel=1)
            self.attn_proj = MPConv(num_out, num_out, kernel=1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """x: (N, num_in, H, W), emb: (N, num_emb) -> (N, num_out, H', W')."""
        x = self.resample(x)
        if self.flavor == "enc":
            x = normalize(self._skip(x), dim=1)
        y = self.conv_res0(mp_silu(x))
        scale = self.emb_linear(emb, self.emb_gain) + 1
        y = mp_silu(y * scale[:, :, None, None].to(y.dtype))
        y = self.conv_res1(dropout(y, self.dropout, self.training))
        if self.flavor == "dec":
            x = self._skip(x)
        x = mp_sum(x, y, self.res_balance)
        if self.num_heads > 0:
            x = mp_sum(x, self._attend(x), self.attn_balance)
        return x.clamp(-self.clip, self.clip)

    def _skip(self, x: Tensor) -> Tensor:
        return x if self.conv_skip is None else self.conv_skip(x)

    def _attend(self, x: Tensor) -> Tensor:
        """Cosine attention over pixels. The 1x1 convolutions are done as matrix products on (N, H*W, C)."""
        n, c, h, w = x.shape
        weight = planar(self.attn_qkv.effective_weight().flatten(1), self.num_heads).to(x.dtype)
        rows = F.linear(x.flatten(2).mT, weight).view(n, h * w, 3, self.num_heads, c // self.num_heads)
        q, k, v = normalize(rows, dim=4).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, h * w, c)
        y = F.linear(y, self.attn_proj.effective_weight().flatten(1).to(y.dtype))
        return y.mT.reshape(n, c, h, w)
