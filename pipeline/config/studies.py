"""Settings of studies: data sets, a training and a benchmark in one file."""

from typing import Annotated

from pydantic import Field

from pipeline.config.benchmarks import BenchmarkSettings
from pipeline.config.checkpoints import CheckpointSettings
from pipeline.config.datasets import DatasetSettings
from pipeline.config.job import Job
from pipeline.config.places import Written
from pipeline.config.trainings import TrainSettings


class StudyBenchmark(BenchmarkSettings):
    """A study's benchmark: its checkpoint is the training's, unless the sweep says otherwise."""

    checkpoint: CheckpointSettings = CheckpointSettings(training="")


class StudyJob(Job):
    """`jobs.study`: prepares, trains and benchmarks, each unless it is done."""

    prepare: list[DatasetSettings] = Field(default_factory=list)
    train: TrainSettings
    benchmark: StudyBenchmark
    out: Annotated[str | None, Written()] = None
