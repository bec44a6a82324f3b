"""NVlabs' network pickles ("EDM", "EDM2"): which of our models one holds.

Two tables say what is known: `PRECONDITIONERS`, from the class of the whole to our preconditioning, and `NETWORKS`,
from the class within to functions that find our network's settings and weights. A new network is one more entry.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipeline.data.pickled_networks import Record
from pipeline.diffusion.preconditioning import (
    EDMPreconditioning,
    IDDPMPreconditioning,
    Preconditioning,
    VEPreconditioning,
    VPPreconditioning,
)
from pipeline.diffusion.timesteps import iddpm_levels
from pipeline.networks import Network
from pipeline.training.importing import unets
from pipeline.training.importing.found import Found, NotRecognisedError
from pipeline.training.importing.tree import Shape, Tree
from pipeline.training.settings import ModelSpec

USUAL_LICENCE = "CC BY-NC-SA 4.0"  # of all that NVlabs published in this form
EMA = "ema"
_SIGMA_DATA = 0.5  # where the preconditioning does not use it


class Preconditioner(NamedTuple):
    """What a class of theirs is here.

    Args:
        network: the name of the module within.
        read: our preconditioning and sigma_data, from the settings of the whole.
    """

    network: str
    read: Callable[[Tree], tuple[Preconditioning, float]]


def _vp(tree: Tree) -> tuple[Preconditioning, float]:
    beta_d, beta_min, epsilon_t = (tree.number(name) for name in ("beta_d", "beta_min", "epsilon_t"))
    return VPPreconditioning(beta_d=beta_d, beta_min=beta_min, M=tree.count("M"), epsilon_t=epsilon_t), _SIGMA_DATA


def _ve(tree: Tree) -> tuple[Preconditioning, float]:
    return VEPreconditioning(sigma_min=tree.number("sigma_min"), sigma_max=tree.number("sigma_max")), _SIGMA_DATA


def _iddpm(tree: Tree) -> tuple[Preconditioning, float]:
    made = IDDPMPreconditioning(M=tree.count("M"), C_1=tree.number("C_1"), C_2=tree.number("C_2"))
    u, expected = tree.tensors.get("u"), iddpm_levels(made.M, made.C_1, made.C_2)
    if u is not None and not (u.shape == expected.shape and torch.allclose(u.double(), expected, rtol=1e-3)):
        raise NotRecognisedError("its table of noise levels u is not the one that M, C_1 and C_2 make")
    return made, _SIGMA_DATA


def _edm(tree: Tree) -> tuple[Preconditioning, float]:
    return EDMPreconditioning(), tree.number("sigma_data")


PRECONDITIONERS: Mapping[str, Preconditioner] = {
    "VPPrecond": Preconditioner("model", _vp),
    "VEPrecond": Preconditioner("model", _ve),
    "iDDPMPrecond": Preconditioner("model", _iddpm),
    "EDMPrecond": Preconditioner("model", _edm),
    "Precond": Preconditioner("unet", _edm),  # EDM2
}


# From theirs to our network's settings and weights.
Reader = Callable[[Tree, Shape], tuple[Network, dict[str, Tensor]]]
NETWORKS: Mapping[str, Reader] = {
    "SongUNet": unets.song_unet,
    "DhariwalUNet": unets.dhariwal_unet,
    "UNet": unets.edm2_unet,
}


def network_of(content: Mapping[str, Any]) -> Found:
    """The model in a pickle.

    Args:
        content: of the file, by name.

    Raises:
        NotRecognisedError: it has no counterpart here.
    """
    root = content.get(EMA)
    if not isinstance(root, Record):
        names = ", ".join(str(name)[:50] for name in list(content)[:10]) or "nothing"
        raise NotRecognisedError(f"holds no network named {EMA!r} (it holds {names})")
    tree = Tree.of(root)
    if root.class_name not in PRECONDITIONERS:
        raise NotRecognisedError(f"holds a {root.class_name[:100]}; known are {', '.join(PRECONDITIONERS)}")
    kind = PRECONDITIONERS[root.class_name]
    shape = Shape(tree.count("img_resolution"), tree.count("img_channels"), tree.count("label_dim"))
    _check_pixels(content, shape)
    within = tree.below(kind.network)
    class_name = within.modules[""]
    read = NETWORKS.get(class_name)
    if read is None:
        raise NotRecognisedError(f"holds a network of class {class_name[:100]}; known are {', '.join(NETWORKS)}")
    try:
        preconditioning, sigma_data = kind.read(tree)
        network, weights = read(within, shape)
    except NotRecognisedError:
        raise
    except ValueError as error:  # a part of ours refuses its settings
        raise NotRecognisedError(f"the {root.class_name} has settings that cannot be: {error}") from error
    return Found(
        origin=f"{root.class_name} over {class_name} (a network pickle of NVlabs)",
        model=ModelSpec(
            network=network, preconditioning=preconditioning, sigma_data=sigma_data, **shape._asdict(),
        ),
        weights={EMA: weights},
        usual_licence=USUAL_LICENCE,
        notes=_left_out(within, weights),
    )  # fmt: skip


def _check_pixels(content: Mapping[str, Any], shape: Shape) -> None:
    encoder = content.get("encoder")
    latent = isinstance(encoder, Record) and "VAE" in encoder.class_name
    if latent or shape.channels not in (1, 3):
        by = f" of {encoder.class_name[:100]}" if isinstance(encoder, Record) else ""
        raise NotRecognisedError(
            f"is a latent-space network: it makes {shape.channels} channels{by}, whose decoder is not built yet"
        )


def _left_out(within: Tree, weights: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Tensors that the network here has no use for."""
    names = sorted({name.rsplit(".", 1)[-1] if name.endswith("resample_filter") else name for name in within.tensors
                    if name not in weights})  # fmt: skip
    return (f"left out: {', '.join(names)}",) if names else ()
