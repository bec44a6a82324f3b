"""The solvers, one file a family. A new one is a frozen dataclass with `order` and `step`, joined to the union."""

from pipeline.diffusion.solvers.ancestral import EulerAncestral
from pipeline.diffusion.solvers.base import MANY, Memory, SolverShape, Step
from pipeline.diffusion.solvers.dpm_solver_sde import DPMSolver2MSDE, DPMSolver3MSDE, DPMSolverSDE
from pipeline.diffusion.solvers.er_sde import ERSDE
from pipeline.diffusion.solvers.runge_kutta import Alpha, Euler, Heun, Midpoint, Ralston
from pipeline.diffusion.solvers.sa_solver import SASolver
from pipeline.diffusion.solvers.sde import EulerMaruyama, ExponentialSDE

Solver = (
    Euler
    | Heun
    | Midpoint
    | Ralston
    | Alpha
    | EulerAncestral
    | EulerMaruyama
    | ExponentialSDE
    | DPMSolverSDE
    | DPMSolver2MSDE
    | DPMSolver3MSDE
    | ERSDE
    | SASolver
)

__all__ = [
    "ERSDE",
    "MANY",
    "Alpha",
    "DPMSolver2MSDE",
    "DPMSolver3MSDE",
    "DPMSolverSDE",
    "Euler",
    "EulerAncestral",
    "EulerMaruyama",
    "ExponentialSDE",
    "Heun",
    "Memory",
    "Midpoint",
    "Ralston",
    "SASolver",
    "Solver",
    "SolverShape",
    "Step",
]
