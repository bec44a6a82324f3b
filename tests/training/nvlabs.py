"""Network pickles of the form that NVlabs writes, made of our own networks with random weights.

The names that such a file mentions (`torch_utils.persistence`, `dnnlib.util`) are there while it is written only.
"""

import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.diffusion.preconditioning import (
    EDMPreconditioning,
    IDDPMPreconditioning,
    Preconditioning,
    VEPreconditioning,
    VPPreconditioning,
)
from pipeline.diffusion.timesteps import iddpm_levels

SOURCE = "raise SystemExit('the source text in the file was run')"


class EasyDict(dict[str, Any]):
    pass


def _reconstruct_persistent_obj(meta: Any) -> Any:
    raise AssertionError("the file was unpickled")


EasyDict.__module__, EasyDict.__qualname__ = "dnnlib.util", "EasyDict"
_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"


@contextmanager
def registered() -> Iterator[None]:
    """The modules that the names are found in, for pickle to look them up."""
    functions = {"torch_utils.persistence": _reconstruct_persistent_obj, "dnnlib.util": EasyDict}
    made = {name: ModuleType(name) for name in ("torch_utils", "torch_utils.persistence", "dnnlib", "dnnlib.util")}
    for name, value in functions.items():
        setattr(made[name], value.__name__, value)
    sys.modules.update(made)
    try:
        yield
    finally:
        for name in made:
            del sys.modules[name]


class Persistent(nn.Module):
    """Pickles as an object of a class that the file itself gives as text."""

    def __init__(self, class_name: str, source: str = SOURCE, **settings: Any) -> None:
        super().__init__()
        self.meta = {"type": "class", "version": 6, "module_src": source, "class_name": class_name}
        self.__dict__.update(settings, _init_args=(), _init_kwargs=EasyDict(settings))

    def __reduce__(self) -> Any:
        state = {key: value for key, value in self.__dict__.items() if key != "meta"}
        return (_reconstruct_persistent_obj, (EasyDict(self.meta, state=state),))


def dumps(content: Any, protocol: int = 4) -> bytes:
    with registered():
        return pickle.dumps(content, protocol)


def persistent(class_name: str, module: nn.Module, **settings: Any) -> Persistent:
    """A layer's own parameters under another class."""
    made = Persistent(class_name, **settings)
    for name, parameter in module.named_parameters(recurse=False):
        made.register_parameter(name, parameter)
    return made


def song_unet(net: Any) -> Persistent:
    """Our DDPM++ as the class SongUNet."""
    made = Persistent("SongUNet", label_dropout=0)
    width = net.map_layer0.in_features
    embedding = Persistent("PositionalEmbedding", num_channels=width, max_positions=10000)
    made.add_module("map_noise", embedding)
    for name in ("map_label", "map_layer0", "map_layer1"):
        layer = getattr(net, name)
        if layer is None:
            made.__dict__[name] = None
        else:
            made.add_module(name, persistent("Linear", layer))
    made.add_module("map_augment", persistent("Linear", nn.Linear(9, width, bias=False)))
    for side in ("enc", "dec"):
        made.add_module(side, nn.ModuleDict({name: _layer(layer) for name, layer in getattr(net, side).items()}))
    return made


def _layer(layer: nn.Module) -> Persistent:
    if isinstance(layer, nn.Conv2d):
        return persistent("Conv2d", layer, in_channels=layer.in_channels, up=False)
    if isinstance(layer, nn.GroupNorm):
        return persistent("GroupNorm", layer, num_groups=layer.num_groups, eps=1e-6)
    if isinstance(layer, nn.Linear):
        return persistent("Linear", layer)
    return _block(layer)


def _block(layer: Any) -> Persistent:
    """A residual block: with its filter as a buffer where it changes the resolution, as theirs have it."""
    made = Persistent(
        "UNetBlock", num_heads=layer.num_heads, dropout=0.1, skip_scale=np.sqrt(0.5), adaptive_scale=False
    )
    resamples = not isinstance(layer.resample, nn.Identity)
    for name, child in layer.named_children():
        if name == "resample":
            continue
        if isinstance(child, nn.Identity):
            made.__dict__[name] = None
            continue
        made.add_module(name, _layer(child))
        if resamples and name in ("conv0", "skip"):
            getattr(made, name).register_buffer("resample_filter", torch.full((1, 1, 2, 2), 0.25))
    return made


def network(
    net: nn.Module, preconditioning: Preconditioning, sigma_data: float, shape: tuple[int, int, int]
) -> Persistent:
    """The preconditioned network, with (resolution, channels, num_classes)."""
    unet = song_unet(net)
    about = dict(zip(("img_resolution", "img_channels", "label_dim"), shape, strict=True), use_fp16=False)
    match preconditioning:
        case VPPreconditioning(beta_d=beta_d, beta_min=beta_min, M=M, epsilon_t=epsilon_t):
            levels = preconditioning.levels()
            ends = {"sigma_min": np.float64(levels.sigma_min), "sigma_max": levels.sigma_max}
            made = Persistent("VPPrecond", beta_d=beta_d, beta_min=beta_min, M=M, epsilon_t=epsilon_t, **ends, **about)
        case VEPreconditioning(sigma_min=sigma_min, sigma_max=sigma_max):
            made = Persistent("VEPrecond", sigma_min=sigma_min, sigma_max=sigma_max, **about)
        case IDDPMPreconditioning(M=M, C_1=C_1, C_2=C_2):
            made = Persistent("iDDPMPrecond", M=M, C_1=C_1, C_2=C_2, **about)
            made.register_buffer("u", iddpm_levels(M, C_1, C_2).float())
            _learn_variance(unet, shape)
        case EDMPreconditioning():
            made = Persistent("EDMPrecond", sigma_data=sigma_data, sigma_min=0, sigma_max=float("inf"), **about)
    made.add_module("model", unet)
    return made


def _learn_variance(unet: Persistent, shape: tuple[int, int, int]) -> None:
    """Twice the channels at the end, as every iDDPM network has; only the first half is used."""
    last = unet.dec[f"{shape[0]}x{shape[0]}_aux_conv"]  # type: ignore[index]
    for name, value in list(last.named_parameters()):
        last.register_parameter(name, nn.Parameter(torch.cat([value, torch.randn_like(value)]).detach()))


def file(root: Any, **others: Any) -> bytes:
    """A whole file: the network and what stands beside it in those that NVlabs published."""
    beside = {
        "loss_fn": Persistent("EDMLoss", P_mean=-1.2, P_std=1.2),
        "augment_pipe": Persistent("AugmentPipe", p=0.12),
        "dataset_kwargs": EasyDict(path="cifar10.zip", use_labels=True),
    }
    return dumps({"ema": root, **beside, **others})
