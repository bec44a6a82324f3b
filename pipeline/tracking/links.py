"""Where runs are tracked by default, and where a person looks at them."""

import json
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote, urlsplit

from pipeline.addresses import without_user
from pipeline.errors import UserError
from pipeline.tracking.views import View, where

UI_PORT = 5000
_SQLITE = "sqlite:///"
_TRAINING = "workflowType=machine_learning"  # else a new browser shows the side of MLflow that is for language models


def default_tracking_uri(store_uri: str) -> str:
    """`MLFLOW_TRACKING_URI`, else a database beside a local store, else one in the working folder.

    Args:
        store_uri: the address of the store.
    """
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}{_beside(store_uri) / 'mlflow.db'}"


def default_spool(store_uri: str) -> str:
    """The folder for what is not yet sent: beside a local store, else in the user's cache."""
    if _is_remote(store_uri):
        return str(Path.home() / ".cache" / "sigmasweep" / "spool")
    return str(_beside(store_uri) / "mlflow-spool")


def absolute_uri(tracking_uri: str) -> str:
    """The address as it is right in every working folder.

    Raises:
        UserError: it names plain files, which MLflow is giving up and which store a repeated metric twice.
    """
    if tracking_uri.startswith("file:") or not re.match(r"[\w+]+:", tracking_uri):
        mend = f"use a database, such as sqlite:///{tracking_uri.removeprefix('file:').lstrip('/') or '.'}/mlflow.db"
        raise UserError(without_user(tracking_uri), f"tracking in plain files is not supported; {mend}")
    path = database_path(tracking_uri)
    return tracking_uri if path is None else f"{_SQLITE}{path}"


def database_path(tracking_uri: str) -> Path | None:
    """The file of a sqlite database, absolute; None for a server."""
    if not tracking_uri.startswith(_SQLITE):
        return None
    return Path(tracking_uri.removeprefix(_SQLITE)).expanduser().absolute()


def artifact_root(tracking_uri: str) -> str:
    """Where a new experiment keeps its files: beside a sqlite database; empty where the server decides."""
    path = database_path(tracking_uri)
    return "" if path is None else str(path.parent / "mlartifacts")


def ui_command(tracking_uri: str) -> str:
    """The one command that opens the UI on a sqlite database; empty for a server, which is there already."""
    path = database_path(tracking_uri)
    if path is None:
        return ""
    uri, python = shlex.quote(f"{_SQLITE}{path}"), shlex.quote(_python())
    return (
        "MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false "
        f"{python} -m mlflow server --backend-store-uri {uri} --workers 1 --host 127.0.0.1 --port {UI_PORT}"
    )


def _python() -> str:
    """This interpreter, as short as it can be said in this folder; the environment need not be activated."""
    here, python = Path.cwd(), Path(sys.executable)
    return str(python.relative_to(here)) if python.is_relative_to(here) else str(python)


def run_link(tracking_uri: str, experiment_id: str, run_id: str) -> str:
    """The page of a run."""
    return f"{_address(tracking_uri)}/#/experiments/{experiment_id}/runs/{run_id}"


def compare_link(tracking_uri: str, experiment_id: str, tags: Mapping[str, str]) -> str:
    """The runs table, with the runs that carry these tags."""
    wanted = where(tags)
    base = f"{_address(tracking_uri)}/#/experiments/{experiment_id}/runs"
    return f"{base}?searchFilter={quote(wanted, safe='')}&{_TRAINING}" if wanted else f"{base}?{_TRAINING}"


def view_link(tracking_uri: str, experiment_id: str, view: View, charts: bool = False) -> str:
    """The runs of a saved view, as a table or as charts."""
    mode = "&compareRunsMode=CHART" if charts else ""
    page = f"{_address(tracking_uri)}/#/experiments/{experiment_id}/runs"
    return f"{page}?viewStateShareKey={view.key}{mode}&{_TRAINING}"


def side_by_side_link(tracking_uri: str, experiment_id: str, run_ids: Sequence[str]) -> str:
    """The page that compares these runs: all that differs between them, and parallel coordinates."""
    runs, experiments = (quote(json.dumps(ids, separators=(",", ":"))) for ids in (list(run_ids), [experiment_id]))
    return f"{_address(tracking_uri)}/#/compare-runs?runs={runs}&experiments={experiments}&{_TRAINING}"


def artifact_link(tracking_uri: str, experiment_id: str, run_id: str, path: str) -> str:
    """A file of a run, shown by the page."""
    return f"{run_link(tracking_uri, experiment_id, run_id)}/artifacts/{quote(path)}?{_TRAINING}"


def readable(tracking_uri: str) -> str:
    """The address without user and password."""
    return without_user(tracking_uri)


def redacted(text: str, tracking_uri: str) -> str:
    """A text, such as an error's, without users and passwords of addresses."""
    user = urlsplit(tracking_uri).netloc.rpartition("@")[0]
    return without_user(text.replace(f"{user}@", "") if user else text)


def _address(tracking_uri: str) -> str:
    """The UI's: the server's own, or that of `ui_command`."""
    if tracking_uri.startswith(("http://", "https://")):
        return readable(tracking_uri).rstrip("/")
    return f"http://127.0.0.1:{UI_PORT}"


def _is_remote(store_uri: str) -> bool:
    return "://" in store_uri and not store_uri.startswith("file://")


def _beside(store_uri: str) -> Path:
    if _is_remote(store_uri):
        return Path.cwd()
    return Path(store_uri.removeprefix("file://")).expanduser().absolute().parent
