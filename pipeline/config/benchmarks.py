"""Settings of benchmarks, and of comparisons between them."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from pipeline.config.generation import GenerateSettings
from pipeline.config.job import Job
from pipeline.config.measuring import Keep, MetricSettings
from pipeline.config.places import Written
from pipeline.config.published import Published
from pipeline.training.settings import Frozen


class TimingSettings(Frozen):
    """The separate warm timing of each setting: `images` images at a time, `repeats` times after one warm-up."""

    images: int = Field(default=64, gt=0)
    repeats: int = Field(default=3, ge=1)


class BenchmarkSettings(GenerateSettings):
    """A grid of settings, measured and timed.

    Args:
        keep: what stays in the store when all is measured: the images, or of most of them the features alone, or only
            the moments of these. The first 64 images of each point stay. What is given up can be computed again.
        published: what was reported of such a benchmark, if anything was; a tag of its run.
        baseline: the name of the setting that the others are compared with, on the same seeds. Empty: the best one.
    """

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    metrics: MetricSettings
    timing: TimingSettings | None = TimingSettings()
    picture_seeds: int = Field(default=16, ge=1, le=64)
    keep: Keep = "images"
    published: Published | None = None
    baseline: str | None = None

    @model_validator(mode="after")
    def _check_protocol(self) -> Self:
        self.metrics.check_seeds(self.seeds.count)
        return self


class BenchmarkJob(Job, BenchmarkSettings):
    """`jobs.benchmark`."""

    out: Annotated[str | None, Written()] = None  # a folder for the table, the figure and the picture, beside MLflow


class ComparedSettings(Frozen):
    """One side of a comparison.

    Args:
        config: the file of a benchmark or an evaluation.
        setting: the name of one of its settings, as its table has it. Empty: the one that has the least distance there.
    """

    config: str = Field(min_length=1)
    setting: str | None = None


class CompareJob(Job):
    """`jobs.compare`: two settings, of one file or of two, on the same seeds and by the same protocol; images lie in
    the stores that these files name.

    Args:
        first: what is compared.
        second: with what.
    """

    first: ComparedSettings
    second: ComparedSettings
