"""DDPM++ once more, as plain formulas on a dictionary of published parameter names: no modules, no fused operations."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]


def group_norm(state: State, name: str, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    groups = x.reshape(n, min(32, c // 4), -1)
    mean, var = groups.mean(2, keepdim=True), groups.var(2, correction=0, keepdim=True)
    y = ((groups - mean) / (var + 1e-6).sqrt()).reshape(n, c, h, w)
    return y * state[f"{name}.weight"][:, None, None] + state[f"{name}.bias"][:, None, None]


def conv(state: State, name: str, x: Tensor) -> Tensor:
    weight = state[f"{name}.weight"]
    size = weight.shape[-1]
    patches = F.unfold(x, size, padding=size // 2)
    y = weight.flatten(1) @ patches + state[f"{name}.bias"][:, None]
    return y.reshape(len(x), -1, *x.shape[2:])


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def silu(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def resample(name: str, x: Tensor) -> Tensor:
    if name.endswith("_down"):
        return (x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]) / 4
    if name.endswith("_up"):
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    return x


def attention(state: State, name: str, x: Tensor, channels_per_head: int | None) -> Tensor:
    n, c, h, w = x.shape
    size = channels_per_head or c
    qkv = conv(state, f"{name}.qkv", group_norm(state, f"{name}.norm2", x)).reshape(n, c // size, size, 3, h * w)
    q, k, v = qkv.unbind(3)
    scores = torch.einsum("nhcq,nhck->nhqk", q, k) / math.sqrt(size)
    weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
    y = torch.einsum("nhqk,nhck->nhcq", weights, v).reshape(n, c, h, w)
    return (x + conv(state, f"{name}.proj", y)) / math.sqrt(2)


def block(state: State, name: str, x: Tensor, emb: Tensor, channels_per_head: int | None) -> Tensor:
    y = conv(state, f"{name}.conv0", resample(name, silu(group_norm(state, f"{name}.norm0", x))))
    y = y + linear(state, f"{name}.affine", emb)[:, :, None, None]
    y = conv(state, f"{name}.conv1", silu(group_norm(state, f"{name}.norm1", y)))
    skip = resample(name, x)
    if f"{name}.skip.weight" in state:
        skip = conv(state, f"{name}.skip", skip)
    x = (y + skip) / math.sqrt(2)
    return attention(state, name, x, channels_per_head) if f"{name}.qkv.weight" in state else x


def embed(state: State, c_noise: Tensor, labels: Tensor) -> Tensor:
    width = state["map_layer0.weight"].shape[1]
    half = width // 2
    frequencies = torch.tensor([10_000 ** -(k / (half - 1)) for k in range(half)], dtype=c_noise.dtype)
    angles = torch.outer(c_noise, frequencies)
    emb = torch.cat([angles.sin(), angles.cos()], 1)
    if "map_label.weight" in state:
        num_classes = state["map_label.weight"].shape[1]
        rows = torch.stack([(torch.arange(num_classes) == label).to(emb) for label in labels])
        emb = emb + linear(state, "map_label", rows * math.sqrt(num_classes))
    return silu(linear(state, "map_layer1", silu(linear(state, "map_layer0", emb))))


def ddpmpp(state: State, x: Tensor, c_noise: Tensor, labels: Tensor, channels_per_head: int | None = None) -> Tensor:
    """The network's output from its state dictionary alone; every tensor in float64."""
    names = list(dict.fromkeys(".".join(key.split(".")[:2]) for key in state if key[:4] in ("enc.", "dec.")))
    emb = embed(state, c_noise, labels)
    skips: list[Tensor] = []
    for name in names:
        if name.endswith("_aux_norm"):
            x = silu(group_norm(state, name, x))
        elif name.endswith("_conv"):
            x = conv(state, name, x)
        else:
            if name.startswith("dec.") and "_block" in name:
                x = torch.cat([x, skips.pop()], 1)
            x = block(state, name, x, emb, channels_per_head)
        if name.startswith("enc."):
            skips.append(x)
    return x
