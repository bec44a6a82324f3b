"""The reporter that puts runs into MLflow.

A run is found by its key, so a job that is started again, or another process, goes on with the same run. No call
waits for the disk or for a server; `flush` does, and is called once at the end of a job.

What a run that goes on does: a metric value that is there at its step is not stored a second time; a param keeps its
first value, as MLflow wants it, and newer values stand in the tag `sigmasweep.changed_params`; tags, texts and files
are replaced; a picture of the same key, step and content is stored once; the status is RUNNING again.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from pipeline.tracking import links, names
from pipeline.tracking.hub import Hub, hub_of
from pipeline.tracking.spool import Operation, now_ms, read_json
from pipeline.tracking.views import View, envelope

Status = Literal["FINISHED", "FAILED", "KILLED"]
MAX_COMPARED = 10  # runs of the page that compares; more make columns too narrow and addresses too long
SETTLE_SECONDS = 30.0  # a disk may be slow, and so may the start of the process that sends
ID_SECONDS = 5.0  # that a link of the reporter waits for the experiment's id


@dataclass(frozen=True)
class MlflowReporter:
    """Opens runs in one experiment of one tracking server. Small and picklable.

    Args:
        tracking_uri: of a server (http, https) or a database (sqlite); a relative sqlite path becomes absolute.
        experiment: its name; made where it is missing.
        spool: a local folder for what is not yet sent, the same one at every start.
        flush_timeout: seconds that `flush` waits for the server.

    Raises:
        UserError: the address names plain files.
    """

    tracking_uri: str = field(repr=False)  # it may hold a password
    experiment: str
    spool: str
    flush_timeout: float = 15.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "tracking_uri", links.absolute_uri(self.tracking_uri))
        object.__setattr__(self, "spool", str(Path(self.spool).expanduser().absolute()))
        if not self.experiment.strip():
            raise ValueError("experiment: must not be empty")

    def run(self, key: str, name: str, tags: Mapping[str, str]) -> "MlflowRun":
        """The run of this key, opened anew or again."""
        return MlflowRun(self._hub, key, name, tags)

    def link(self, tags: Mapping[str, str]) -> str:
        """The runs table with the runs that carry these tags; waits for the experiment's id for a few seconds."""
        experiment_id = self._hub.experiment_id(ID_SECONDS)
        return links.compare_link(self.tracking_uri, experiment_id, tags) if experiment_id else ""

    def addresses(self, view: View, keys: Sequence[str] = (), report: str = "", wait: bool = True) -> dict[str, str]:
        """Where a person looks, each under a word for it. For the end of a job, after `flush`.

        Args:
            view: one that was given to a run.
            keys: of the runs that belong beside each other; at most `MAX_COMPARED` of them are.
            report: key of the run whose `report.html` is meant; empty: of none.
            wait: up to a few seconds for the server to be heard of; else only what is known is told.

        Returns:
            Empty if the server has not been heard of.
        """
        experiment = self._hub.experiment_id(ID_SECONDS if wait else -1.0)
        if not experiment:
            return {}
        uri, ids = self.tracking_uri, [found for key in keys if (found := self._run_id(key))]
        told = {
            "table": links.view_link(uri, experiment, view),
            "charts": links.view_link(uri, experiment, view, charts=True),
        }
        if not view.charts():
            del told["charts"]
        if len(ids) > 1:
            told["side by side"] = links.side_by_side_link(uri, experiment, ids[:MAX_COMPARED])
        if report and (run_id := self._run_id(report)):
            told["report"] = links.artifact_link(uri, experiment, run_id, "report.html")
        return told

    def _run_id(self, key: str) -> str:
        return str(read_json(self._hub.folder.run_file(names.clean_run_key(key))).get("run_id", ""))

    def flush(self, timeout: float | None = None) -> bool:
        """Waits until all that was reported, by earlier jobs too, is at the server. For the end of a job.

        Args:
            timeout: seconds, `flush_timeout` if None.

        Returns:
            False if the server could not be reached in that time: a warning says where the reports are kept.
        """
        return self._hub.flush(self.flush_timeout if timeout is None else timeout)

    def settle(self) -> None:
        """Waits until what was reported is on the disk, from where another process sends it."""
        self._hub.settle(SETTLE_SECONDS)

    def replay_pending(self) -> None:
        """Has what earlier jobs left in the spool sent. Opening a run does the same."""
        self._hub.wake()

    @property
    def _hub(self) -> Hub:
        return hub_of(self.tracking_uri, self.experiment, self.spool)


class MlflowRun:
    """One run; see `pipeline.reporting.Run`. Every call returns at once."""

    def __init__(self, hub: Hub, key: str, name: str, tags: Mapping[str, str]) -> None:
        self.key = names.clean_run_key(key)
        self._hub = hub
        self._is_closed = False
        self._spool = hub.open()
        self._put({"op": "open", "key": self.key, "name": name, "tags": _clean_tags(tags)})

    def params(self, settings: Mapping[str, Any]) -> None:
        """Nested settings, flattened. A value over 6,000 characters is cut and goes whole into a text file."""
        flat = names.flatten(settings)
        values = {key: names.cut(value, names.MAX_PARAM_LENGTH) for key, value in flat.items()}
        for key in [key for key in flat if flat[key] != values[key]]:
            self.text(flat[key], f"{names.LONG_PARAMS_FOLDER}/{key.replace('/', '_')}.txt")
        pairs = list(values.items())
        for start in range(0, len(pairs), 100):
            self._put({"op": "params", "values": dict(pairs[start : start + 100])})

    def tags(self, tags: Mapping[str, str]) -> None:
        self._put({"op": "tags", "values": _clean_tags(tags)})

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        cleaned = {names.clean_key(key): float(value) for key, value in values.items()}
        self._put({"op": "metrics", "step": int(step), "values": cleaned})

    def image(self, key: str, pixels: NDArray[np.uint8], step: int = 0) -> None:
        """Raises:
        ValueError: the picture is not uint8 of shape (H, W, 3) or (H, W).
        """
        good_shape = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
        if pixels.dtype != np.uint8 or not good_shape or pixels.size == 0:
            raise ValueError(f"pixels: must be uint8 (H, W, 3) or (H, W) (got {pixels.dtype} {pixels.shape})")
        copy = pixels.copy()
        operation: Operation = {"op": "image", "name": names.clean_key(key).replace(":", "_"), "step": int(step)}
        self._put(operation, lambda: _png(copy))

    def dataset(self, name: str, digest: str, use: str, about: Mapping[str, Any]) -> None:
        """The page shows the name and eight digits of the digest; the whole one is in what is told about it."""
        whole = json.dumps({"digest": digest, **about}, default=str)
        self._put({"op": "dataset", "name": name[:500], "digest": digest[:8], "use": use, "about": whole})

    def note(self, text: str) -> None:
        """The description that the run's page begins with, in Markdown."""
        self.tags({names.NOTE: text})

    def colour(self, colour: str) -> None:
        """Of the run's dot in tables and charts, `#rrggbb`."""
        self.tags({names.COLOUR: colour})

    def view(self, view: View) -> None:
        """Saves a view in the experiment, unless a person has changed the one that is there."""
        self._put({"op": "view", "name": view.name, "key": view.key, "value": envelope(view, now_ms())})

    def text(self, text: str, name: str) -> None:
        self._put({"op": "text", "name": _clean_path(name)}, text.encode())

    def file(self, path: Path, folder: str = "") -> None:
        """A file artifact. It is linked or copied into the spool soon after the call."""
        name = f"{folder}/{path.name}" if folder else path.name
        self._put({"op": "file", "name": _clean_path(name)}, Path(path).absolute())

    def link(self) -> str:
        """The page of the run; empty until the server has been heard of it."""
        found = read_json(self._hub.folder.run_file(self.key))
        return links.run_link(self._hub.tracking_uri, found["experiment_id"], found["run_id"]) if found else ""

    def close(self, status: str = "FINISHED") -> None:
        """Ends the run. Sending goes on in the sender's process; see `MlflowReporter.flush`."""
        if status not in get_args(Status):
            raise ValueError(f"status: must be one of {', '.join(get_args(Status))} (got {status!r})")
        if not self._is_closed:
            self._put({"op": "end", "status": status})
            self._is_closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stopped = kind is not None and issubclass(kind, KeyboardInterrupt)
        self.close("FINISHED" if kind is None else "KILLED" if stopped else "FAILED")

    def _put(self, operation: Operation, attachment: Any = None) -> None:
        if self._is_closed:
            raise RuntimeError(f"the run {self.key!r} is closed")
        self._hub.put(self._spool, {**operation, "ts": now_ms()}, attachment)


def _clean_tags(tags: Mapping[str, str]) -> dict[str, str]:
    return {names.clean_key(key): names.cut(str(value), names.MAX_TAG_LENGTH) for key, value in tags.items()}


def _clean_path(name: str) -> str:
    """A relative path without `..`, so that an artifact stays among the run's."""
    return "/".join(names.clean_key(part) for part in name.split("/") if part.strip(".")) or "file"


def _png(pixels: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()
