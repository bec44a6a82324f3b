"""Settings of jobs on what a store has."""

from typing import Annotated

from pydantic import Field

from pipeline.config.job import Job
from pipeline.config.measuring import Keep
from pipeline.config.places import Written


class ReportJob(Job):
    """`jobs.report`: the page of a benchmark or a search, made again of what the store has.

    Args:
        name: of the benchmark or the search, or its digest; of several of one name it is the newest.
        out: a folder for the page and its figures.
    """

    name: str = Field(min_length=1)
    out: Annotated[str, Written()]


class PruneJob(Job):
    """`jobs.prune`: frees space; `--dry-run` says what would go.

    Args:
        older_than_hours: what is younger is left alone: a job that is running may still commit it.
        damaged: what was set aside as damaged goes too.
        snapshots: so many of the last snapshots of each training stay, and all that samples, or rebuilt weights, are
            made of. Empty: all stay.
        keep: of samples: the images, or the features alone where there are any, or only moments where there are any.
        pictures: the images of so many of the first seeds stay in any case.
    """

    older_than_hours: float = Field(default=24, ge=1)
    damaged: bool = True
    snapshots: int | None = Field(default=None, ge=1)
    keep: Keep = "images"
    pictures: int = Field(default=64, ge=0)
