"""A process that is killed as soon as it has settled loses nothing of what it reported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, signal, sys, time
from pipeline.tracking import hub
from pipeline.tracking.mlflow_reporter import MlflowReporter
hub.Hub._ensure_sender = lambda self: time.sleep(3)  # a machine at other work starts no process at once
reporter = MlflowReporter("http://127.0.0.1:1", "tests", sys.argv[1])
with reporter.run("key", "name", {}) as run:
    time.sleep(1.5)  # its thread is at the start of the process that sends
    run.metrics({"loss": 1.0}, step=7)
if sys.argv[2] == "settle":
    reporter.settle()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("how", "kept"), [("settle", ["open", "metrics", "end"]), ("at once", [])])
def test_what_was_reported_is_kept_by_a_process_that_settles_and_is_killed(
    tmp_path: Path, how: str, kept: list[str]
) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path), how], cwd=ROOT, check=False, timeout=60)
    assert done.returncode == -9
    spools = tmp_path.glob("*/pending/*.jsonl")
    assert [json.loads(line)["op"] for spool in spools for line in spool.read_text().splitlines()] == kept
