"""The U-Nets of NVlabs' pickles: DDPM++, NCSN++ (SongUNet), ADM (DhariwalUNet) and EDM2's (UNet).

Settings are found from the names and shapes of parameters, which are ours too; so nothing hangs on how a constructor
was called. What is left out of the weights is said by the caller.
"""

import math
import re
from typing import Any, TypedDict

import torch
from torch import Tensor

from pipeline.networks import ADM, EDM2, DDPMpp, NCSNpp, Network
from pipeline.networks.layers import SKIP_SCALE
from pipeline.training.importing.found import NotRecognisedError
from pipeline.training.importing.tree import Shape, Tree

_BLOCK = re.compile(r"(enc|dec)\.(?P<size>\d+)x(?P=size)_(block\d+|down|up|in0|in1)")
_DROPPED = ("resample_filter", "map_augment.weight")  # constants; a condition that is zero when sampling
_FIR = torch.tensor([1.0, 3.0, 3.0, 1.0])
_BOX = torch.ones(2)


class _Settings(TypedDict):
    """What all U-Nets have."""

    model_channels: int
    channel_mult: tuple[int, ...]
    num_blocks: int
    attn_resolutions: tuple[int, ...]
    dropout: float


def song_unet(tree: Tree, shape: Shape) -> tuple[Network, dict[str, Tensor]]:
    """DDPM++ or NCSN++, told apart by the embedding of the noise level.

    Raises:
        NotRecognisedError: it is of neither flavour.
    """
    embedding = tree.modules.get("map_noise", "nothing")
    if embedding not in ("PositionalEmbedding", "FourierEmbedding"):
        raise NotRecognisedError(
            f"holds a SongUNet with an embedding of noise by {embedding[:100]}, which is not known"
        )
    is_ncsn = embedding == "FourierEmbedding"
    sizes = _sizes(tree, shape.resolution)
    _check_song(tree, sizes, is_ncsn=is_ncsn)
    width = tree.shape(f"enc.{sizes[0]}_conv.weight", 4)[0]
    num_emb, num_noise = tree.shape("map_layer0.weight", 2)
    common = _settings(tree, sizes, width, "conv1", "qkv")
    heads, mult_emb, mult_noise = (
        _channels_per_head(tree, "qkv", "proj"),
        _ratio(num_emb, width),
        _ratio(num_noise, width),
    )
    if is_ncsn:
        network: Network = NCSNpp(
            **common, channels_per_head=heads, channel_mult_emb=mult_emb, channel_mult_noise=mult_noise
        )
    elif mult_noise == 1:
        network = DDPMpp(**common, channels_per_head=heads, channel_mult_emb=mult_emb)
    else:
        raise NotRecognisedError("holds a SongUNet whose positional embedding is wider than its first level")
    return network, _weights(tree, f"dec.{sizes[0]}_aux_conv", shape)


def dhariwal_unet(tree: Tree, shape: Shape) -> tuple[Network, dict[str, Tensor]]:
    """ADM."""
    sizes = _sizes(tree, shape.resolution)
    num_emb, width = tree.shape("map_layer0.weight", 2)
    common = _settings(tree, sizes, width, "conv1", "qkv")
    heads = _channels_per_head(tree, "qkv", "proj")
    _check_scale(tree, 1.0)
    network = ADM(**common, channels_per_head=heads, channel_mult_emb=_ratio(num_emb, width))
    return network, _weights(tree, "out_conv", shape)


def edm2_unet(tree: Tree, shape: Shape) -> tuple[Network, dict[str, Tensor]]:
    """EDM2's. Its `model_channels` are known up to a factor, which changes nothing of the network."""
    sizes = _sizes(tree, shape.resolution)
    if any(tree.settings[name].get("resample_filter", [1, 1]) != [1, 1] for name in _blocks(tree)):
        raise NotRecognisedError("holds a UNet (EDM2) with other filters than [1, 1]")
    widths = [tree.shape(f"enc.{size}_block0.conv_res1.weight", 4)[0] for size in sizes]
    num_emb, num_noise = tree.shape("emb_noise.weight", 2)
    width = math.gcd(*widths, *([num_emb] if num_emb != max(widths) else []))
    width = math.gcd(width, num_noise) if num_noise != widths[0] else width
    common = _settings(tree, sizes, width, "conv_res1", "attn_qkv")
    network = EDM2(
        **common,
        channels_per_head=_channels_per_head(tree, "attn_qkv", "attn_proj", always=True) or widths[-1],
        channel_mult_noise=None if num_noise == widths[0] else _ratio(num_noise, width),
        channel_mult_emb=None if num_emb == max(widths) else _ratio(num_emb, width),
        label_balance=_of(tree, [""], "label_balance", 0.5),
        concat_balance=_of(tree, [""], "concat_balance", 0.5),
        res_balance=_of(tree, _blocks(tree), "res_balance", 0.3),
        attn_balance=_of(tree, _blocks(tree), "attn_balance", 0.3),
        clip=_of(tree, _blocks(tree), "clip_act", 256.0),
    )
    return network, _weights(tree, "out_conv", shape)


def _settings(tree: Tree, sizes: list[str], width: int, conv: str, qkv: str) -> _Settings:
    return {
        "model_channels": width,
        "channel_mult": tuple(_ratio(tree.shape(f"enc.{size}_block0.{conv}.weight", 4)[0], width) for size in sizes),
        "num_blocks": sum(bool(re.fullmatch(rf"enc\.{sizes[0]}_block\d+", name)) for name in tree.modules),
        "attn_resolutions": tuple(
            int(size.split("x")[0]) for size in sizes if f"enc.{size}_block0.{qkv}.weight" in tree.tensors
        ),
        "dropout": _dropout(tree),
    }


def _weights(tree: Tree, last: str, shape: Shape) -> dict[str, Tensor]:
    """All but constants. Of iDDPM's last layer the second half is a learned variance, which is not used."""
    weights = {name: value for name, value in tree.tensors.items() if not name.endswith(_DROPPED)}
    for name in (f"{last}.weight", f"{last}.bias"):
        if name in weights:
            weights[name] = weights[name][: shape.channels].clone()
    return weights


def _check_song(tree: Tree, sizes: list[str], *, is_ncsn: bool) -> None:
    """What each flavour is beside its embedding: filters, the second path of the pixels, embeddings that only add."""
    taps, title = (_FIR, "NCSN++") if is_ncsn else (_BOX, "DDPM++")
    expected = taps.outer(taps) / taps.sum() ** 2
    for name, tensor in tree.tensors.items():
        if name.endswith("resample_filter") and not _same(tensor, expected):
            raise NotRecognisedError(f"holds a SongUNet with the embedding of {title} and other filters than it has")
    usual = {f"dec.{sizes[0]}_aux_{layer}" for layer in ("norm", "conv")}
    if is_ncsn:
        usual |= {f"enc.{size}_aux_residual" for size in sizes[1:]}
    found = {name for name in tree.modules if "_aux_" in name}
    if found != usual:
        other = sorted(found ^ usual)[0]
        raise NotRecognisedError(
            f"holds a SongUNet with the embedding of {title}, which differs from it in {other[:100]}"
        )
    for name in _blocks(tree):
        if tree.settings[name].get("adaptive_scale") is True:
            raise NotRecognisedError("holds a SongUNet with adaptive scales, which is not known")
    _check_scale(tree, SKIP_SCALE)


def _check_scale(tree: Tree, expected: float) -> None:
    scale = _of(tree, _blocks(tree), "skip_scale", expected)
    if not math.isclose(scale, expected, rel_tol=1e-6):
        raise NotRecognisedError(f"has blocks with a skip scale of {scale:g}, not {expected:g}")


def _same(tensor: Tensor, kernel: Tensor) -> bool:
    return tensor.shape[-2:] == kernel.shape and torch.allclose(tensor.float().reshape(kernel.shape), kernel)


def _blocks(tree: Tree) -> list[str]:
    return [name for name in tree.modules if _BLOCK.fullmatch(name)]


def _sizes(tree: Tree, resolution: int) -> list[str]:
    """The levels' names, from the highest resolution down: `32x32`, `16x16`, ..."""
    names = [f"{resolution >> index}x{resolution >> index}" for index in range(16)]
    count = next((index for index, name in enumerate(names) if f"enc.{name}_block0" not in tree.modules), 16)
    if not count:
        raise NotRecognisedError(f"holds a {tree.modules[''][:100]} without blocks at its resolution {resolution}")
    return names[:count]


def _ratio(number: int, unit: int) -> int:
    if not unit or number % unit:
        raise NotRecognisedError(f"has {number} channels at a place, no multiple of its {unit}")
    return number // unit


def _channels_per_head(tree: Tree, qkv: str, proj: str, *, always: bool = False) -> int | None:
    """Channels of an attention head; None for one head in every block, or where there is no attention."""
    attending = [name for name in _blocks(tree) if f"{name}.{qkv}.weight" in tree.tensors]
    heads = {name: tree.count("num_heads", name) if "num_heads" in tree.settings[name] else 1 for name in attending}
    if not attending or (set(heads.values()) <= {1} and not always):
        return None
    sizes = {_ratio(tree.shape(f"{name}.{proj}.weight", 4)[0], number) for name, number in heads.items()}
    if len(sizes) > 1:
        raise NotRecognisedError("has blocks with heads of different sizes")
    return sizes.pop()


def _of(tree: Tree, modules: list[str], key: str, usual: float) -> float:
    """A setting that all modules must agree on; `usual` where they don't say it."""
    values = {tree.number(key, name) for name in modules if key in tree.settings[name]} or {usual}
    if len(values) > 1:
        raise NotRecognisedError(f"has blocks with different {key}")
    return values.pop()


def _dropout(tree: Tree) -> float:
    """Of the blocks; without meaning when sampling."""
    values: list[Any] = [tree.settings[name].get("dropout", 0.0) for name in _blocks(tree)]
    value = max((value for value in values if isinstance(value, int | float)), default=0.0)
    return float(value) if 0 <= value < 1 else 0.0
