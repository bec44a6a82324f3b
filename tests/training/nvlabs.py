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


CLASSES = {"EDM2Net": "UNet", "ADMNet": "DhariwalUNet"}  # of the networks; all others are a SongUNet


def unet(net: Any) -> Persistent:
    """A U-Net of ours as the class that holds it there."""
    class_name = CLASSES.get(type(net).__name__, "SongUNet")
    made = Persistent(class_name, label_dropout=0)
    if class_name == "UNet":
        made.__dict__.update(label_balance=net.net.label_balance, concat_balance=net.net.concat_balance)
        made.register_parameter("out_gain", net.out_gain)
    else:
        width = net.map_layer0.in_features
        made.add_module("map_noise", Persistent("PositionalEmbedding", num_channels=width, max_positions=10000))
        made.add_module("map_augment", persistent("Linear", nn.Linear(9, width, bias=False)))
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0] if getattr(net, "map_noise", None) is not None else [1.0, 1.0])
    for name, child in net.named_children():
        if isinstance(child, nn.ModuleDict):
            layers = {key: _layer(layer, class_name, taps) for key, layer in child.items()}
            made.add_module(name, nn.ModuleDict(layers))
        else:
            made.add_module(name, _layer(child, class_name, taps))
    return made


def _layer(layer: Any, class_name: str, taps: torch.Tensor) -> Persistent:
    if hasattr(layer, "num_heads"):
        return _block(layer, class_name, taps)
    made = persistent(type(layer).__name__, layer)
    for name, buffer in layer.named_buffers(recurse=False):
        made.register_buffer(name, buffer)
    if type(layer).__name__ == "FilteredConv":
        made.register_buffer("resample_filter", (taps.outer(taps) / taps.sum() ** 2)[None, None])
    return made


def _block(layer: Any, class_name: str, taps: torch.Tensor) -> Persistent:
    """A residual block: with its filter as a buffer where it changes the resolution, as theirs have it."""
    settings = {"num_heads": layer.num_heads, "dropout": 0.1}
    if class_name == "UNet":
        edm2 = {"res_balance": layer.res_balance, "attn_balance": layer.attn_balance, "clip_act": layer.clip}
        made = Persistent("Block", resample_filter=[1, 1], flavor=layer.flavor, **edm2, **settings)
        made.register_parameter("emb_gain", layer.emb_gain)
    else:
        scale = np.sqrt(0.5) if class_name == "SongUNet" else 1
        made = Persistent("UNetBlock", skip_scale=scale, adaptive_scale=class_name == "DhariwalUNet", **settings)
    resamples = not isinstance(layer.resample, nn.Identity)
    for name, child in layer.named_children():
        if isinstance(child, nn.Identity):
            made.__dict__[name] = None
        elif name != "resample":
            made.add_module(name, _layer(child, class_name, taps))
            if resamples and class_name != "UNet" and name in ("conv0", "skip"):
                getattr(made, name).register_buffer("resample_filter", (taps.outer(taps) / taps.sum() ** 2)[None, None])
    return made


def network(
    net: nn.Module, preconditioning: Preconditioning, sigma_data: float, shape: tuple[int, int, int]
) -> Persistent:
    """The preconditioned network, with (resolution, channels, num_classes)."""
    within = unet(net)
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
            _learn_variance(within, shape)
        case EDMPreconditioning():
            is_edm2 = within.meta["class_name"] == "UNet"
            name = "Precond" if is_edm2 else "EDMPrecond"
            made = Persistent(name, sigma_data=sigma_data, sigma_min=0, sigma_max=float("inf"), **about)
            if is_edm2:
                made.add_module("logvar_linear", persistent("MPConv", nn.Linear(128, 1, bias=False)))
    made.add_module("unet" if made.meta["class_name"] == "Precond" else "model", within)
    return made


def _learn_variance(within: Any, shape: tuple[int, int, int]) -> None:
    """Twice the channels at the end, as every iDDPM network has; only the first half is used."""
    last = within.out_conv if hasattr(within, "out_conv") else within.dec[f"{shape[0]}x{shape[0]}_aux_conv"]
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
