"""Settings of `jobs.suggest`."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from pipeline.config.checkpoints import CheckpointSettings
from pipeline.config.job import Job
from pipeline.config.places import Written
from pipeline.data.samples import Execution


class SuggestJob(Job):
    """`jobs.suggest`: what a data set suggests for sigma_data, P_mean, P_std and sigma_max, with the reason; and a
    checkpoint's loss by noise level.

    Args:
        dataset: of suggestions, and whose images the checkpoint denoises. Empty: what the checkpoint was trained on.
        checkpoint: whose loss is measured. Empty: none.
        images: that are denoised at every level.
        levels: noise levels, evenly spaced in ln(sigma).
        sigma_min: the lowest of them.
        sigma_max: the highest.
        out: a folder for the table and the figure, beside MLflow.
    """

    dataset: str | None = None
    checkpoint: CheckpointSettings | None = None
    images: int = Field(default=1000, ge=2)
    levels: int = Field(default=16, ge=2)
    sigma_min: float = Field(default=0.01, gt=0)
    sigma_max: float = Field(default=80.0, gt=0)
    execution: Execution = Execution()
    out: Annotated[str | None, Written()] = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.dataset is None and self.checkpoint is None:
            raise ValueError("dataset: must be given where no checkpoint is")
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min: must be below sigma_max (got {self.sigma_min:g} and {self.sigma_max:g})")
        return self

    def sigmas(self) -> list[float]:
        """The levels, ascending."""
        ratio = self.sigma_max / self.sigma_min
        return [self.sigma_min * ratio ** (index / (self.levels - 1)) for index in range(self.levels)]
