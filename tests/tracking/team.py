"""A team's tracker, set up as docs/tracking.md says: its own blocks are run, with other passwords, ports and paths."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.documents import blocks
from tests.object_server import ObjectServer, die_with_parent
from tests.postgres import Postgres

PAGE = "tracking.md"
_PATIENCE_S = 180

ADMINISTRATOR, JOBS, READER = "administrator-4711", "password-of-jobs-4712", "password-of-reader-4713"
DATABASE, SECRET_KEY = "database-4714", "secret-key-4715"


@dataclass
class TeamServer:
    """MLflow's server on PostgreSQL and object storage, with passwords."""

    folder: Path
    database: Postgres
    objects: ObjectServer
    port: int = field(default_factory=lambda: _free_port())
    _process: "subprocess.Popen[bytes] | None" = None

    @property
    def uri(self) -> str:
        """Without a user."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def uri_of(self, user: str, password: str) -> str:
        return f"http://{user}:{password}@127.0.0.1:{self.port}"

    def set_up(self) -> None:
        """Role, databases, and the two files."""
        (statements,) = blocks(PAGE, "sql")
        self.database.run(self.filled(statements))
        (environment,), (users,) = blocks(PAGE, "sh"), blocks(PAGE, "ini")
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.folder / "tracker.env").write_text(self.filled(environment))
        (self.folder / "users.ini").write_text(self.filled(users))

    def start(self) -> None:
        (command,) = blocks(PAGE, "bash")
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", self.filled(command)], cwd=self.folder, env=environment, stdout=log, stderr=log,
                start_new_session=True, preexec_fn=die_with_parent,
            )  # fmt: skip
        deadline = time.monotonic() + _PATIENCE_S
        while not self._is_up():
            assert self._process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(0.2)

    def make_users(self) -> None:
        (program,) = blocks(PAGE, "python")
        administrator = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": ADMINISTRATOR}
        environment = {**os.environ, **administrator}
        subprocess.run([sys.executable, "-c", self.filled(program)], env=environment, check=True)

    def kill(self) -> None:
        """SIGKILL to all of its processes."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def command_lines(self) -> bytes:
        """What every user of the machine can read of its processes."""
        assert self._process is not None
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if os.getpgid(int(process.name)) == self._process.pid:
                    found.append((process / "cmdline").read_bytes())
            except OSError:
                continue  # it has just ended
        return b"\n".join(found)

    def filled(self, text: str) -> str:
        """A block of the page with this server's values; a placeholder that is not there is a mistake in the page."""
        values = {
            "127.0.0.1:5432": f"127.0.0.1:{self.database.port}", "127.0.0.1:9000": self.objects.endpoint[7:],
            "127.0.0.1:5000": f"127.0.0.1:{self.port}", "--port 5000": f"--port {self.port}",
            "change-database": DATABASE, "change-secret-key": SECRET_KEY, "change-administrator": ADMINISTRATOR,
            "change-jobs-password": JOBS, "change-reader-password": READER,
            "change-key": "key", "change-secret": "secret", "s3://mlflow/": "s3://bucket/",
        }  # fmt: skip
        for placeholder, value in values.items():
            text = text.replace(placeholder, value)
        assert "change-" not in text, text
        return text

    def _is_up(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            return False


@contextmanager
def team_server(folder: Path, database: Postgres, objects: ObjectServer) -> Iterator[TeamServer]:
    """Sets one up and starts it, and ends it with the block."""
    server = TeamServer(folder, database, objects)
    try:
        server.set_up()
        server.start()
        server.make_users()
        yield server
    finally:
        server.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
