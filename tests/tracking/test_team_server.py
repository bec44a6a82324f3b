"""A team's tracker as docs/tracking.md sets it up: PostgreSQL, object storage and passwords, all of them real."""

import re
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from pipeline.tracking.client import TrackingClient, verdict
from pipeline.tracking.mlflow_reporter import MlflowReporter
from tests.tracking.team import ADMINISTRATOR, DATABASE, JOBS, READER, SECRET_KEY, TeamServer
from tests.tracking.team_jobs import NUM_STEPS, active_runs, assert_whole, environment, job, metrics, outcome

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NUM_JOBS = 8


def test_eight_jobs_log_at_once_and_nothing_is_lost_or_doubled(team: TeamServer, tmp_path: Path) -> None:
    """Four of them on one machine, so with one spool, four each on their own; every other with the password in the
    address, the others with it in the environment."""
    processes = []
    for number in range(NUM_JOBS):
        spool = tmp_path / ("spool" if number < 4 else f"spool-{number}")
        uri, variables = (
            (team.uri_of("jobs", JOBS), environment()) if number % 2 else (team.uri, environment("jobs", JOBS))
        )
        reporter = MlflowReporter(uri, "digits", str(spool), flush_timeout=180)
        processes.append(job(reporter, number, tmp_path, variables))
    for process in processes:
        sent, said = outcome(process)
        assert sent, said
    for number in range(NUM_JOBS):
        assert_whole(team, number)
    (shared,) = active_runs(team, f"shared-{tmp_path.name}")
    expected = [(n * NUM_STEPS + s, n + s / 7) for n in range(NUM_JOBS) for s in range(NUM_STEPS)]
    assert metrics(team, shared, "all") == expected
    ids = [run_id for number in range(NUM_JOBS) for run_id in active_runs(team, f"job-{number}")]
    files = team.objects.bucket("artifacts").keys("")  # as they lie in the bucket, past the server
    assert [len([name for name in files if run_id in name]) for run_id in ids] == [6 + 1 + 1] * NUM_JOBS
    assert not list(tmp_path.glob("spool*/*/pending/*"))


def test_who_may_only_read_changes_nothing(team: TeamServer, tmp_path: Path) -> None:
    owner = TrackingClient(team.uri_of("jobs", JOBS), "owned")
    run, _ = owner.find_or_create({"key": "owned", "name": "owned", "tags": {}, "ts": 1})
    owner.log(run.info.run_id, [("m", 1.0, 1, 1)])
    reader = TrackingClient(team.uri_of("reader", READER), "owned")
    (seen,) = reader.runs_of("owned")
    assert seen.data.metrics == {"m": 1.0}
    writes = (
        lambda: reader.log(run.info.run_id, [("m", 2.0, 2, 2)]),
        lambda: reader.mlflow.delete_run(run.info.run_id),
        lambda: reader.mlflow.log_artifact(run.info.run_id, __file__),
        lambda: reader.mlflow.create_run(owner.experiment_id()),
    )
    for write in writes:
        with pytest.raises(Exception) as refused:
            write()
        assert verdict(refused.value) == "denied"
    reporter = MlflowReporter(team.uri_of("reader", READER), "owned", str(tmp_path / "spool"), flush_timeout=60)
    sent, said = outcome(job(reporter, 60, tmp_path, environment(), steps=5))
    assert not sent
    told = "user 'reader' may not write to the experiment 'owned' (403): have EDIT granted on it. The work goes on"
    assert said[0].startswith(f"{team.uri}: {told}")
    assert [found.info.run_id for found in owner.runs_of("owned")] == [run.info.run_id]
    assert owner.history(run.info.run_id, "m") == {(1, "1.0")}
    assert owner.artifacts(run.info.run_id, "") == set()


@pytest.mark.parametrize(
    "path",
    ["", "ajax-api/2.0/mlflow/experiments/search", "api/2.0/mlflow/runs/search", "api/2.0/mlflow-artifacts/artifacts",
     "api/2.0/mlflow/users/get?username=admin"],
)  # fmt: skip
def test_without_a_password_nothing_is_told(team: TeamServer, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{team.uri}/{path}", timeout=20)
    assert refused.value.code == 401


def test_no_password_stands_on_a_command_line_or_in_a_log(team: TeamServer) -> None:
    told = team.command_lines() + team.log.read_bytes()
    assert b"mlflow" in told
    secrets = (ADMINISTRATOR, JOBS, READER, DATABASE, SECRET_KEY)
    assert [secret for secret in secrets if secret.encode() in told] == []


def test_passwords_lie_hashed_in_the_database(team: TeamServer) -> None:
    dumped = team.database.dump("mlflow_users") + team.database.dump("mlflow")
    assert re.search(rb"\bjobs\b", dumped)
    assert [secret for secret in (ADMINISTRATOR, JOBS, READER) if secret.encode() in dumped] == []
