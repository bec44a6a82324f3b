"""What a submitted job writes must not lie in its working folder: Ray deletes that copy when the job is over."""

import os

from pipeline.config.job import Job
from pipeline.config.places import is_relative, written
from pipeline.engine.session import is_submitted
from pipeline.errors import SettingsError

_MENDS = {
    "store": "give a folder that all nodes see, by its whole path, or s3://bucket/prefix",
    "tracking_uri": "give the address of an MLflow server, or the whole path of a database",
    "": "give a whole path, or none: the tracker has it too",
}


def check_places(job: Job, where: str) -> None:
    """Nothing where the job was not submitted: then relative places are meant from where the user is.

    Args:
        where: the settings file, for the sentence.

    Raises:
        SettingsError: a place is relative, or the runs of a store on object storage would be tracked in a file.
    """
    if not is_submitted():
        return
    for key, place in written(job).items():
        _check(key, place, f"{where}: {key}")
    variable = os.environ.get("MLFLOW_TRACKING_URI", "")
    if job.tracking_uri is None and variable:
        _check("tracking_uri", variable, "MLFLOW_TRACKING_URI")
    elif job.tracking_uri is None and "://" in job.store:
        mend = "set it, or MLFLOW_TRACKING_URI in the env_vars of the job's runtime_env"
        raise SettingsError(f"{where}: tracking_uri", f"is needed beside a store on object storage: {mend}")


def check_store(job: Job, where: str) -> None:
    """The store alone, of settings whose other places are not written to."""
    if is_submitted():
        _check("store", job.store, f"{where}: store")


def _check(key: str, place: str, where: str) -> None:
    if is_relative(place):
        problem = "is relative, and Ray deletes the working folder of a submitted job"
        raise SettingsError(where, f"{problem}: {_MENDS.get(key, _MENDS[''])} (got {place})")
