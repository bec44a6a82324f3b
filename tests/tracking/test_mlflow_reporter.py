"""The whole way: calls, spool, the sender's process, a sqlite database."""

import fcntl
import os
import pickle
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.reporting import Reporter, Run
from pipeline.tracking import hub, links
from pipeline.tracking.client import TrackingClient
from pipeline.tracking.mlflow_reporter import MlflowReporter
from pipeline.tracking.spool import SpoolFolder, lock, read_json, write_json

HOLD_UP = 0.050  # seconds that no call may take

REPORT = """if True:
    import pickle, sys, time
    reporter = pickle.loads(bytes.fromhex(sys.argv[1]))
    run = reporter.run(sys.argv[2], "run", {"process": "many"})
    for step in range(int(sys.argv[3]), int(sys.argv[4])):
        run.metrics({"loss": step / 7}, step=step)
        time.sleep(0.001)
    print("reported", flush=True)
    if sys.argv[5] == "close":
        run.close()
    if sys.argv[5] == "hang":
        time.sleep(60)
"""


def report(reporter: MlflowReporter, key: str, first: int, last: int, end: str) -> subprocess.Popen[bytes]:
    """Another process that reports; its reporter came by pickle, as to a Ray worker."""
    command = [sys.executable, "-c", REPORT, pickle.dumps(reporter).hex(), key, str(first), str(last), end]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def steps(stored: TrackingClient, key: str, metric: str = "loss") -> list[int]:
    (run,) = stored.runs_of(key)
    return sorted(m.step for m in stored.mlflow.get_metric_history(run.info.run_id, metric))


def new_key() -> str:
    return uuid.uuid4().hex


def times_pushed_aside() -> int:
    """How often the kernel gave this thread's processor to another process. Waiting does not count."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw


def sender_of(folder: SpoolFolder) -> int:
    return int(read_json(folder.status).get("pid", 0))


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_it_is_a_reporter_for_the_port(reporter: MlflowReporter) -> None:
    port: Reporter = reporter
    run: Run = port.run(new_key(), "name", {})
    run.close()


def test_what_is_reported_arrives_and_has_a_link(reporter: MlflowReporter, stored: TrackingClient) -> None:
    key = new_key()
    with reporter.run(key, "euler 18", {"benchmark": "b1"}) as run:
        run.params({"sampler": {"num_steps": 18}})
        run.metrics({"fd": 2.5}, step=18)
        run.image("samples", np.zeros((20, 20, 3), np.uint8), 18)
    assert reporter.flush()
    (found,) = stored.runs_of(key)
    assert found.info.status == "FINISHED"
    assert found.data.metrics == {"fd": 2.5}
    page = f"http://127.0.0.1:5000/#/experiments/{found.info.experiment_id}/runs"
    assert run.link() == f"{page}/{found.info.run_id}"
    wanted = "searchFilter=tags.%60benchmark%60%20%3D%20%27b1%27&workflowType=machine_learning"
    assert reporter.link({"benchmark": "b1"}) == f"{page}?{wanted}"
    assert Path(found.info.artifact_uri).is_relative_to(Path(reporter.spool).parent)  # and not in the working folder


def test_no_call_holds_up_its_thread(reporter: MlflowReporter, stored: TrackingClient) -> None:
    key, longest = new_key(), 0.0
    pixels = np.random.default_rng(0).integers(0, 256, (512, 1024, 3), dtype=np.uint8)

    def timed(call: Callable[..., Any], *args: Any) -> Any:
        nonlocal longest
        before, start = times_pushed_aside(), time.perf_counter()
        result = call(*args)
        took = time.perf_counter() - start
        if times_pushed_aside() == before:  # else the machine's other work took the processor, not the tracker
            longest = max(longest, took)
        return result

    run = timed(reporter.run, key, "timed", {})
    for step in range(2000):
        timed(run.metrics, {f"train/loss_{bin}": float(step) for bin in range(10)}, step)
        if step % 400 == 0:
            timed(run.image, "samples", pixels, step)
            timed(run.params, {f"p{step}": "x" * 7000})
    timed(run.text, "x" * 10**6, "settings.yaml")
    timed(run.link)
    timed(run.close)
    assert longest < HOLD_UP
    assert reporter.flush()
    assert steps(stored, key, "train/loss_3") == list(range(2000))


def test_several_processes_report_to_one_run_and_to_their_own(reporter: MlflowReporter, stored: TrackingClient) -> None:
    shared, own = new_key(), [new_key(), new_key()]
    processes = [report(reporter, shared, 100 * n, 100 * n + 100, "close") for n in range(2)]
    processes += [report(reporter, key, 0, 50, "close") for key in own]
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert reporter.flush()
    assert steps(stored, shared) == list(range(200))
    assert [steps(stored, key) for key in own] == [list(range(50))] * 2


def test_the_last_words_of_a_killed_process_arrive(reporter: MlflowReporter, stored: TrackingClient) -> None:
    key = new_key()
    process = report(reporter, key, 0, 300, "hang")
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert reporter.flush()
    assert steps(stored, key) == list(range(300))
    assert stored.runs_of(key)[0].info.status == "RUNNING"
    resumed = report(reporter, key, 250, 400, "close")  # from its last checkpoint
    resumed.communicate(timeout=60)
    assert reporter.flush()
    assert steps(stored, key) == list(range(400))
    assert stored.runs_of(key)[0].info.status == "FINISHED"


def test_a_killed_sender_gets_a_successor_and_nothing_is_doubled(
    reporter: MlflowReporter, stored: TrackingClient
) -> None:
    key, folder = new_key(), SpoolFolder.of(reporter.spool, reporter.tracking_uri, reporter.experiment)
    run = reporter.run(key, "killed sender", {})
    run.metrics({"loss": 0.0}, 0)
    assert reporter.flush()
    first = sender_of(folder)
    os.kill(first, signal.SIGKILL)
    for step in range(1, 1500):
        run.metrics({"loss": 0.0}, step)
    run.close()
    assert reporter.flush()
    assert steps(stored, key) == list(range(1500))
    assert sender_of(folder) != first


def test_a_process_that_ends_without_flushing_leaves_no_sender_behind(empty_database: Path, tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(empty_database.read_bytes())
    own = MlflowReporter(f"sqlite:///{tmp_path / 'mlflow.db'}", "digits", str(tmp_path / "spool"))
    process = report(own, "k", 0, 100, "close")
    process.communicate(timeout=60)
    folder = SpoolFolder.of(own.spool, own.tracking_uri, own.experiment)
    wait_for(lambda: folder.files() == [] and sender_of(folder) > 0)
    assert steps(TrackingClient(own.tracking_uri, "digits"), "k") == list(range(100))
    wait_for(lambda: not is_running(sender_of(folder)), 10)


def test_a_relative_database_is_the_same_in_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    reporter = MlflowReporter("sqlite:///mlflow.db", "digits", "spool")
    assert reporter.tracking_uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert pickle.loads(pickle.dumps(reporter)) == reporter
    assert Path(reporter.spool) == tmp_path / "spool"


@pytest.mark.parametrize("uri", ["file:///tmp/mlruns", "mlruns", "./mlruns"])
def test_tracking_in_plain_files_is_refused(uri: str) -> None:
    with pytest.raises(UserError, match="use a database, such as sqlite:///"):
        MlflowReporter(uri, "digits", "spool")


def test_wrong_calls_are_refused_at_the_call(reporter: MlflowReporter) -> None:
    run = reporter.run(new_key(), "wrong", {})
    with pytest.raises(ValueError, match="must be uint8"):
        run.image("samples", np.zeros((3, 8, 8), np.uint8))
    with pytest.raises(ValueError, match="must be one of FINISHED"):
        run.close("DONE")
    with pytest.raises(ValueError, match="could not convert"):
        run.metrics({"m": "many"})  # type: ignore[dict-item]
    run.close()
    run.close()
    with pytest.raises(RuntimeError, match="is closed"):
        run.metrics({"m": 1})


def test_an_unwritable_spool_falls_back_and_says_so(
    empty_database: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "mlflow.db").write_bytes(empty_database.read_bytes())
    (tmp_path / "a_file").write_text("")
    own = MlflowReporter(f"sqlite:///{tmp_path / 'mlflow.db'}", "digits", str(tmp_path / "a_file" / "spool"), 60)
    with own.run("k", "name", {}) as run:
        run.metrics({"loss": 1}, 1)
    assert own.flush()
    assert steps(TrackingClient(own.tracking_uri, "digits"), "k") == [1]
    assert "cannot be made" in caplog.text


def test_the_default_place_is_beside_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert links.default_tracking_uri(str(tmp_path / "store")) == f"sqlite:///{tmp_path}/mlflow.db"
    assert links.default_tracking_uri("s3://bucket/store") == f"sqlite:///{tmp_path}/mlflow.db"
    assert links.default_spool(str(tmp_path / "store")) == f"{tmp_path}/mlflow-spool"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://there:5000")
    assert links.default_tracking_uri("store") == "http://there:5000"


def test_links_hold_no_password() -> None:
    assert links.run_link("https://me:secret@host:5000/", "1", "r") == "https://host:5000/#/experiments/1/runs/r"
    assert "secret" not in repr(MlflowReporter("https://me:secret@host:5000", "digits", "spool"))


def test_the_command_for_the_ui_names_the_database(tmp_path: Path) -> None:
    assert f"--backend-store-uri 'sqlite:///{tmp_path}/a b.db'" in links.ui_command(f"sqlite:///{tmp_path}/a b.db")
    assert links.ui_command("http://host:5000") == ""


def test_a_spool_that_the_sender_removes_meanwhile_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "1-2-3.jsonl"
    path.write_text('{"op": "open", "format": 1}\n')
    assert hub._to_be_sent(path) == (path, path.stat().st_size)
    path.unlink()
    assert hub._to_be_sent(path) is None


def test_another_process_that_is_denied_again_and_again_holds_nobody_up(
    reporter: MlflowReporter, stored: TrackingClient, tmp_path: Path
) -> None:
    """On one machine they share the spool, and so the place where a sender leaves word."""
    mine = replace(reporter, spool=str(tmp_path / "spool"), flush_timeout=40)
    folder, over = SpoolFolder.of(mine.spool, mine.tracking_uri, mine.experiment), threading.Event()
    folder.create()

    def deny() -> None:
        while not over.wait(0.005):
            denial = {"problem": "does not know you", "denied": True, "started_by": 1, "time": time.time_ns() // 10**6}
            write_json(folder.status, denial)

    denied, key = threading.Thread(target=deny), new_key()
    theirs = os.open(folder.path / "sender.lock", os.O_RDWR | os.O_CREAT, 0o644)
    assert lock(theirs, fcntl.LOCK_EX)  # their sender is at it when ours would begin, and has not ended
    denied.start()
    try:
        with mine.run(key, "mine", {}) as run:
            run.metrics({"loss": 1.0}, step=7)
        threading.Timer(2, os.close, [theirs]).start()
        assert mine.flush()
    finally:
        over.set()
        denied.join()
    assert steps(stored, key) == [7]
