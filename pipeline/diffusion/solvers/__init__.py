"""The solvers, one file a family. A new one is a frozen dataclass with `order` and `step`, joined to the union."""

from pipeline.diffusion.solvers.ancestral import EulerAncestral
from pipeline.diffusion.solvers.base import MANY, Memory, SolverShape, Step, error_order
from pipeline.diffusion.solvers.deis import DEIS
from pipeline.diffusion.solvers.dpm_solver import DPMpp2M, DPMpp2S, DPMpp3M, DPMSolver2
from pipeline.diffusion.solvers.dpm_solver_sde import DPMpp2MSDE, DPMpp3MSDE, DPMppSDE
from pipeline.diffusion.solvers.embedded import BogackiShampine, DormandPrince
from pipeline.diffusion.solvers.er_sde import ERSDE
from pipeline.diffusion.solvers.gradient_estimation import GradientEstimation
from pipeline.diffusion.solvers.linear_multistep import IPNDM, LMS, IPNDMv
from pipeline.diffusion.solvers.runge_kutta import Alpha, Euler, Heun, Midpoint, Ralston
from pipeline.diffusion.solvers.sa_solver import SASolver
from pipeline.diffusion.solvers.sde import EulerMaruyama, ExponentialSDE
from pipeline.diffusion.solvers.unipc import UniPC

Solver = (
    Euler | Heun | Midpoint | Ralston | Alpha | BogackiShampine | DormandPrince
    | DPMSolver2 | DPMpp2S | DPMpp2M | DPMpp3M | IPNDM | IPNDMv | LMS | GradientEstimation | DEIS | UniPC
    | EulerAncestral | EulerMaruyama | ExponentialSDE | DPMppSDE | DPMpp2MSDE | DPMpp3MSDE
    | ERSDE | SASolver
)  # fmt: skip

__all__ = [
    "DEIS",
    "ERSDE",
    "IPNDM",
    "LMS",
    "MANY",
    "Alpha",
    "BogackiShampine",
    "DPMSolver2",
    "DPMpp2MSDE",
    "DPMpp3MSDE",
    "DPMppSDE",
    "DPMpp2M",
    "DPMpp2S",
    "DPMpp3M",
    "DormandPrince",
    "Euler",
    "EulerAncestral",
    "EulerMaruyama",
    "ExponentialSDE",
    "GradientEstimation",
    "Heun",
    "IPNDMv",
    "Memory",
    "Midpoint",
    "Ralston",
    "SASolver",
    "Solver",
    "SolverShape",
    "Step",
    "UniPC",
    "error_order",
]
