"""Settings of what is generated: points of a sweep, seeds, and who does it."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from pipeline.config.checkpoints import CheckpointSettings, GuideSettings
from pipeline.config.job import Job
from pipeline.config.load import shortened, validate
from pipeline.config.places import Written
from pipeline.config.points import PointSettings, SamplerSettings
from pipeline.config.sweep import expand_grid
from pipeline.data.samples import Execution
from pipeline.diffusion.labels import Balanced, Labels
from pipeline.errors import SettingsError
from pipeline.training.settings import Frozen


class SeedSettings(Frozen):
    """A range of seeds: one image each."""

    first: int = Field(default=0, ge=0)
    count: int = Field(default=1000, gt=0)


class ActorSettings(Frozen):
    """Who generates. Nothing here changes a bit of an image.

    Args:
        num_actors: empty is `per_gpu` actors a GPU, or one for every `execution.threads` CPUs; 0 is this process.
        per_gpu: how many actors share a GPU; two may keep it busier where networks are small.
        hang_after_s: an actor that makes no progress for so many seconds, not one evaluation of its network, is ended,
            and its chunks go to others; a first evaluation includes compiling.
    """

    num_actors: int | None = Field(default=None, ge=0)
    per_gpu: int = Field(default=1, ge=1, le=100)
    hang_after_s: float = Field(default=600, ge=1)


SweepGrid = dict[str, list[Any]]


class GenerateSettings(Frozen):
    """Points and how to compute them.

    Args:
        guide: the second network, for guidance that needs one; points of a sweep whose guidance needs none ignore it.
        sweep: a grid, or several, over the keys of checkpoint, guide, sampler and labels.
        reuse: `store` takes images that were generated before, `none` computes all anew, in a namespace of its own.
    """

    checkpoint: CheckpointSettings
    guide: GuideSettings | None = None
    sampler: SamplerSettings = SamplerSettings()
    labels: Annotated[Labels, Field(discriminator="kind")] = Balanced()
    sweep: SweepGrid | list[SweepGrid] = Field(default_factory=dict)
    seeds: SeedSettings = SeedSettings()
    execution: Execution = Execution()
    actors: ActorSettings = ActorSettings()
    reuse: Literal["store", "none"] = "store"
    _points: list[tuple[str, PointSettings]] = PrivateAttr(default_factory=list)

    @model_validator(mode="after")
    def _expand(self) -> Self:
        grids = [self.sweep] if isinstance(self.sweep, dict) else self.sweep
        for grid in grids:
            for key, values in grid.items():
                if key.split(".")[0] not in PointSettings.model_fields:
                    known = ", ".join(f"{name}." for name in PointSettings.model_fields)
                    raise ValueError(f"sweep: {key} cannot be swept; keys begin with one of {known}")
                if not values:
                    raise ValueError(f"sweep: {key} has no values")
        base = self.model_dump(include=set(PointSettings.model_fields))
        for name, content in expand_grid(base, self.sweep):
            try:
                point = validate(PointSettings, content, f"sweep point ({shortened(name)})" if name else "")
            except SettingsError as error:
                raise ValueError(str(error).removeprefix(": ")) from None
            self._points.append((name, point))
        guided = [point for _, point in self._points if point.guide is not None]
        if guided and not any(point.needs_guide for point in guided):
            kinds = ", ".join(sorted({point.sampler.guidance.kind for point in guided}))
            raise ValueError(
                f"guide: is given and never asked: sampler.guidance is {kinds}; drop one or change the other"
            )
        return self

    @property
    def points(self) -> list[tuple[str, PointSettings]]:
        """Every point of the sweep with its name, validated."""
        return list(self._points)


class GenerateJob(Job, GenerateSettings):
    """`jobs.generate`.

    Args:
        export: a folder to write the images to as PNG files, one folder a point.
    """

    export: Annotated[str | None, Written()] = None
