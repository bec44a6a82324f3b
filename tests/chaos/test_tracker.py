"""MLflow's server killed again and again during one job, and replies lost on the wire meanwhile."""

import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from pipeline.tracking.mlflow_reporter import MlflowReporter
from pipeline.tracking.spool import SpoolFolder
from tests.chaos.told import telling
from tests.tracking.conftest import EXPERIMENT, Server
from tests.tracking.test_server import assert_once, job

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

HOLD_UP_S = 0.050
KILLS = 3


class LossyWire:
    """A proxy of bytes: passes connections on, and cuts one off when its reply comes, now and then.

    Args:
        port: of the server behind it.
        share: of the replies that are lost.
    """

    def __init__(self, port: int, share: float, seed: int) -> None:
        self._port, self._share, self._random = port, share, random.Random(seed)
        self.num_lost = self.num_passed = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.uri = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):  # of a socket that was closed
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with closing(client), suppress(OSError), socket.create_connection(("127.0.0.1", self._port)) as behind:
            threading.Thread(target=self._forward, args=(client, behind), daemon=True).start()
            while reply := behind.recv(65536):  # a reply, or a part of one
                if self._random.random() < self._share:
                    self.num_lost += 1
                    client.shutdown(socket.SHUT_RDWR)
                    return
                self.num_passed += 1
                client.sendall(reply)
            client.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def _forward(client: socket.socket, behind: socket.socket) -> None:
        with suppress(OSError):
            while request := client.recv(65536):
                behind.sendall(request)
            behind.shutdown(socket.SHUT_WR)


@pytest.fixture
def wire(server: Server) -> Iterator[LossyWire]:
    wire = LossyWire(server.port, share=0.15, seed=5)
    yield wire
    wire.close()


def test_a_server_killed_three_times_and_replies_lost_on_the_wire_lose_and_double_nothing(
    server: Server, wire: LossyWire, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    among = random.Random(6)
    reporter = MlflowReporter(wire.uri, EXPERIMENT, str(tmp_path / "spool"), flush_timeout=300)
    with telling(capsys) as tell, job(reporter, "storm", 1000, tmp_path / "enough", 0.01) as process:
        for _ in range(KILLS):
            time.sleep(among.uniform(2, 8))
            server.kill()
            time.sleep(among.uniform(0, 3))
            server.start()
        (tmp_path / "enough").touch()
        out, _ = process.communicate(timeout=400)
        longest, sent, seconds, longest_of_all, num_steps = json.loads(out)
        tell(
            f"{KILLS} kills of the server, {wire.num_lost} replies lost, {wire.num_passed} passed: {num_steps} metrics "
            f"once each; longest call {1000 * longest:.1f} ms ({1000 * longest_of_all:.1f} ms with what the machine's "
            f"other work took), last words sent in {seconds:.1f} s"
        )
    assert sent
    assert longest < HOLD_UP_S
    assert wire.num_lost >= 5
    assert_once(server, "storm", num_steps)
    assert SpoolFolder.of(reporter.spool, reporter.tracking_uri, EXPERIMENT).files() == []


def test_a_server_that_is_down_for_the_whole_job_gets_all_of_it_at_the_next_start(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.kill()
    reporter = MlflowReporter(server.uri, EXPERIMENT, str(tmp_path / "spool"), flush_timeout=2)
    with telling(capsys) as tell:
        for number in range(3):  # three jobs, none of which ever sees the server
            with job(reporter, f"down {number}", 2000) as process:
                longest, sent, *_ = json.loads(process.communicate(timeout=120)[0])
            assert not sent
            assert longest < HOLD_UP_S
        folder = SpoolFolder.of(reporter.spool, reporter.tracking_uri, EXPERIMENT)
        assert len(folder.files()) == 3
        server.start()
        reporter.replay_pending()
        assert reporter.flush(120)
        tell("3 jobs without a server: all arrived at the next start")
    for number in range(3):
        assert_once(server, f"down {number}", 2000)
