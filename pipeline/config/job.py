"""What the settings files of all jobs share."""

from typing import Annotated

from pipeline.config.places import Written
from pipeline.training.settings import Frozen


class Job(Frozen):
    """What all jobs share: where things lie and where they are told.

    Args:
        store: a folder, or an address such as s3://bucket/prefix.
        experiment: the MLflow experiment.
        tracking_uri: of MLflow. Empty: MLFLOW_TRACKING_URI, or else a database beside the store.
    """

    store: Annotated[str, Written()] = "store"
    experiment: str = "sigmasweep"
    tracking_uri: Annotated[str | None, Written()] = None
