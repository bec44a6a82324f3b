"""Time grids: the noise levels sigma_0 > sigma_1 > ... > sigma_{N-1} > sigma_N = 0 that a sampler visits.

A grid is given in sigma, whatever schedule the sampler runs on; t_i = sigma_inv(sigma_i). So every grid goes with every
schedule (Karras et al. 2022, Table 1, "Time steps"). Grids are float64, narrowed to the range that the network was made
for, and their levels rounded to the network's own where it has discrete ones.

A new one is a frozen dataclass with `kind`, `num_steps` and `levels` in a file of its own, joined to `FixedTimesteps`.
"""

from pipeline.diffusion.timesteps.adaptive import AdaptiveSteps
from pipeline.diffusion.timesteps.ays import AYSSteps
from pipeline.diffusion.timesteps.base import NoiseLevels, TimestepsShape, check_range, grid
from pipeline.diffusion.timesteps.edm import EDMSteps
from pipeline.diffusion.timesteps.geometric import LogSNRSteps, VESteps
from pipeline.diffusion.timesteps.iddpm import IDDPMSteps, check_iddpm, iddpm_levels
from pipeline.diffusion.timesteps.listed import ExplicitSteps, OptimizedSteps
from pipeline.diffusion.timesteps.vp import VPSteps

FixedTimesteps = (
    EDMSteps | VPSteps | VESteps | IDDPMSteps | ExplicitSteps | OptimizedSteps | LogSNRSteps | AYSSteps
)  # the levels are known ahead
Timesteps = FixedTimesteps | AdaptiveSteps


def steps_of(timesteps: Timesteps) -> int | None:
    """N, or None where every sample finds its own."""
    return None if isinstance(timesteps, AdaptiveSteps) else timesteps.num_steps


__all__ = [
    "AYSSteps",
    "AdaptiveSteps",
    "EDMSteps",
    "ExplicitSteps",
    "FixedTimesteps",
    "IDDPMSteps",
    "LogSNRSteps",
    "NoiseLevels",
    "OptimizedSteps",
    "Timesteps",
    "TimestepsShape",
    "VESteps",
    "VPSteps",
    "check_iddpm",
    "check_range",
    "grid",
    "iddpm_levels",
    "steps_of",
]
