"""The U-Nets once more, as plain formulas on a dictionary of published names: no modules, no fused operations.

What differs between DDPM++, NCSN++ and ADM is told by `Kind`.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]


class Kind(NamedTuple):
    channels_per_head: int | None = None
    taps: tuple[int, ...] = (1, 1)
    adm: bool = False

    @property
    def eps(self) -> float:
        return 1e-5 if self.adm else 1e-6

    @property
    def skip_scale(self) -> float:
        return 1.0 if self.adm else 1 / math.sqrt(2)


def group_norm(state: State, name: str, x: Tensor, eps: float = 1e-6) -> Tensor:
    n, c, h, w = x.shape
    groups = x.reshape(n, min(32, c // 4), -1)
    mean, var = groups.mean(2, keepdim=True), groups.var(2, correction=0, keepdim=True)
    y = ((groups - mean) / (var + eps).sqrt()).reshape(n, c, h, w)
    return y * state[f"{name}.weight"][:, None, None] + state[f"{name}.bias"][:, None, None]


def conv(state: State, name: str, x: Tensor) -> Tensor:
    weight = state[f"{name}.weight"]
    size = weight.shape[-1]
    patches = F.unfold(x, size, padding=size // 2)
    y = weight.flatten(1) @ patches + state[f"{name}.bias"][:, None]
    return y.reshape(len(x), -1, *x.shape[2:])


def linear(state: State, name: str, x: Tensor) -> Tensor:
    y = x @ state[f"{name}.weight"].T
    return y + state[f"{name}.bias"] if f"{name}.bias" in state else y


def silu(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def halving(size: int, taps: tuple[int, ...], reach: int) -> Tensor:
    """The matrix that filters `size` pixels to half as many; the first output's first tap is at pixel -reach."""
    matrix = torch.zeros((size + 2 * reach - len(taps)) // 2 + 1, size, dtype=torch.float64)
    for row in range(len(matrix)):
        for tap, value in enumerate(taps):
            pixel = 2 * row + tap - reach
            if 0 <= pixel < size:
                matrix[row, pixel] += value / sum(taps)
    return matrix


def resample(name: str, x: Tensor, kind: Kind) -> Tensor:
    reach = len(kind.taps) // 2 - 1
    if name.endswith("_down"):
        matrix = halving(x.shape[-1], kind.taps, reach)
    elif name.endswith("_up"):
        matrix = 2 * halving(2 * x.shape[-1], kind.taps, reach).T
    else:
        return x
    return matrix @ x @ matrix.T


def residual(state: State, name: str, x: Tensor, kind: Kind) -> Tensor:
    """Convolution and filter on an image with zeros around it, put there once."""
    reach = len(kind.taps) // 2 - 1
    bare = {f"{name}.weight": state[f"{name}.weight"], f"{name}.bias": torch.zeros_like(state[f"{name}.bias"])}
    around = [reach] * 4
    y = conv(bare, name, F.pad(x, around))
    matrix = halving(y.shape[-1], kind.taps, 0)
    return matrix @ y @ matrix.T + state[f"{name}.bias"][:, None, None]


def attention(state: State, name: str, x: Tensor, kind: Kind) -> Tensor:
    n, c, h, w = x.shape
    size = kind.channels_per_head or c
    normed = group_norm(state, f"{name}.norm2", x, kind.eps)
    qkv = conv(state, f"{name}.qkv", normed).reshape(n, c // size, size, 3, h * w)
    q, k, v = qkv.unbind(3)
    scores = torch.einsum("nhcq,nhck->nhqk", q, k) / math.sqrt(size)
    weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
    y = torch.einsum("nhqk,nhck->nhcq", weights, v).reshape(n, c, h, w)
    return (x + conv(state, f"{name}.proj", y)) * kind.skip_scale


def block(state: State, name: str, x: Tensor, emb: Tensor, kind: Kind) -> Tensor:
    y = conv(state, f"{name}.conv0", resample(name, silu(group_norm(state, f"{name}.norm0", x, kind.eps)), kind))
    condition = linear(state, f"{name}.affine", emb)[:, :, None, None]
    if kind.adm:
        half = condition.shape[1] // 2
        y = group_norm(state, f"{name}.norm1", y, kind.eps) * (1 + condition[:, :half]) + condition[:, half:]
    else:
        y = group_norm(state, f"{name}.norm1", y + condition, kind.eps)
    y = conv(state, f"{name}.conv1", silu(y))
    skip = resample(name, x, kind)
    if f"{name}.skip.weight" in state:
        skip = conv(state, f"{name}.skip", skip)
    x = (y + skip) * kind.skip_scale
    return attention(state, name, x, kind) if f"{name}.qkv.weight" in state else x


def noise_embedding(state: State, c_noise: Tensor, kind: Kind) -> Tensor:
    """Sines, then cosines; in ADM the other way round, and without the last frequency."""
    if "map_noise.freqs" in state:
        frequencies = 2 * math.pi * state["map_noise.freqs"].to(c_noise)
    else:
        half = state["map_layer0.weight"].shape[1] // 2
        last = half if kind.adm else half - 1
        frequencies = torch.tensor([10_000 ** -(k / last) for k in range(half)], dtype=c_noise.dtype)
    angles = torch.outer(c_noise, frequencies)
    return torch.cat([angles.cos(), angles.sin()] if kind.adm else [angles.sin(), angles.cos()], 1)


def embed(state: State, c_noise: Tensor, labels: Tensor, augment: Tensor | None, kind: Kind) -> Tensor:
    emb, of_label = noise_embedding(state, c_noise, kind), torch.zeros(())
    if "map_label.weight" in state:
        num_classes = state["map_label.weight"].shape[1]
        rows = torch.stack([(torch.arange(num_classes) == label).to(emb) for label in labels])
        of_label = linear(state, "map_label", rows * (1 if kind.adm else math.sqrt(num_classes)))
    if augment is not None:
        emb = emb + linear(state, "map_augment", augment)
    if kind.adm:
        return silu(linear(state, "map_layer1", silu(linear(state, "map_layer0", emb))) + of_label)
    return silu(linear(state, "map_layer1", silu(linear(state, "map_layer0", emb + of_label))))


def unet(state: State, x: Tensor, c_noise: Tensor, labels: Tensor, kind: Kind, augment: Tensor | None = None) -> Tensor:
    """The network's output from its state dictionary alone; every tensor in float64."""
    names = list(dict.fromkeys(".".join(key.split(".")[:2]) for key in state if key[:4] in ("enc.", "dec.")))
    emb = embed(state, c_noise, labels, augment, kind)
    skips: list[Tensor] = []
    aux = x
    for name in names:
        if name.endswith("_aux_norm"):
            x = silu(group_norm(state, name, x))
        elif name.endswith("_conv"):
            x = conv(state, name, x)
        elif name.endswith("_aux_residual"):
            x = aux = (x + residual(state, name, aux, kind)) / math.sqrt(2)
            skips.pop()
        else:
            if name.startswith("dec.") and "_block" in name:
                x = torch.cat([x, skips.pop()], 1)
            x = block(state, name, x, emb, kind)
        if name.startswith("enc."):
            skips.append(x)
    return conv(state, "out_conv", silu(group_norm(state, "out_norm", x, kind.eps))) if kind.adm else x
