"""Settings of time grids that are computed from a network."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from pipeline.config.generation import ActorSettings, SeedSettings
from pipeline.config.job import Job
from pipeline.config.places import Written
from pipeline.config.points import PointSettings, SamplerSettings
from pipeline.data.samples import Execution
from pipeline.diffusion.schedules import Linear, Unscaled
from pipeline.diffusion.stochasticity import Deterministic
from pipeline.diffusion.timesteps import AdaptiveSteps, EDMSteps


class OptimizeGridJob(Job, PointSettings):
    """`jobs.optimize_grid`: time grids computed from the network itself.

    Args:
        sampler: the fine one whose trajectories are measured, and whose levels the grids are chosen from.
        seeds: of these trajectories; others than a benchmark's, so that it stays fair.
        num_steps: steps of each grid that is wanted.
        coefficient: how much more a later step's error counts, step by step (gamma in arXiv 2405.11326).
        out: a folder for one file a grid, `steps-08.json`, to be used as `timesteps: {kind: file, path: ...}`.
    """

    sampler: SamplerSettings = SamplerSettings(timesteps=EDMSteps(num_steps=60))
    seeds: SeedSettings = SeedSettings(first=1_000_000, count=64)
    num_steps: list[int] = Field(default=[4, 5, 6, 7, 8, 10], min_length=1)
    coefficient: float = Field(default=1.15, gt=0)
    execution: Execution = Execution()
    actors: ActorSettings = ActorSettings()
    out: Annotated[str, Written()]

    @model_validator(mode="after")
    def _check_grids(self) -> Self:
        sampler = self.sampler
        if sampler.schedule != Linear() or sampler.scaling != Unscaled() or sampler.solver.stochastic:
            raise ValueError("sampler: trajectories are measured with a deterministic solver on the linear schedule")
        if sampler.stochasticity != Deterministic() or isinstance(sampler.timesteps, AdaptiveSteps):
            raise ValueError("sampler: trajectories are measured without added noise, on a fixed time grid")
        most = sampler.timesteps.num_steps
        for number in self.num_steps:
            if not 1 <= number <= most:
                raise ValueError(f"num_steps: must be between 1 and the fine grid's {most} (got {number})")
        return self
