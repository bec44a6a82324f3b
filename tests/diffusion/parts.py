"""Every part of the math, found through the unions: a new member is tested by being there."""

from dataclasses import replace
from typing import Any, get_args

from pipeline.diffusion.guidance import Guidance
from pipeline.diffusion.labels import Labels
from pipeline.diffusion.noise import TrainingNoise, Weighting
from pipeline.diffusion.preconditioning import Preconditioning
from pipeline.diffusion.randomness import Beta
from pipeline.diffusion.schedules import Scaling, Schedule
from pipeline.diffusion.solvers import Alpha, Solver
from pipeline.diffusion.stochasticity import Stochasticity
from pipeline.diffusion.timesteps import Timesteps

UNIONS: dict[str, Any] = {
    "Schedule": Schedule,
    "Scaling": Scaling,
    "Timesteps": Timesteps,
    "Preconditioning": Preconditioning,
    "TrainingNoise": TrainingNoise,
    "Weighting": Weighting,
    "Solver": Solver,
    "Stochasticity": Stochasticity,
    "Beta": Beta,
    "Guidance": Guidance,
    "Labels": Labels,
}


def members(union: Any) -> tuple[type, ...]:
    """The classes of a union; of a union of one, that one."""
    return get_args(union) or (union,)


def defaults(union: Any) -> list[Any]:
    """One instance of every member, with its default settings."""
    return [member() for member in members(union)]


def name(value: Any) -> str | None:
    """A test id: kinds instead of pytest's running numbers."""
    return getattr(value, "kind", None)


SCHEDULES = defaults(Schedule)
SCALINGS = defaults(Scaling)
TIMESTEPS = defaults(Timesteps)
PRECONDITIONINGS = defaults(Preconditioning)
TRAINING_NOISES = defaults(TrainingNoise)
WEIGHTINGS = defaults(Weighting)
SOLVERS = [Alpha(alpha=0.35) if solver == Alpha() else solver for solver in defaults(Solver)]  # alpha = 1 is Heun
BETAS = defaults(Beta)
STOCHASTICITIES = defaults(Stochasticity)

# Grids that take any number of steps, and whose levels are not picked from a table or a list.
SMOOTH_TIMESTEPS = [grid for grid in TIMESTEPS if grid.kind not in ("iddpm", "explicit")]


def with_steps(timesteps: Any, num_steps: int) -> Any:
    return replace(timesteps, num_steps=num_steps)
