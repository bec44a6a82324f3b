"""Nodes that are taken away and others that join, in the middle of a run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.engine.work import Seeds
from tests.chaos.changing_cluster import STEPS
from tests.chaos.told import telling
from tests.engine.test_generation import run
from tests.engine.tiny import contents, tiny_points, tiny_store

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

SEEDS = Seeds(0, 160)  # ten chunks a point, of four points
REPOSITORY = Path(__file__).parents[2]


def test_nodes_that_are_killed_and_replaced_change_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    undisturbed, store = tiny_store(tmp_path / "undisturbed"), tiny_store(tmp_path / "disturbed")
    run(undisturbed, points=tiny_points(2, STEPS), seeds=SEEDS)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "tests.chaos.changing_cluster", store.uri, str(SEEDS.count)]
    with telling(capsys) as tell:
        done = subprocess.run(
            command, cwd=REPOSITORY, env=environment, text=True, timeout=600, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:]
        lost = [line for line in done.stdout.splitlines() if "an actor was lost" in line]
        tell(f"2 nodes killed and 2 joined: {len(lost)} actors were lost: {lost}")
    assert done.stdout.count("a node was killed and another joined") == 2
    # Until Ray knows that a node is gone its connections break, and a new actor may be sent there too, and never run.
    assert 2 <= len(lost) <= 4
    known = ("node has died", "connection to it was lost", "never ran")
    assert all(any(reason in line for reason in known) for line in lost)
    assert f"generated {4 * SEEDS.count}" in done.stdout
    assert contents(store) == contents(undisturbed)


def test_a_cluster_that_is_not_there_is_told_in_a_sentence() -> None:
    program = "from pipeline.engine.session import session\nwith session(): pass"
    environment = {**os.environ, "RAY_ADDRESS": "127.0.0.1:1"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, env=environment, text=True, capture_output=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "pipeline.errors.RunFailedError: Ray: could not be started or reached" in done.stderr.splitlines()[-1]
