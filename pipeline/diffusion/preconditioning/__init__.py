"""Preconditioning: how a denoiser D is made of a network F (Karras et al. 2022, Eq. 7 and Table 1).

    D(x; sigma) = c_skip(sigma) x + c_out(sigma) F(c_in(sigma) x; c_noise(sigma))

`sigma_data` is not a field of a preconditioning: it is a property of the data, kept once (in the `Denoiser`, from the
training's settings) and handed to whatever needs it.

A new one is a frozen dataclass with `kind`, `coefficients` and `levels` in a file of its own, joined to the union.
"""

from pipeline.diffusion.preconditioning.base import Coefficients, PreconditioningShape, nearest_index, per_sample
from pipeline.diffusion.preconditioning.discrete import DiscretePreconditioning
from pipeline.diffusion.preconditioning.edm import EDMPreconditioning
from pipeline.diffusion.preconditioning.flow import RectifiedFlowPreconditioning
from pipeline.diffusion.preconditioning.iddpm import IDDPMPreconditioning
from pipeline.diffusion.preconditioning.ve import VEPreconditioning
from pipeline.diffusion.preconditioning.vp import VPPreconditioning

Preconditioning = (
    VPPreconditioning | VEPreconditioning | IDDPMPreconditioning | EDMPreconditioning | RectifiedFlowPreconditioning
    | DiscretePreconditioning
)  # fmt: skip

__all__ = [
    "Coefficients",
    "DiscretePreconditioning",
    "EDMPreconditioning",
    "IDDPMPreconditioning",
    "Preconditioning",
    "PreconditioningShape",
    "RectifiedFlowPreconditioning",
    "VEPreconditioning",
    "VPPreconditioning",
    "nearest_index",
    "per_sample",
]
