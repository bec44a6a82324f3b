"""The settings of `jobs.search`."""

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from pipeline.config.benchmarks import TimingSettings
from pipeline.config.checkpoints import CheckpointSettings, GuideSettings
from pipeline.config.generation import ActorSettings, SeedSettings
from pipeline.config.job import Job
from pipeline.config.load import shortened, validate
from pipeline.config.measuring import MetricSettings
from pipeline.config.places import Written
from pipeline.config.points import PointSettings, SamplerSettings
from pipeline.config.space import FullGrid, Space, applied, one_by_one, parse_space
from pipeline.config.sweep import point_name
from pipeline.data.samples import Execution
from pipeline.diffusion.labels import Balanced, Labels
from pipeline.errors import SettingsError
from pipeline.training.settings import Frozen


class BudgetSettings(Frozen):
    """What a search may spend, with its final stage and its converged trajectories; of two limits the tighter one.

    Args:
        nfe: network evaluations in all, as if nothing were in the store.
        minutes: of all its runs together.
    """

    nfe: float | None = Field(default=None, gt=0)
    minutes: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.nfe is None and self.minutes is None:
            raise ValueError("nfe: or minutes: must be given, or the search would never end")
        return self


class PruneSettings(Frozen):
    """Whether the distance to a setting's own converged trajectories may end a trial before any image is measured.

    Args:
        correlation: the lower end of the 95 % interval of Kendall's tau between it and the distance must reach this.
        trials: so many must have both before.
        references: for so many flows (networks and guidances) converged trajectories are made; others have none.
    """

    correlation: float = Field(default=0.5, ge=-1, le=1)
    trials: int = Field(default=12, ge=4)
    references: int = Field(default=2, ge=0)


class FinalSettings(Frozen):
    """The front, measured again on seeds that no choice was made by.

    Args:
        seeds: others than those of the search.
        most: settings of the front at most.
    """

    seeds: SeedSettings = SeedSettings(first=1_000_000, count=5000)
    most: int = Field(default=6, ge=1)


class SearchSettings(Frozen):
    """A space of settings of a checkpoint, and a budget.

    Args:
        space: what may be chosen, over the keys of checkpoint, guide, sampler and labels; or several such.
        images: of a trial: measured with the first number of them, and if it does well, with the next.
        keep_one_in: of so many trials one goes on to the next number of images.
        generation: new settings that are proposed at a time.
        first_seed: of the images that are chosen by.
        seed: of the proposals.
        max_nfe: evaluations an image at most; dearer settings are not tried.
        grid_points: of each range, in the grid that brute force would try.
    """

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    checkpoint: CheckpointSettings
    guide: GuideSettings | None = None
    sampler: SamplerSettings = SamplerSettings()
    labels: Annotated[Labels, Field(discriminator="kind")] = Balanced()
    space: dict[str, Any] | list[dict[str, Any]]
    budget: BudgetSettings
    metrics: MetricSettings
    images: list[int] = Field(default=[500, 1500, 5000], min_length=1)
    keep_one_in: int = Field(default=3, ge=2)
    generation: int = Field(default=8, ge=1)
    first_seed: int = Field(default=0, ge=0)
    seed: int = Field(default=0, ge=0)
    max_nfe: int | None = Field(default=None, gt=0)
    prune: PruneSettings = PruneSettings()
    final: FinalSettings | None = FinalSettings()
    grid_points: int = Field(default=4, ge=2)
    execution: Execution = Execution()
    actors: ActorSettings = ActorSettings()
    timing: TimingSettings | None = None
    picture_seeds: int = Field(default=16, ge=1, le=64)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.images[0] < 2 or any(b <= a for a, b in zip(self.images, self.images[1:], strict=False)):
            raise ValueError(f"images: must rise, from at least 2 (got {self.images})")
        if self.final is not None:
            last, final = self.first_seed + self.images[-1], self.final.seeds
            if final.first < last and self.first_seed < final.first + final.count:
                raise ValueError(
                    f"final: seeds {final.first}-{final.first + final.count - 1} overlap those of the search, "
                    f"{self.first_seed}-{last - 1}: what is chosen by its images looks better on them than it is"
                )
        self._check_space()
        return self

    def _check_space(self) -> None:
        if not self.spaces or not all(self.spaces):
            raise ValueError("space: is empty; name what may be chosen")
        for space in self.spaces:
            for key in space:
                if key.split(".")[0] not in PointSettings.model_fields:
                    known = ", ".join(f"{name}." for name in PointSettings.model_fields)
                    raise ValueError(f"space: {key} cannot be searched; keys begin with one of {known}")
            for chosen in one_by_one(space):
                try:
                    self.point(chosen)
                except SettingsError as error:
                    raise ValueError(str(error).removeprefix(": ")) from None

    @cached_property
    def spaces(self) -> list[Space]:
        written = [self.space] if isinstance(self.space, Mapping) else self.space
        try:
            return [parse_space(space) for space in written]
        except ValueError as error:
            raise ValueError(f"space: {error}") from None

    @property
    def grid(self) -> FullGrid:
        """What brute force would try."""
        return FullGrid(self.spaces, self.grid_points)

    def point(self, chosen: Mapping[str, Any]) -> tuple[str, PointSettings]:
        """A setting of the space, with its name.

        Raises:
            SettingsError: it is none that a network can be sampled with.
        """
        base = self.model_dump(include=set(PointSettings.model_fields))
        name = point_name(chosen)
        return name, validate(PointSettings, applied(base, chosen), f"space ({shortened(name)})")


class SearchJob(Job, SearchSettings):
    """`jobs.search`: the best settings for a checkpoint, for a fraction of what trying all of them would take."""

    out: Annotated[str | None, Written()] = None  # a folder for the table, the figure and the report, beside MLflow
