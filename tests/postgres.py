"""A real PostgreSQL of our own on this machine: Debian's programs, a new cluster in a temporary folder."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.object_server import die_with_parent

_PATIENCE_S = 60
_PASSWORD = "of-the-superuser"


@dataclass(frozen=True)
class Postgres:
    """A cluster on loopback."""

    port: int
    programs: Path

    def run(self, statements: str, database: str = "postgres") -> str:
        """What `psql` prints of statements, run as the superuser: rows as lines, columns parted by |.

        Raises:
            CalledProcessError: one of them failed.
        """
        command = [self.programs / "psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1"]
        command += ["-p", str(self.port), "-U", "postgres", "-d", database]
        environment = {**os.environ, "PGPASSWORD": _PASSWORD}
        return subprocess.run(
            command, input=statements, env=environment, check=True, capture_output=True, text=True
        ).stdout.strip()

    def dump(self, database: str) -> bytes:
        """All that a database holds, as SQL."""
        command = [self.programs / "pg_dump", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", database]
        environment = {**os.environ, "PGPASSWORD": _PASSWORD}
        return subprocess.run(command, env=environment, check=True, capture_output=True).stdout


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Starts one, and ends it with the block. Without the programs the test is skipped."""
    programs = _programs()
    user = _user()
    folder = Path(tempfile.mkdtemp(prefix="sigmasweep-postgres-"))  # pytest's are closed to other users
    if user is not None:
        shutil.chown(folder, user)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = None
    try:
        (folder / "password").write_text(_PASSWORD)
        (folder / "password").chmod(0o644)
        make = [programs / "initdb", "-D", folder / "data", "-U", "postgres", "--auth=scram-sha-256", "--no-sync"]
        subprocess.run(
            [*make, f"--pwfile={folder / 'password'}"], user=user, cwd=folder, check=True, capture_output=True
        )
        settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "fsync": "off"}
        start: list[str | Path] = [programs / "postgres", "-D", folder / "data"]
        start += [f"--{name}={value}" for name, value in settings.items()]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(start, user=user, cwd=folder, stdout=log, stderr=log, preexec_fn=die_with_parent)
        _wait(programs, port, server, folder / "log")
        yield Postgres(port, programs)
    finally:
        if server is not None:
            server.kill()
            server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[4]))
    if not found:
        pytest.skip("needs PostgreSQL: apt-get install postgresql")
    return found[-1].parent


def _user() -> str | None:
    """PostgreSQL refuses to run as root: then it is its own user, or nobody."""
    if os.getuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    pytest.skip("PostgreSQL does not run as root, and there is no user `postgres` or `nobody`")


def _wait(programs: Path, port: int, server: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    ready = [programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
    while subprocess.run(ready, check=False).returncode != 0:
        assert server.poll() is None, log.read_text()[-2000:]
        assert time.monotonic() < deadline, "PostgreSQL does not start"
        time.sleep(0.1)
