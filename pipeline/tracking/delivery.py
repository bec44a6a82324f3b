"""One spool into one run: operations become requests, in order, each of which may be repeated without harm."""

import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.tracking import names
from pipeline.tracking.client import MAX_METRICS, MAX_PARAMS, TrackingClient, status_of, value_text, verdict
from pipeline.tracking.spool import Operation
from pipeline.tracking.spool_reader import SpoolReader

IMAGE_FOLDER = "images"
MAX_PIECE_TRIES = 5  # with a server that answers: then a file or a view is given up, not what comes behind it
ARTIFACT_PATIENCE_S = 600.0  # where the server cannot reach its own storage (5xx)
_SERVER_ERROR = 500
_THUMBNAIL = 256  # pixels of the longer side, as MLflow's own

logger = logging.getLogger("pipeline.tracking")


@dataclass
class Batch:
    """Operations that one request takes, and the offset behind them."""

    metrics: list[tuple[str, float, int, int]] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    end: int = 0

    def add(self, operation: Operation, end: int) -> None:
        values, self.end = operation["values"], end
        if operation["op"] == "metrics":
            self.metrics.extend((key, value, operation["ts"], operation["step"]) for key, value in values.items())
        else:
            (self.params if operation["op"] == "params" else self.tags).update(values)

    @property
    def is_full(self) -> bool:
        return len(self.metrics) >= MAX_METRICS or len(self.params) >= MAX_PARAMS or len(self.tags) >= MAX_PARAMS


class Delivery:
    """Sends one spool.

    Args:
        client: the server.
        spool: what to send.
        on_run: told the key and the id of the run when it is known.
    """

    def __init__(self, client: TrackingClient, spool: SpoolReader, on_run: Callable[[str, str], None]) -> None:
        self.spool = spool
        self.is_done = False
        self._client = client
        self._on_run = on_run
        self._run_id = ""
        self._is_new = False
        self._params: dict[str, str] = {}
        self._changed: dict[str, str] = {}
        self._history: dict[str, set[tuple[int, str]]] = {}
        self._images: set[str] | None = None
        self._tries: dict[int, int] = defaultdict(int)
        self._first_tries: dict[int, float] = {}

    @property
    def key(self) -> str:
        return str(self.spool.head["key"]) if self.spool.head else ""

    def send(self, is_shared: bool) -> None:
        """Sends all that is there.

        Args:
            is_shared: another process or object still reports to the same run, so its status is left alone.

        Raises:
            Exception: a request failed; what was sent is marked, the rest is for the next time.
        """
        while self.spool.read():
            if not self._run_id:
                self._open()  # may set the spool back to its start
            try:
                self._send(self.spool.read(), is_shared)
            except Exception as error:
                if verdict(error) != "gone":
                    raise
                logger.warning("%s: its run was deleted; it is made anew", self.key)
                self._run_id = ""
            if self.is_done:
                return
        if self.spool.is_ownerless and not self.spool.read():  # its process was killed: nobody will end it
            self._finish()

    def _open(self) -> None:
        head = self.spool.head
        if head is None:
            return
        run, was_there = self._client.find_or_create(head)
        self._run_id, self._is_new = run.info.run_id, not was_there
        self._history, self._images = {}, None
        self._params = dict(run.data.params)
        self._changed = _changed_params(run.data.tags.get(names.CHANGED_PARAMS, "{}"))
        if self.spool.run_id != self._run_id:
            self.spool.mark(self._run_id, 0)
        if run.info.status != "RUNNING" and not (self.spool.is_ended or self.spool.is_ownerless):
            self._client.mlflow.update_run(self._run_id, status="RUNNING")
        self._on_run(self.key, self._run_id)

    def _send(self, entries: list[tuple[Operation, int]], is_shared: bool) -> None:
        batch = Batch()
        for operation, end in entries:
            kind = operation["op"]
            if kind in ("metrics", "params", "tags"):
                batch.add(operation, end)
                if batch.is_full:
                    batch = self._send_batch(batch)
                continue
            batch = self._send_batch(batch)
            if kind == "open":
                self._log(Batch(tags={**operation["tags"]}))
            elif kind == "end":
                self._end(operation, is_shared)
                return
            elif kind in ("image", "text", "file", "dataset", "view"):
                self._send_piece(operation, end)
            self.spool.mark(self._run_id, end)
        self._send_batch(batch)

    def _send_batch(self, batch: Batch) -> Batch:
        """Sends and marks a batch, returns an empty one."""
        if batch.end:
            self._log(batch)
            self.spool.mark(self._run_id, batch.end)
        return Batch()

    def _log(self, batch: Batch) -> None:
        metrics = [metric for metric in batch.metrics if self._is_news(metric)]
        params = self._new_params(batch.params)
        tags = dict(batch.tags)
        if changed := {key: value for key, value in batch.params.items() if self._params.get(key, value) != value}:
            self._changed.update(changed)
            tags[names.CHANGED_PARAMS] = _fitting_json(self._changed)
        try:
            self._client.log(self._run_id, metrics, params, tags)
        except Exception as error:
            if verdict(error) != "refused":
                raise
            self._log_singly(metrics, params, tags)
        self._params.update(params)

    def _log_singly(
        self, metrics: list[tuple[str, float, int, int]], params: dict[str, str], tags: dict[str, str]
    ) -> None:
        """After a refused batch: what the server takes, one by one; the rest is named and dropped."""
        parts: list[tuple[str, Batch]] = [(metric[0], Batch(metrics=[metric])) for metric in metrics]
        parts += [(key, Batch(params={key: value})) for key, value in params.items()]
        parts += [(key, Batch(tags={key: value})) for key, value in tags.items()]
        for key, part in parts:
            try:
                self._client.log(self._run_id, part.metrics, part.params, part.tags)
            except Exception as error:
                if verdict(error) != "refused":
                    raise
                logger.warning("%s: the server refuses %r (%s)", self.key, key, error)

    def _new_params(self, params: dict[str, str]) -> dict[str, str]:
        """MLflow refuses to change a param, so the first value stays; new ones are told in a tag."""
        return {key: value for key, value in params.items() if key not in self._params}

    def _is_news(self, metric: tuple[str, float, int, int]) -> bool:
        """Whether a run that was there before lacks this value at this step: a restarted job computes it again."""
        if self._is_new:
            return True
        key, value, _, step = metric
        if key not in self._history:
            self._history[key] = self._client.history(self._run_id, key)
        return (step, value_text(value)) not in self._history[key]

    def _end(self, operation: Operation, is_shared: bool) -> None:
        if self._is_new and self.spool.head is not None:
            kept, _ = self._client.find_or_create(self.spool.head)
            if kept.info.run_id != self._run_id:  # a twin came to light: all goes there, and this one goes
                twin, self._run_id = self._run_id, ""
                self._open()
                self.spool.mark(self._run_id, 0)
                self._client.mlflow.delete_run(twin)
                return
        if not is_shared:
            self._client.mlflow.set_terminated(self._run_id, operation["status"], operation["ts"])
        self._finish()

    def _finish(self) -> None:
        self.spool.discard()
        self.is_done = True

    # -- artifacts -----------------------------------------------------------------------------------------------

    def _send_piece(self, operation: Operation, end: int) -> None:
        """What the run is whole without: a server that answers, but does not take it, does not hold up the rest."""
        try:
            with tempfile.TemporaryDirectory(prefix="sigmasweep-") as folder:
                self._put(operation, Path(folder))
        except Exception as error:
            if verdict(error) in ("gone", "denied") or not self._client.is_alive():
                raise
            self._tries[end] += 1
            if not isinstance(error, FileNotFoundError) and not self._is_hopeless(error, end):
                raise
            name = operation.get("name", "")
            logger.warning("%s: %s %r is given up (%s)", self.key, operation["op"], name, error)

    def _put(self, operation: Operation, folder: Path) -> None:
        match operation["op"]:
            case "image":
                self._send_image(operation, folder)
            case "dataset":
                self._client.add_dataset(self._run_id, operation)
            case "view":
                self._client.save_view(operation["key"], operation["value"])
            case _:
                self._send_file(operation, folder)

    def _is_hopeless(self, error: Exception, end: int) -> bool:
        """Whether an artifact was tried often enough: storage behind the server may be away for a while."""
        first = self._first_tries.setdefault(end, time.monotonic())
        if status_of(error) >= _SERVER_ERROR:
            return time.monotonic() - first > ARTIFACT_PATIENCE_S
        return self._tries[end] >= MAX_PIECE_TRIES

    def _send_file(self, operation: Operation, folder: Path) -> None:
        """A file under its own name; sent again it replaces itself."""
        name = Path(operation["name"])
        source, local = self.spool.attachment(operation), folder / name.name
        try:
            os.link(source, local)
        except OSError:
            shutil.copyfile(source, local)
        parent = "" if str(name.parent) == "." else str(name.parent)
        self._client.mlflow.log_artifact(self._run_id, str(local), parent or None)

    def _send_image(self, operation: Operation, folder: Path) -> None:
        """What `MlflowClient.log_image` does, with a name made of the content instead of a random one.

        So the same picture sent twice is one picture. The UI's image grid reads key, step and time from the name.
        """
        from PIL import Image

        png = self.spool.attachment(operation)
        key = operation["name"].replace("/", "~")
        content = f"{key} {operation['step']} {hashlib.sha256(png.read_bytes()).hexdigest()}"
        mark = str(uuid.uuid5(uuid.NAMESPACE_OID, content))
        name = f"{key}+step+{operation['step']}+timestamp+{operation['ts']}+{mark}"
        there = self._images_there()
        older = next((re.sub(r"(\+compressed)?\.\w+$", "", found) for found in there if mark in found), None)
        if older and {f"{older}.png", f"{older}+compressed.webp"} <= there:
            return
        name = older or name
        shutil.copyfile(png, folder / f"{name}.png")
        with Image.open(png) as image:
            image.thumbnail((_THUMBNAIL, _THUMBNAIL))
            image.save(folder / f"{name}+compressed.webp")
        for file in (f"{name}.png", f"{name}+compressed.webp"):
            self._client.mlflow.log_artifact(self._run_id, str(folder / file), IMAGE_FOLDER)
            there.add(file)
        self._client.log(self._run_id, tags={"mlflow.loggedImages": "True"})

    def _images_there(self) -> set[str]:
        if self._images is None:
            self._images = set() if self._is_new else self._client.artifacts(self._run_id, IMAGE_FOLDER)
        return self._images


def _changed_params(tag: str) -> dict[str, str]:
    """What the tag holds; a person, or another program, may have written anything there."""
    try:
        found = json.loads(tag)
    except (ValueError, RecursionError):
        return {}
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def _fitting_json(values: dict[str, str]) -> str:
    """JSON of as many values as a tag takes; long ones are cut first."""
    values = {key: names.cut(value, 200) for key, value in values.items()}
    while len(text := json.dumps(values)) > names.MAX_TAG_LENGTH:
        values.popitem()
    return text
