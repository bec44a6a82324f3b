"""Settings of jobs that take checkpoints in and hand them out."""

from typing import Annotated

from pydantic import Field

from pipeline.config.checkpoints import CheckpointSettings, RegisterSettings
from pipeline.config.job import Job
from pipeline.config.places import Written


class ImportCheckpointJob(Job):
    """`jobs.import_checkpoint`: a checkpoint that others made, into the store.

    Args:
        name: under which the store keeps it; it is then named as a training is: `checkpoint: {training: <name>}`.
        path: a network pickle of NVlabs (EDM, EDM2), a folder of diffusers with a UNet2DModel, or a folder that
            `jobs.export_checkpoint` wrote.
        licence: of the weights, such as CC BY-NC-SA 4.0; every run on them shows it. Empty only where the file says it.
        dataset: the name of a prepared data set that it was trained on, if any; evaluations then compare with it.
        num_images: images seen in training. Empty: as the file says, or 0.
        register_as: the registered model of which the checkpoint becomes a version. Empty: none.
    """

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    path: str = Field(min_length=1)
    licence: str | None = Field(default=None, min_length=1, max_length=500)
    dataset: str | None = None
    num_images: int | None = Field(default=None, ge=0, lt=10**12)
    register_as: RegisterSettings | None = None


class ExportCheckpointJob(Job):
    """`jobs.export_checkpoint`: a checkpoint as a folder with config.json and safetensors.

    Args:
        folder: where to; it must not be there.
        licence: of the weights. Empty: the one that they were imported with, if any.
    """

    checkpoint: CheckpointSettings
    folder: Annotated[str, Written()] = Field(min_length=1)
    licence: str | None = Field(default=None, min_length=1, max_length=500)
