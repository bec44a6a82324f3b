"""MLflow, as far as it is used: a run found by its key, batches that may be sent twice, and what an error means.

Imported by the sender's process alone.
"""

import contextlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote, urlsplit

from pipeline.tracking import names
from pipeline.tracking.views import VIEW_TAG, is_untouched, surplus_views

if TYPE_CHECKING:
    from mlflow.entities import Run

Verdict = Literal["unreachable", "denied", "gone", "refused"]

UNAUTHENTICATED, FORBIDDEN = 401, 403  # HTTP
CREDENTIALS = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"

MAX_METRICS = 1000  # of one request
MAX_PARAMS = 100  # of one request; of tags as many
MAX_VIEWS, MAX_VIEWS_OF_GROUP = 30, 5  # that jobs save in an experiment; the page stops at 40, a person's included
EXPERIMENT_NOTE = """Made by **sigmasweep**: *Views*, above on the right, has every benchmark and search.

A view has its runs, the columns that matter and, behind the second symbol left of the search field, its charts.

- `kind = sampler`: one sampler setting on one checkpoint
- `kind = benchmark`: what a benchmark found; its page begins with the table, and its artifacts hold `report.html`
- `kind = training`: one training
"""

_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
# The sender has its own patience: MLflow's would repeat a request, create_run too, for four minutes.
_IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
_REPEATED = re.compile(r"too many (\d{3}) error responses")
_REFUSED = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "MALFORMED_REQUEST", "INVALID_STATE"}


def verdict(error: Exception) -> Verdict:
    """What an error of a request means for what was sent.

    Returns:
        `unreachable`: try again later; `denied`: not to this user; `gone`: the run was deleted; `refused`: the server
        will never take this.
    """
    from mlflow.exceptions import MlflowException

    if status_of(error) in (UNAUTHENTICATED, FORBIDDEN):
        return "denied"
    if not isinstance(error, MlflowException):
        return "refused" if isinstance(error, TypeError | ValueError | LookupError) else "unreachable"
    if error.error_code == "RESOURCE_DOES_NOT_EXIST" or "must be in the 'active' state" in str(error):
        return "gone"
    return "refused" if error.error_code in _REFUSED else "unreachable"


def status_of(error: Exception) -> int:
    """The HTTP status that a server answered with; 0 where it did not, or MLflow does not tell."""
    from mlflow.exceptions import MlflowException

    if repeated := _REPEATED.search(str(error)):  # MLflow had it tried some times by itself, and tells no more
        return int(repeated[1])
    if isinstance(error, MlflowException):  # an internal error is what it calls all other trouble, its own too
        return 0 if error.error_code == "INTERNAL_ERROR" else int(error.get_http_status_code())
    return int(getattr(getattr(error, "response", None), "status_code", 0) or 0)  # of a file: requests' own error


def denial(error: Exception, tracking_uri: str, experiment: str) -> str:
    """What a person can do about `denied`, in one sentence that goes on after the server's address."""
    from mlflow.utils.credentials import read_mlflow_creds

    user = read_mlflow_creds().username or unquote(urlsplit(tracking_uri).username or "")
    if status_of(error) == FORBIDDEN:
        return f"user {user!r} may not write to the experiment {experiment!r} (403): have EDIT granted on it"
    if not user:
        return f"asks for a user and a password (401): set {CREDENTIALS}"
    return f"does not know user {user!r} with this password (401): mend {CREDENTIALS}, or the address"


class TrackingClient:
    """One tracking server and one experiment of it.

    Args:
        tracking_uri: as MLflow knows it.
        experiment: the experiment's name; made where it is missing.
        artifact_root: where a new experiment keeps its files, or empty for what the server decides.
    """

    def __init__(self, tracking_uri: str, experiment: str, artifact_root: str = "") -> None:
        os.environ.update(_QUIET)
        for name, value in _IMPATIENT.items():
            os.environ.setdefault(name, value)
        from mlflow.tracking import MlflowClient

        self.mlflow = MlflowClient(tracking_uri)
        self._experiment = experiment
        self._artifact_root = artifact_root
        self._experiment_id = ""

    def experiment_id(self) -> str:
        """Finds or makes the experiment. Asked once.

        Raises:
            MlflowException: the server cannot be reached, or the experiment was deleted.
        """
        if not self._experiment_id:
            self._experiment_id = self._find_experiment()
        return self._experiment_id

    def is_alive(self) -> bool:
        """Whether the server answers."""
        try:
            self.mlflow.search_experiments(max_results=1)
        except Exception as error:
            if verdict(error) != "unreachable":
                raise
            return False
        return True

    def find_or_create(self, head: Mapping[str, Any]) -> tuple["Run", bool]:
        """The run of a key, and whether it was there before.

        `create_run` is not idempotent: a lost reply, or two machines at once, make two runs. So it is searched for,
        else created, and searched for again; of several the first in a fixed order is kept (one that holds something
        before an empty one, then the older). Other empty ones are deleted; a run that holds something is deleted by
        its own sender only, when that has moved to the kept one.
        """
        found, made = self.runs_of(head["key"]), ""
        if not found:
            tags = {names.KEY: head["key"], **head["tags"]}
            run = self.mlflow.create_run(self.experiment_id(), head["ts"], tags, head["name"])
            made, found = run.info.run_id, self.runs_of(head["key"]) or [run]
        for other in found[1:]:
            if not _holds_something(other):
                self.mlflow.delete_run(other.info.run_id)
        return found[0], found[0].info.run_id != made

    def runs_of(self, key: str) -> "list[Run]":
        """The runs that carry a key (one of `names.clean_run_key`), the one to keep first."""
        found = self.mlflow.search_runs([self.experiment_id()], f"tags.`{names.KEY}` = '{key}'", max_results=1000)
        return sorted(found, key=lambda run: (not _holds_something(run), run.info.start_time, run.info.run_id))

    def log(
        self,
        run_id: str,
        metrics: Iterable[tuple[str, float, int, int]] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Sends one batch. Sent twice it is stored once, since the timestamps are part of it.

        Args:
            metrics: (key, value, timestamp in ms, step).
        """
        from mlflow.entities import Metric, Param, RunTag

        self.mlflow.log_batch(
            run_id,
            metrics=[Metric(*metric) for metric in metrics],
            params=[Param(*param) for param in (params or {}).items()],
            tags=[RunTag(*tag) for tag in (tags or {}).items()],
            synchronous=True,
        )

    def add_dataset(self, run_id: str, about: Mapping[str, Any]) -> None:
        """Notes a data set as an input of the run; noted again it is the same one."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=about["name"], digest=about["digest"], source_type="sigmasweep", source=about["about"],
            profile=about["about"],
        )  # fmt: skip
        use = InputTag("mlflow.data.context", about["use"])
        self.mlflow.log_inputs(run_id, datasets=[DatasetInput(dataset, [use])])

    def save_view(self, key: str, value: str) -> None:
        """Saves a view in the experiment, and describes the experiment if nobody has.

        A view that a person has changed stays as it is. Of the others the oldest go when there are many.
        """
        experiment = self.experiment_id()
        there = dict(self.mlflow.get_experiment(experiment).tags)
        if names.NOTE not in there:
            self.mlflow.set_experiment_tag(experiment, names.NOTE, EXPERIMENT_NOTE)
        tag = VIEW_TAG + key
        if tag in there and not is_untouched(there[tag]):
            return
        self.mlflow.set_experiment_tag(experiment, tag, value)
        for old in surplus_views({**there, tag: value}, MAX_VIEWS, MAX_VIEWS_OF_GROUP):
            self.mlflow.delete_experiment_tag(experiment, old)

    def history(self, run_id: str, key: str) -> set[tuple[int, str]]:
        """What a run already holds of a metric: (step, value as `value_text` writes it)."""
        return {(m.step, value_text(m.value)) for m in self.mlflow.get_metric_history(run_id, key)}

    def artifacts(self, run_id: str, folder: str) -> set[str]:
        """The names of a run's files in a folder."""
        return {Path(found.path).name for found in self.mlflow.list_artifacts(run_id, folder)}

    def _find_experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        found = self.mlflow.get_experiment_by_name(self._experiment)
        if found is None:
            with contextlib.suppress(MlflowException):  # another was faster, or the next request tells what is wrong
                return str(self.mlflow.create_experiment(self._experiment, self._artifact_root or None))
            found = self.mlflow.get_experiment_by_name(self._experiment)
            if found is None:
                raise MlflowException(f"the experiment {self._experiment!r} can neither be found nor made")
        if found.lifecycle_stage != "active":
            raise MlflowException(
                f"the experiment {self._experiment!r} was deleted: bring it back with "
                f"`mlflow experiments restore -x {found.experiment_id}`, or use another name"
            )
        return str(found.experiment_id)


def value_text(value: float) -> str:
    """A number for comparison: NaN equals NaN, and infinity is what MLflow's database makes of it."""
    return repr(max(-1.7976931348623157e308, min(1.7976931348623157e308, value))) if value == value else "nan"


def _holds_something(run: "Run") -> bool:
    return bool(run.data.metrics or run.data.params)
