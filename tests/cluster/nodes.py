"""A cluster of two nodes on this machine, started as docs/cluster.md says, in token mode, with ports of its own."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.engine.processes import below, is_running

ROOT = Path(__file__).parents[2]
SESSION_WORDS = ("RAY_", "MLFLOW_", "PYTHONPATH")  # of whoever runs the tests: none of them may help
PATIENCE_S = 240.0
_COMMON = ["--object-store-memory=100000000", "--disable-usage-stats", "--block"]


@dataclass(frozen=True)
class Cluster:
    """Nodes of one CPU each.

    Args:
        home: of their user; holds the token.
        dashboard: the address that jobs are submitted to.
        gcs: the address that nodes join.
        code: a checkout, which is what is submitted.
    """

    home: Path
    dashboard: str
    gcs: str
    code: Path

    def ray(self, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        """Runs the command `ray`, with the right token unless the variables say otherwise; output in one text."""
        return subprocess.run(
            [_ray(), *arguments], env={**environment(self.home), **variables}, text=True, timeout=PATIENCE_S,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip

    def job(self, verb: str, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        """`ray job VERB` at this cluster."""
        return self.ray("job", verb, "--address", self.dashboard, *arguments, **variables)

    def submit(self, *command: str, options: tuple[str, ...] = ()) -> "subprocess.CompletedProcess[str]":
        """Submits a command with the code, and waits for its end unless the options say otherwise."""
        return self.job("submit", *options, "--working-dir", str(self.code), "--", *command)


def environment(home: Path) -> dict[str, str]:
    """Of a user who has a token."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(SESSION_WORDS)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {
        **kept, "HOME": str(home), "PATH": path, "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1", "NO_COLOR": "1",
    }  # fmt: skip


@contextmanager
def two_nodes() -> Iterator[Cluster]:
    """Starts the nodes, and ends them and all that they started."""
    with head("--num-cpus=1") as cluster:
        for _ in range(3):  # Ray gives a node 30 s to start, which a busy machine may not have
            [port] = free_ports(1)
            other = [f"--address={cluster.gcs}", f"--dashboard-agent-listen-port={port}", "--num-cpus=1", *_COMMON]
            with _node(cluster.home, cluster.home / "node.log", other) as process:
                if _has_joined(cluster, process):
                    yield cluster
                    return
        raise AssertionError((cluster.home / "node.log").read_text())


@contextmanager
def head(*options: str, port: int = 0, **variables: str) -> Iterator[Cluster]:
    """A head alone, with a token, and a checkout; by default at any port that is free."""
    folder = Path(tempfile.mkdtemp(prefix="ssw-", dir="/tmp"))  # short: sockets lie in it
    home, code = folder / "home", folder / "code"
    home.mkdir()
    copy_checkout(code)
    subprocess.run([_ray(), "get-auth-token", "--generate"], env=environment(home), capture_output=True, check=True)
    gcs, dashboard, client, agent = free_ports(4)
    gcs = port or gcs
    ports = [
        f"--port={gcs}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}",
        f"--dashboard-agent-listen-port={agent}",
    ]  # fmt: skip
    own = ["--head", "--dashboard-host=127.0.0.1", f"--temp-dir={folder}/ray"]
    try:
        with _node(home, home / "head.log", [*own, *ports, *_COMMON, *options], **variables):
            _wait_for_port(dashboard)
            yield Cluster(home, f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{gcs}", code)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def copy_checkout(target: Path) -> None:
    """What a user has in the folder that is submitted."""
    for name in ("pipeline", "jobs"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (".gitignore", ".rayignore", "pyproject.toml"):
        shutil.copyfile(ROOT / name, target / name)


@contextmanager
def _node(home: Path, log: Path, options: list[str], **variables: str) -> Iterator["subprocess.Popen[bytes]"]:
    with (
        log.open("w") as output,
        subprocess.Popen(
            [_ray(), "start", *options],
            env={**environment(home), **variables},
            stdout=output,
            stderr=output,
            start_new_session=True,
        ) as process,
    ):
        try:
            yield process
        finally:
            started = below(process.pid, "")
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            for pid in filter(is_running, started):
                os.kill(pid, signal.SIGKILL)


def _has_joined(cluster: Cluster, process: "subprocess.Popen[bytes]") -> bool:
    """Waits until there are two nodes; False where the process of the second one has ended."""
    while cluster.ray("status", f"--address={cluster.gcs}").stdout.count("1 node_") < 2:
        if process.poll() is not None:
            return False
        time.sleep(1)
    return True


def _wait_for_port(port: int) -> None:
    end = time.monotonic() + 180
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert time.monotonic() < end, "the head does not start"
        time.sleep(0.3)


def free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _ray() -> str:
    return str(Path(sys.executable).parent / "ray")
