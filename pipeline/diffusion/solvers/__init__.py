"""The solvers, one file a family. A new one is a frozen dataclass with `order` and `step`, joined to the union."""

from pipeline.diffusion.solvers.base import MANY, Memory, SolverShape, Step
from pipeline.diffusion.solvers.runge_kutta import Alpha, Euler, Heun, Midpoint, Ralston

Solver = Euler | Heun | Midpoint | Ralston | Alpha

__all__ = ["MANY", "Alpha", "Euler", "Heun", "Memory", "Midpoint", "Ralston", "Solver", "SolverShape", "Step"]
