"""EDM2's U-Net once more, as plain formulas on a dictionary of published parameter names: no modules, nothing fused."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.networks.plain_unets import Kind, resample, silu

State = dict[str, Tensor]
BALANCE = 0.3  # of residual branch and attention


def unit(x: Tensor, dim: int) -> Tensor:
    return x / (1e-4 + x.square().mean(dim, keepdim=True).sqrt())


def weight(state: State, name: str) -> Tensor:
    """One row of unit norm an output."""
    rows = state[f"{name}.weight"].flatten(1)
    return unit(rows, 1) / math.sqrt(rows.shape[1])


def conv(state: State, name: str, x: Tensor) -> Tensor:
    size = state[f"{name}.weight"].shape[-1]
    patches = F.unfold(x, size, padding=size // 2)
    return (weight(state, name) @ patches).reshape(len(x), -1, *x.shape[2:])


def act(x: Tensor) -> Tensor:
    return silu(x) / 0.596


def add(a: Tensor, b: Tensor, t: float) -> Tensor:
    return ((1 - t) * a + t * b) / math.sqrt((1 - t) ** 2 + t**2)


def cat(a: Tensor, b: Tensor) -> Tensor:
    """With the balance 1/2: each part at the magnitude that gives both the same share."""
    half = (a.shape[1] + b.shape[1]) / 2
    return torch.cat([a * math.sqrt(half / a.shape[1]), b * math.sqrt(half / b.shape[1])], 1)


def attention(state: State, name: str, x: Tensor, size: int) -> Tensor:
    n, c, h, w = x.shape
    qkv = conv(state, f"{name}.attn_qkv", x).reshape(n, c // size, size, 3, h * w)
    q, k, v = unit(qkv, 2).unbind(3)
    scores = torch.einsum("nhcq,nhck->nhqk", q, k) / math.sqrt(size)
    shares = scores.exp() / scores.exp().sum(-1, keepdim=True)
    y = torch.einsum("nhqk,nhck->nhcq", shares, v).reshape(n, c, h, w)
    return add(x, conv(state, f"{name}.attn_proj", y), BALANCE)


def block(state: State, name: str, x: Tensor, emb: Tensor, size: int, clip: float) -> Tensor:
    x = resample(name, x, Kind())
    skip = conv(state, f"{name}.conv_skip", x) if f"{name}.conv_skip.weight" in state else x
    if name.startswith("enc."):
        x = skip = unit(skip, 1)
    y = conv(state, f"{name}.conv_res0", act(x))
    scale = 1 + state[f"{name}.emb_gain"] * (emb @ weight(state, f"{name}.emb_linear").T)
    y = conv(state, f"{name}.conv_res1", act(y * scale[:, :, None, None]))
    x = add(skip, y, BALANCE)
    if f"{name}.attn_qkv.weight" in state:
        x = attention(state, name, x, size)
    return x.clip(-clip, clip)


def embed(state: State, c_noise: Tensor, labels: Tensor) -> Tensor:
    freqs, phases = state["emb_fourier.freqs"].to(c_noise), state["emb_fourier.phases"].to(c_noise)
    emb = math.sqrt(2) * torch.cos(torch.outer(c_noise, freqs) + phases) @ weight(state, "emb_noise").T
    if "emb_label.weight" in state:
        num_classes = state["emb_label.weight"].shape[1]
        rows = torch.stack([(torch.arange(num_classes) == label).to(emb) for label in labels])
        emb = add(emb, math.sqrt(num_classes) * rows @ weight(state, "emb_label").T, 0.5)
    return act(emb)


def edm2(
    state: State, x: Tensor, c_noise: Tensor, labels: Tensor, channels_per_head: int = 64, clip: float = 256.0
) -> Tensor:
    """The network's output from its state dictionary alone; every tensor in float64."""
    names = list(dict.fromkeys(".".join(key.split(".")[:2]) for key in state if key[:4] in ("enc.", "dec.")))
    emb = embed(state, c_noise, labels)
    x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
    skips: list[Tensor] = []
    for name in names:
        if name.endswith("_conv"):
            x = conv(state, name, x)
        else:
            if name.startswith("dec.") and "_block" in name:
                x = cat(x, skips.pop())
            x = block(state, name, x, emb, channels_per_head, clip)
        if name.startswith("enc."):
            skips.append(x)
    return state["out_gain"] * conv(state, "out_conv", x)
