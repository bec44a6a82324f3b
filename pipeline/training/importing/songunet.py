"""The class SongUNet of NVlabs' pickles: DDPM++ or NCSN++, told apart by what is in it.

Settings are found from the names and shapes of its parameters; so nothing hangs on how a constructor was called.
"""

import math
import re
from collections.abc import Callable, Mapping

from torch import Tensor

from pipeline.networks import DDPMpp, Network
from pipeline.networks.layers import SKIP_SCALE
from pipeline.training.importing.found import NotRecognisedError
from pipeline.training.importing.tree import Shape, Tree

_BLOCK = re.compile(r"(?P<side>enc|dec)\.(?P<size>\d+)x(?P=size)_(?P<role>block\d+|down|up|in0|in1)")
_DROPPED = ("resample_filter", "map_augment.weight")  # constants; a condition that is zero when sampling


def read(tree: Tree, shape: Shape) -> tuple[Network, dict[str, Tensor]]:
    """Our network's settings and its weights.

    Raises:
        NotRecognisedError: it is of neither flavour, or of one that has no counterpart here.
    """
    flavour = _flavour(tree)
    reader = FLAVOURS[flavour]
    if reader is None:
        raise NotRecognisedError(f"holds a SongUNet of the flavour {flavour}, which has no counterpart here yet")
    return reader(tree, shape)


def _flavour(tree: Tree) -> str:
    """By the embedding of the noise level; `FLAVOURS` has what else each must be."""
    embedding = tree.modules.get("map_noise", "nothing")
    if embedding == "PositionalEmbedding":
        return "DDPM++"
    if embedding == "FourierEmbedding":
        return "NCSN++"
    raise NotRecognisedError(f"holds a SongUNet with an embedding of noise by {embedding[:100]}, which is not known")


def _ddpmpp(tree: Tree, shape: Shape) -> tuple[Network, dict[str, Tensor]]:
    _check_flavour(tree)
    sizes = _sizes(tree, shape.resolution)
    width = tree.shape("map_layer0.weight", 2)[1]
    if tree.shape(f"enc.{sizes[0]}_conv.weight", 4)[0] != width:
        raise NotRecognisedError("holds a SongUNet whose noise embedding is wider than its first level")
    network = DDPMpp(
        model_channels=width,
        channel_mult=tuple(_ratio(tree.shape(f"enc.{size}_block0.conv1.weight", 4)[0], width) for size in sizes),
        num_blocks=sum(bool(re.fullmatch(rf"enc\.{sizes[0]}_block\d+", name)) for name in tree.modules),
        attn_resolutions=tuple(
            int(size.split("x")[0]) for size in sizes if f"enc.{size}_block0.qkv.weight" in tree.tensors
        ),
        channels_per_head=_channels_per_head(tree),
        dropout=_dropout(tree),
        channel_mult_emb=_ratio(tree.shape("map_layer0.weight", 2)[0], width),
    )
    weights = {name: value for name, value in tree.tensors.items() if not name.endswith(_DROPPED)}
    for name in (f"dec.{sizes[0]}_aux_conv.weight", f"dec.{sizes[0]}_aux_conv.bias"):
        if name in weights:  # of iDDPM's the second half is a learned variance, which is not used
            weights[name] = weights[name][: shape.channels].clone()
    return network, weights


# By what `_flavour` calls it; a flavour that has no counterpart here yet has no reader.
FLAVOURS: Mapping[str, Callable[[Tree, Shape], tuple[Network, dict[str, Tensor]]] | None] = {
    "DDPM++": _ddpmpp,
    "NCSN++": None,
}


def _check_flavour(tree: Tree) -> None:
    """What DDPM++ is beside the embedding: box filters, no second path for pixels, embeddings that only add."""
    for name, tensor in tree.tensors.items():
        if name.endswith("resample_filter") and (
            tensor.shape[-2:] != (2, 2) or not bool((tensor == tensor.mean()).all())
        ):
            raise NotRecognisedError("holds a SongUNet with positional embedding and FIR filters, which is not known")
    for name in _blocks(tree):
        settings = tree.settings[name]
        if settings.get("adaptive_scale") is True:
            raise NotRecognisedError("holds a SongUNet with adaptive scales, which is not known")
        scale = settings.get("skip_scale", SKIP_SCALE)
        if not isinstance(scale, float) or not math.isclose(scale, SKIP_SCALE, rel_tol=1e-6):
            raise NotRecognisedError(f"holds a SongUNet with a skip scale of {str(scale)[:50]}, not sqrt(1/2)")
    aux = next((name for name in tree.modules if "_aux_" in name and not name.endswith(("_aux_norm", "_aux_conv"))), "")
    if aux:
        raise NotRecognisedError(f"holds a SongUNet with positional embedding and {aux[:100]}, which is not known")


def _blocks(tree: Tree) -> list[str]:
    return [name for name in tree.modules if _BLOCK.fullmatch(name)]


def _sizes(tree: Tree, resolution: int) -> list[str]:
    """The levels' names, from the highest resolution down: `32x32`, `16x16`, ..."""
    names = [f"{resolution >> index}x{resolution >> index}" for index in range(16)]
    count = next((index for index, name in enumerate(names) if f"enc.{name}_block0" not in tree.modules), 16)
    if not count:
        raise NotRecognisedError(f"holds a SongUNet without blocks at its resolution {resolution}")
    return names[:count]


def _ratio(number: int, unit: int) -> int:
    if not unit or number % unit:
        raise NotRecognisedError(f"holds a SongUNet of {number} channels at a level, no multiple of its {unit}")
    return number // unit


def _channels_per_head(tree: Tree) -> int | None:
    """Channels of an attention head; None for one head in every block."""
    attending = [name for name in _blocks(tree) if f"{name}.qkv.weight" in tree.tensors]
    heads = {name: tree.count("num_heads", name) if "num_heads" in tree.settings[name] else 1 for name in attending}
    if set(heads.values()) <= {1}:
        return None
    sizes = {_ratio(tree.shape(f"{name}.proj.weight", 4)[0], number) for name, number in heads.items()}
    if len(sizes) > 1:
        raise NotRecognisedError("holds a SongUNet whose blocks have heads of different sizes")
    return sizes.pop()


def _dropout(tree: Tree) -> float:
    """Of all blocks; without meaning when sampling."""
    values = [tree.settings[name].get("dropout", 0.0) for name in _blocks(tree)]
    value = max((value for value in values if isinstance(value, int | float)), default=0.0)
    return float(value) if 0 <= value < 1 else 0.0
