"""Settings of trainings."""

from pydantic import Field

from pipeline.config.checkpoints import RegisterSettings
from pipeline.config.job import Job
from pipeline.config.published import Expected, Published
from pipeline.training.settings import Frozen, ModelSettings, TrainingSettings, Workers


class TrainSettings(Frozen):
    """What is trained, on what, how and where.

    Args:
        name: of the training; its folder in the store is this and a digest of all that determines the weights.
        dataset: the name of a prepared data set.
        expects: what its images must be like. Empty: anything.
        published: what was reported of such a training, if anything was; a tag of the run.
        register_as: the registered model of which the trained checkpoint becomes a version. Empty: none.
    """

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    dataset: str
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    workers: Workers = Workers()
    expects: Expected | None = None
    published: Published | None = None
    register_as: RegisterSettings | None = None


class TrainJob(Job, TrainSettings):
    """`jobs.train`."""
