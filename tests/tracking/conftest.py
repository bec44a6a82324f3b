"""A tracking database made once and copied, a real `mlflow server` on loopback, and one sender for most tests."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.tracking.client import TrackingClient
from pipeline.tracking.mlflow_reporter import MlflowReporter

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # before MLflow is imported: nothing but loopback

EXPERIMENT = "digits"


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Making MLflow's tables takes seconds."""
    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    TrackingClient(f"sqlite:///{path}", EXPERIMENT).is_alive()
    return path


@pytest.fixture
def client(empty_database: Path, tmp_path: Path) -> TrackingClient:
    """A client of a new sqlite database."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return TrackingClient(f"sqlite:///{tmp_path / 'mlflow.db'}", EXPERIMENT, str(tmp_path / "mlartifacts"))


@pytest.fixture(scope="session")
def reporter(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> MlflowReporter:
    """One reporter, so one sender's process, for all tests that need a real one; each test has its own keys."""
    folder = tmp_path_factory.mktemp("tracking")
    shutil.copy(empty_database, folder / "mlflow.db")
    return MlflowReporter(f"sqlite:///{folder / 'mlflow.db'}", EXPERIMENT, str(folder / "spool"), flush_timeout=60)


@pytest.fixture(scope="session")
def stored(reporter: MlflowReporter) -> TrackingClient:
    """Looks into the database of `reporter`."""
    root = Path(reporter.tracking_uri.removeprefix("sqlite:///")).parent / "mlartifacts"
    return TrackingClient(reporter.tracking_uri, EXPERIMENT, str(root))


class Server:
    """A real MLflow server that can be killed and started again on the same port and database."""

    def __init__(self, folder: Path, database: Path) -> None:
        self.folder = folder
        shutil.copy(database, folder / "server.db")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        environment = {
            **os.environ,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder / 'server.db'}"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        log = (self.folder / "server.log").open("ab")
        self._process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True, cwd=self.folder
        )
        deadline = time.monotonic() + 180
        while not self._is_up():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError((self.folder / "server.log").read_text()[-2000:])
            time.sleep(0.1)

    def kill(self) -> None:
        """SIGKILL to all of its processes."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _is_up(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            return False


@pytest.fixture(scope="module")
def stopped_server(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Its address and database; a test that uses it leaves it started or stopped, as it likes."""
    server = Server(tmp_path_factory.mktemp("server"), empty_database)
    yield server
    server.kill()


@pytest.fixture
def server(stopped_server: Server) -> Server:
    """One that runs."""
    if not stopped_server.is_running:
        stopped_server.start()
    return stopped_server
