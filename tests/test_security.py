"""SECURITY.md holds: each test that it names is there, and everything that listens does so on loopback."""

import ast
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from pipeline.tracking.links import ui_command

ROOT = Path(__file__).parent.parent
_NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
_LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}  # as /proc has them

RAY = """if True:
    from pipeline.engine.session import session
    with session(num_cpus=1):
        import ray
        @ray.remote
        def work():
            return 1
        assert ray.get(work.remote()) == 1
        print("ready", flush=True)
        input()
"""


def named_tests() -> list[tuple[str, str]]:
    return _NAMED.findall((ROOT / "SECURITY.md").read_text())


def test_every_test_that_the_page_names_is_there() -> None:
    missing = []
    for path, name in named_tests():
        tree = ast.parse((ROOT / path).read_text()) if (ROOT / path).is_file() else ast.Module([], [])
        if name not in [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
            missing.append(f"{path}::{name}")
    assert missing == []
    assert len(named_tests()) > 30


def test_every_line_of_its_tables_names_a_test_or_says_why_there_is_none() -> None:
    rows = re.findall(r"^\| .* \|$", (ROOT / "SECURITY.md").read_text(), re.MULTILINE)
    told = [row for row in rows if not row.startswith(("| what ", "| --"))]
    assert [row for row in told if not _NAMED.search(row) and "no test" not in row] == []


def processes_below(root: int) -> set[int]:
    """A process and all its descendants."""
    parents = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has just ended
    found = {root}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def listening(root: int) -> dict[str, str]:
    """What a process and its descendants listen on: command by hexadecimal address and port."""
    sockets = {}
    for kind in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                sockets[f"socket:[{fields[9]}]"] = fields[1]
    found = {}
    for pid in processes_below(root):
        try:
            links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        found.update({sockets[link]: command for link in links if link in sockets})
    return found


def not_on_loopback(root: int) -> dict[str, str]:
    return {address: told for address, told in listening(root).items() if address.partition(":")[0] not in _LOOPBACK}


@contextmanager
def started(command: list[str], **options: object) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )  # type: ignore[call-overload]
    try:
        yield process
    finally:
        for pid in sorted(processes_below(process.pid), reverse=True):
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                continue
        process.communicate()


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def makefile_command(port: int, database: Path) -> list[str]:
    """What `make ui` runs, with another port and database."""
    told = subprocess.run(["make", "-n", "ui"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    line = told[told.index("MLFLOW_DISABLE_TELEMETRY") :].replace("\\\n", " ").splitlines()[0]
    line = re.sub(r"\S*bin/mlflow", f"{shlex.quote(sys.executable)} -m mlflow", line)
    line = re.sub(r"sqlite:///\S+", f"sqlite:///{database}", line)
    return ["bash", "-c", line.replace("--port 5000", f"--port {port}")]


@pytest.mark.slow
@pytest.mark.parametrize("which", ["the command that a job prints", "make ui"])
def test_the_screen_listens_on_loopback(which: str, tmp_path: Path) -> None:
    port, database = free_port(), tmp_path / "mlflow.db"
    if which == "make ui":
        command = makefile_command(port, database)
    else:
        command = ["bash", "-c", ui_command(f"sqlite:///{database}").replace("--port 5000", f"--port {port}")]
    with started(command, cwd=Path.cwd()) as process:  # where a job says it, it names its interpreter from there
        deadline = time.monotonic() + 120
        while not any(int(address.partition(":")[2], 16) == port for address in listening(process.pid)):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.2)
        assert not_on_loopback(process.pid) == {}


def test_a_ray_that_a_job_starts_listens_on_loopback(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["PYTHONPATH"] = str(ROOT)
    with started([sys.executable, "-c", RAY], env=environment, cwd=tmp_path) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        assert any(line.strip() == "ready" for line in lines), "Ray did not start"
        assert len(listening(process.pid)) >= 3  # else nothing was looked at
        assert not_on_loopback(process.pid) == {}


COMMANDS = re.compile(r"^.*(?:mlflow server|ray start|ray job submit|--dashboard-host|--host).*$", re.MULTILINE)


def test_no_documented_command_opens_a_server_to_others() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "Makefile", *ROOT.glob("pipeline/**/*.py")]
    told = [f"{page.name}: {line.strip()}" for page in pages for line in COMMANDS.findall(page.read_text())]
    assert [
        line for line in told if re.search(r"0\.0\.0\.0|--(dashboard-)?host[= ](?!127\.0\.0\.1|localhost)", line)
    ] == []
    assert any("mlflow server" in line for line in told)
