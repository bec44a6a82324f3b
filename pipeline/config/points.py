"""Settings of one point of the design space: a sampler on a checkpoint."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from pipeline.config.checkpoints import CheckpointSettings, GuideSettings
from pipeline.config.grid_file import read_grid
from pipeline.config.unions import NestedKinds
from pipeline.diffusion.guidance import Guidance, Unguided
from pipeline.diffusion.labels import Balanced, Labels
from pipeline.diffusion.sampling import Sampler
from pipeline.diffusion.schedules import Linear, Scaling, Schedule, Unscaled
from pipeline.diffusion.solvers import Heun, Solver
from pipeline.diffusion.stochasticity import Deterministic, Stochasticity
from pipeline.diffusion.timesteps import EDMSteps, Timesteps
from pipeline.training.settings import Frozen


class SamplerSettings(Frozen):
    """A `Sampler`, field by field. `timesteps: {kind: file, path: ...}` reads the noise levels of an `optimized` grid
    from a file; what counts is what stands in it."""

    timesteps: Annotated[Timesteps, Field(discriminator="kind")] = EDMSteps()
    solver: Annotated[Solver, Field(discriminator="kind"), NestedKinds()] = Heun()
    schedule: Annotated[Schedule, Field(discriminator="kind")] = Linear()
    scaling: Annotated[Scaling, Field(discriminator="kind")] = Unscaled()
    stochasticity: Annotated[Stochasticity, Field(discriminator="kind")] = Deterministic()
    guidance: Annotated[Guidance, Field(discriminator="kind")] = Unguided()
    first_step: Literal["network", "analytic"] = Field(default="network", json_schema_extra={"since": 2})

    @field_validator("timesteps", mode="before")
    @classmethod
    def _from_file(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and value.get("kind") == "file":
            return read_grid(value)
        return value

    def build(self) -> Sampler:
        return Sampler(**{name: getattr(self, name) for name in type(self).model_fields})


class PointSettings(Frozen):
    """One setting on one checkpoint: what a sweep may vary."""

    checkpoint: CheckpointSettings
    guide: GuideSettings | None = None
    sampler: SamplerSettings = SamplerSettings()
    labels: Annotated[Labels, Field(discriminator="kind")] = Balanced()

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Here and not with the sampler: what a sweep varies may be what mends it."""
        if self.needs_guide and self.guide is None:
            kind = self.sampler.guidance.kind
            raise ValueError(f"guide: is missing: {kind} needs a second checkpoint, such as guide: {{training: NAME}}")
        try:
            self.sampler.build()
        except ValueError as error:
            raise ValueError(f"sampler.{error}") from None
        return self

    @property
    def needs_guide(self) -> bool:
        return self.sampler.guidance.needs_guide
