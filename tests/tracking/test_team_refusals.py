"""A team's tracker that refuses a job, or whose object storage is away: the work goes on, and nothing is lost."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.tracking.mlflow_reporter import MlflowReporter
from pipeline.tracking.spool import SpoolFolder
from tests.tracking.team import JOBS, TeamServer
from tests.tracking.team_jobs import active_runs, assert_whole, environment, job, outcome

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize("in_address", [True, False])
def test_a_wrong_password_is_one_sentence_and_the_right_one_sends_all(
    team: TeamServer, tmp_path: Path, in_address: bool
) -> None:
    number = 20 + in_address
    wrong_uri, wrong = (team.uri_of("jobs", "not-the-password"), environment()) if in_address else (
        team.uri, environment("jobs", "not-the-password"))  # fmt: skip
    right_uri, right = (
        (team.uri_of("jobs", JOBS), environment()) if in_address else (team.uri, environment("jobs", JOBS))
    )
    refused = MlflowReporter(wrong_uri, "digits", str(tmp_path / "spool"), flush_timeout=60)
    before = team.log.read_text().count(" 401 ")
    started = time.monotonic()
    sent, said = outcome(job(refused, number, tmp_path, wrong, steps=50, pause=0.1))
    seconds = time.monotonic() - started
    assert not sent
    where = SpoolFolder.of(str(tmp_path / "spool"), wrong_uri, "digits").path
    assert said == [
        f"{team.uri}: does not know user 'jobs' with this password (401): mend MLFLOW_TRACKING_USERNAME and "
        f"MLFLOW_TRACKING_PASSWORD, or the address. The work goes on; what it reports is kept in {where} and "
        "sent later",
        f"{team.uri}: the reports of 2 runs could not be sent yet; they are kept in {where} and sent at the next start",
    ]
    asked = team.log.read_text().count(" 401 ") - before
    assert seconds > 5
    assert 1 <= asked <= 4  # at once, and once more at the end of the job
    assert active_runs(team, f"job-{number}") == []
    patient = replace(refused, tracking_uri=right_uri, flush_timeout=120)
    sent, said = outcome(job(patient, number + 10, tmp_path, right, steps=5))
    assert (sent, said) == (True, [])
    assert_whole(team, number, steps=50)


def test_missing_credentials_name_the_variables(team: TeamServer, tmp_path: Path) -> None:
    reporter = MlflowReporter(team.uri, "digits", str(tmp_path / "spool"), flush_timeout=60)
    sent, said = outcome(job(reporter, 40, tmp_path, environment(), steps=5))
    assert not sent
    told = "asks for a user and a password (401): set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD. The work"
    assert said[0].startswith(f"{team.uri}: {told}")
    assert len(said) == 2


def test_a_job_with_the_right_password_is_not_held_up_by_one_with_a_wrong_one(team: TeamServer, tmp_path: Path) -> None:
    """Both on one machine, so with one spool."""
    reporter = MlflowReporter(team.uri, "digits", str(tmp_path / "spool"), flush_timeout=60)
    wrong = job(reporter, 50, tmp_path, environment("jobs", "not-the-password"), steps=150, pause=0.1)
    time.sleep(5)
    patient = replace(reporter, flush_timeout=60)
    sent, said = outcome(job(patient, 51, tmp_path, environment("jobs", JOBS), steps=5))
    assert sent, said
    assert_whole(team, 51, steps=5)
    outcome(wrong)


def test_object_storage_that_is_away_for_a_while_costs_no_file(team: TeamServer, tmp_path: Path) -> None:
    reporter = MlflowReporter(team.uri_of("jobs", JOBS), "digits", str(tmp_path / "spool"), flush_timeout=240)
    team.objects.kill()
    process = job(reporter, 70, tmp_path, environment(), steps=20)
    time.sleep(25)  # longer than five tries
    team.objects.start()
    sent, said = outcome(process)
    assert sent, said
    assert_whole(team, 70, steps=20)
