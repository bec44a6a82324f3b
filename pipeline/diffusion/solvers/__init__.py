"""The solvers, one file a family. A new one is a frozen dataclass with `order` and `step`, joined to the union."""

from pipeline.diffusion.solvers.base import MANY, Memory, SolverShape, Step, error_order
from pipeline.diffusion.solvers.embedded import BogackiShampine, DormandPrince
from pipeline.diffusion.solvers.runge_kutta import Alpha, Euler, Heun, Midpoint, Ralston

Solver = Euler | Heun | Midpoint | Ralston | Alpha | BogackiShampine | DormandPrince

__all__ = [
    "MANY",
    "Alpha",
    "BogackiShampine",
    "DormandPrince",
    "Euler",
    "Heun",
    "Memory",
    "Midpoint",
    "Ralston",
    "Solver",
    "SolverShape",
    "Step",
    "error_order",
]
