"""A real MLflow server: replies lost on the wire, killed, silent, and away for a whole job."""

import contextlib
import json
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from pipeline.tracking import names
from pipeline.tracking.client import TrackingClient
from pipeline.tracking.mlflow_reporter import MlflowReporter, MlflowRun
from pipeline.tracking.spool import SpoolFolder
from tests.tracking.conftest import EXPERIMENT, LosingProxy, Server

JOB = """if True:
    import json, os, pickle, resource, sys, time
    import numpy as np
    reporter = pickle.loads(bytes.fromhex(sys.argv[1]))
    longest = longest_of_all = 0.0
    def times_pushed_aside():  # by other work of the machine; waiting does not count
        return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
    def timed(call, *args):
        global longest, longest_of_all
        before, start = times_pushed_aside(), time.perf_counter()
        result = call(*args)
        took = time.perf_counter() - start
        longest_of_all = max(longest_of_all, took)
        if times_pushed_aside() == before:
            longest = max(longest, took)
        return result
    run = timed(reporter.run, sys.argv[2], "job", {"benchmark": "b"})
    timed(run.params, {"num_steps": 18})
    step = 0
    while step < int(sys.argv[3]) or (sys.argv[4] and not os.path.exists(sys.argv[4])):
        timed(run.metrics, {"loss": step / 7}, step)
        time.sleep(float(sys.argv[5]))
        step += 1
    timed(run.image, "samples", np.zeros((64, 64, 3), np.uint8), 1)
    timed(run.text, "a: 1", "settings.yaml")
    timed(run.close)
    start = time.perf_counter()
    sent = reporter.flush()
    print(json.dumps([longest, sent, time.perf_counter() - start, longest_of_all, step]))
"""


def run_job(reporter: MlflowReporter, key: str) -> tuple[float, bool, float]:
    """A job in its own process: its longest call, whether all was sent, and the seconds of its flush."""
    with job(reporter, key, 1000) as process:
        out, _ = process.communicate(timeout=120)
    longest, sent, seconds, *_ = json.loads(out)
    return longest, sent, seconds


def job(
    reporter: MlflowReporter, key: str, num_steps: int, until: Path | None = None, pause: float = 0.002
) -> subprocess.Popen[bytes]:
    """A job that makes so many steps, and goes on until a file is there. It prints its longest call (but for those
    that the machine's other work took), whether all was sent, seconds of its flush, its longest call, and its steps."""
    command = [
        sys.executable,
        "-c",
        JOB,
        pickle.dumps(reporter).hex(),
        key,
        str(num_steps),
        str(until or ""),
        str(pause),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def assert_once(server: Server, key: str, num_steps: int) -> None:
    """One run of the key, and every step of its metric once."""
    client = TrackingClient(server.uri, EXPERIMENT)
    (run,) = client.runs_of(key)
    steps = sorted(m.step for m in client.mlflow.get_metric_history(run.info.run_id, "loss"))
    assert steps == list(range(num_steps))
    assert run.info.status == "FINISHED"
    assert {"num_steps": "18"}.items() <= run.data.params.items()
    assert len(client.artifacts(run.info.run_id, "images")) == 2
    assert client.artifacts(run.info.run_id, "") >= {"settings.yaml", "images"}


def report(run: MlflowRun, first: int, last: int, pause: float = 0.002) -> None:
    for step in range(first, last):
        run.metrics({"loss": step / 7}, step)
        time.sleep(pause)


def finish(run: MlflowRun) -> None:
    run.params({"num_steps": 18})
    run.image("samples", np.zeros((64, 64, 3), np.uint8), 1)
    run.text("a: 1", "settings.yaml")
    run.close()


def test_a_server_that_is_away_for_a_whole_job_gets_it_all_at_the_next_start(
    stopped_server: Server, tmp_path: Path
) -> None:
    server = stopped_server
    reporter = MlflowReporter(server.uri, EXPERIMENT, str(tmp_path / "spool"), flush_timeout=2)
    longest, sent, seconds = run_job(reporter, "away")
    assert longest < 0.05
    assert not sent
    assert seconds < 2.5
    folder = SpoolFolder.of(reporter.spool, reporter.tracking_uri, EXPERIMENT)
    assert len(folder.files()) == 1
    server.start()
    patient = MlflowReporter(server.uri, EXPERIMENT, str(tmp_path / "spool"), flush_timeout=60)
    longest, sent, _ = run_job(patient, "next start")
    assert longest < 0.05
    assert sent
    for key in ("away", "next start"):
        assert_once(server, key, 1000)
    assert folder.files() == []


def test_replies_lost_on_the_wire_double_nothing(server: Server, proxy: ThreadingHTTPServer, tmp_path: Path) -> None:
    uri = f"http://127.0.0.1:{proxy.server_address[1]}"
    reporter = MlflowReporter(uri, EXPERIMENT, str(tmp_path / "spool"), flush_timeout=60)
    run = reporter.run("lost", "lost replies", {})
    report(run, 0, 500)
    finish(run)
    assert reporter.flush()
    assert LosingProxy.num_lost >= 5
    assert "POST runs/create" in LosingProxy.seen
    assert_once(server, "lost", 500)


def test_nan_passes_over_the_wire(server: Server, tmp_path: Path) -> None:
    client = TrackingClient(server.uri, EXPERIMENT)
    run, _ = client.find_or_create({"key": "nan", "name": "nan", "tags": {}, "ts": 1})
    client.log(run.info.run_id, [("m", float("nan"), 1, 1), ("m", float("inf"), 1, 2)])
    assert client.history(run.info.run_id, "m") == {(1, "nan"), (2, "1.7976931348623157e+308")}


@pytest.mark.slow
def test_a_server_killed_three_times_costs_nothing(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reporter = MlflowReporter(server.uri, EXPERIMENT, str(tmp_path / "spool"), flush_timeout=90)
    key = "killed three times"
    run = reporter.run(key, key, {})
    step = 0
    for _ in range(3):
        report(run, step, step + 1300)  # long enough that batches are on their way
        server.kill()
        report(run, step + 1300, step + 2000)
        server.start()
        step += 2000
        assert reporter.flush()
    report(run, step, step + 200)
    finish(run)
    assert reporter.flush()
    assert_once(server, key, step + 200)
    assert sum(f"{server.uri}: cannot be reached" in record.getMessage() for record in caplog.records) == 3


def test_a_server_that_takes_the_call_and_never_answers_holds_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with contextlib.closing(socket.socket()) as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(50)
        uri = f"http://me:secret@127.0.0.1:{silent.getsockname()[1]}"
        longest, sent, seconds = run_job(MlflowReporter(uri, EXPERIMENT, str(tmp_path / "spool"), 2.0), "silent")
        status = SpoolFolder.of(str(tmp_path / "spool"), uri, EXPERIMENT).status
        wait_for(status.exists)
        assert "secret" not in status.read_text()
    assert longest < 0.05
    assert not sent
    assert seconds < 2.5


def test_two_machines_that_open_a_key_at_once_make_one_run(server: Server, tmp_path: Path) -> None:
    """Two spools, so two senders that know nothing of each other."""
    reporters = [MlflowReporter(server.uri, EXPERIMENT, str(tmp_path / f"spool{n}"), 60) for n in range(2)]
    runs = [reporter.run("both", "both", {}) for reporter in reporters]
    for step in range(400):
        runs[step % 2].metrics({"loss": step / 7}, step)
    for run in runs:
        finish(run)
    for reporter in reporters:
        assert reporter.flush()
    client = TrackingClient(server.uri, EXPERIMENT)
    (run,) = client.runs_of("both")
    assert run.data.tags[names.KEY] == "both"
    assert len(client.mlflow.get_metric_history(run.info.run_id, "loss")) == 400
