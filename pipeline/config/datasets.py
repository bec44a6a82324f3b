"""Settings of data sets."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.config.job import Job
from pipeline.data.sources import Source
from pipeline.training.settings import Frozen


class DatasetSettings(Frozen):
    """A data set to be prepared: from a source, in one shape.

    Args:
        name: under which the store keeps it.
        source: where the images come from.
        size: side of the square that images are resized and cropped to; empty keeps them as they are.
        channels: 1 (grey) or 3 (RGB); empty keeps what they have.
        pad_to: side that images are padded to, with zeros.
        part: the share of the images to take, of a fixed shuffle: [0, 0.7] and [0.7, 1] have no image in common.
        max_images: at most so many.
        on_broken: whether an image that cannot be read stops the job or is skipped; it is named either way.
    """

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    source: Annotated[Source, Field(discriminator="kind")]
    size: int | None = Field(default=None, gt=0)
    channels: Literal[1, 3] | None = None
    pad_to: int | None = Field(default=None, gt=0)
    part: tuple[float, float] = (0.0, 1.0)
    max_images: int | None = Field(default=None, gt=0)
    on_broken: Literal["stop", "skip"] = "stop"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not 0 <= self.part[0] < self.part[1] <= 1:
            raise ValueError(f"part: must be two shares between 0 and 1, the first one less (got {list(self.part)})")
        return self


class PrepareJob(Job, DatasetSettings):
    """`jobs.prepare`: images into the training format."""
