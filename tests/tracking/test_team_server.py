"""A team's tracker as docs/tracking.md sets it up: PostgreSQL, object storage and passwords, all of them real."""

import json
import os
import pickle
import random
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.tracking.client import TrackingClient, verdict
from pipeline.tracking.mlflow_reporter import MlflowReporter
from pipeline.tracking.spool import SpoolFolder
from tests.object_server import ObjectServer
from tests.postgres import postgres
from tests.tracking.team import ADMINISTRATOR, DATABASE, JOBS, READER, SECRET_KEY, TeamServer, team_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NUM_JOBS, NUM_STEPS = 8, 500
CREDENTIALS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")

# A job: a run of its own, with metrics, params, pictures and files, and its share of a run that all report to.
JOB = """if True:
    import json, logging, pickle, random, sys, time
    from pathlib import Path
    import numpy as np
    logging.basicConfig(format="%(message)s")
    reporter, number, steps, pause = pickle.loads(bytes.fromhex(sys.argv[1])), *map(float, sys.argv[2:5])
    number, steps, folder = int(number), int(steps), Path(sys.argv[5])
    content = random.Random(number).randbytes(200_000)
    (folder / f"weights-{number}.bin").write_bytes(content)
    shared = reporter.run("shared", "shared", {})
    with reporter.run(f"job-{number}", f"job {number}", {"benchmark": "eight"}) as run:
        run.params({"job": number, "sampler": {"num_steps": 18}})
        for step in range(steps):
            run.metrics({"loss": step / 7, "rate": number + step}, step)
            shared.metrics({"all": number + step / 7}, number * steps + step)
            time.sleep(pause)
        for step in range(3):
            run.image("samples", np.full((32, 32, 3), 10 * number + step, np.uint8), step)
        run.text(f"job: {number}", "settings.yaml")
        run.file(folder / f"weights-{number}.bin", "files")
    shared.close()
    started = time.perf_counter()
    sent = reporter.flush()
    print(json.dumps([sent, time.perf_counter() - started]))
"""


@pytest.fixture(scope="module")
def team(s3: ObjectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TeamServer]:
    with postgres() as database, team_server(tmp_path_factory.mktemp("team") / "tracker", database, s3) as server:
        yield server


@pytest.fixture(autouse=True)
def _without_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CREDENTIALS:
        monkeypatch.delenv(name, raising=False)


def environment(user: str = "", password: str = "") -> dict[str, str]:
    given = dict(zip(CREDENTIALS, (user, password), strict=True)) if user else {}
    return {**{name: value for name, value in os.environ.items() if name not in CREDENTIALS}, **given}


def job(
    reporter: MlflowReporter, number: int, folder: Path, credentials: dict[str, str], steps: int = NUM_STEPS,
    pause: float = 0.002,
) -> "subprocess.Popen[str]":  # fmt: skip
    command = [
        sys.executable,
        "-c",
        JOB,
        pickle.dumps(reporter).hex(),
        str(number),
        str(steps),
        str(pause),
        str(folder),
    ]
    return subprocess.Popen(
        command, env=credentials, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip


def outcome(process: "subprocess.Popen[str]") -> tuple[bool, list[str]]:
    """Whether a job sent everything, and the lines that a person read."""
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return bool(json.loads(out)[0]), err.splitlines()


def rows(team: TeamServer, query: str) -> list[list[str]]:
    return [line.split("|") for line in team.database.run(query, "mlflow").splitlines()]


def active_runs(team: TeamServer, key: str) -> list[str]:
    query = f"""SELECT r.run_uuid FROM runs r JOIN tags t USING (run_uuid)
        WHERE t.key = 'sigmasweep.key' AND t.value = '{key}' AND r.lifecycle_stage = 'active'"""
    return [run_id for (run_id,) in rows(team, query)]


def metrics(team: TeamServer, run_id: str, key: str) -> list[tuple[int, float]]:
    """As they lie in the database, one for each row."""
    found = rows(team, f"SELECT step, value FROM metrics WHERE run_uuid = '{run_id}' AND key = '{key}' ORDER BY 1, 2")
    return [(int(step), float(value)) for step, value in found]


def assert_whole(team: TeamServer, number: int, steps: int = NUM_STEPS) -> None:
    """One run of the job; in it each metric once, all params and all files, with their bytes."""
    (run_id,) = active_runs(team, f"job-{number}")
    assert metrics(team, run_id, "loss") == [(step, step / 7) for step in range(steps)]
    assert metrics(team, run_id, "rate") == [(step, float(number + step)) for step in range(steps)]
    client = TrackingClient(team.uri_of("jobs", JOBS), "digits")
    run = client.mlflow.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"job": str(number), "sampler.num_steps": "18"}
    assert len(client.artifacts(run_id, "images")) == 6  # three pictures, each with its small one
    local = Path(client.mlflow.download_artifacts(run_id, f"files/weights-{number}.bin"))
    assert local.read_bytes() == random.Random(number).randbytes(200_000)


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
    (shared,) = active_runs(team, "shared")
    expected = [(n * NUM_STEPS + s, n + s / 7) for n in range(NUM_JOBS) for s in range(NUM_STEPS)]
    assert metrics(team, shared, "all") == expected
    files = team.objects.bucket("artifacts").keys("")  # as they lie in the bucket, past the server
    assert len(files) == NUM_JOBS * (6 + 1 + 1)
    assert not list(tmp_path.glob("spool*/*/pending/*"))


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
    refused = MlflowReporter(wrong_uri, "digits", str(tmp_path / "spool"), flush_timeout=5)
    before = team.log.read_text().count(" 401 ")
    started = time.monotonic()
    sent, said = outcome(job(refused, number, tmp_path, wrong, steps=100, pause=0.1))
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
    assert seconds > 10
    assert 1 <= asked <= 4  # at once, and once more at the end of the job
    assert active_runs(team, f"job-{number}") == []
    patient = replace(refused, tracking_uri=right_uri, flush_timeout=120)
    sent, said = outcome(job(patient, number + 10, tmp_path, right, steps=5))
    assert (sent, said) == (True, [])
    assert_whole(team, number, steps=100)


def test_missing_credentials_name_the_variables(team: TeamServer, tmp_path: Path) -> None:
    reporter = MlflowReporter(team.uri, "digits", str(tmp_path / "spool"), flush_timeout=8)
    sent, said = outcome(job(reporter, 40, tmp_path, environment(), steps=5))
    assert not sent
    told = "asks for a user and a password (401): set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD. The work"
    assert said[0].startswith(f"{team.uri}: {told}")
    assert len(said) == 2


def test_a_job_with_the_right_password_is_not_held_up_by_one_with_a_wrong_one(team: TeamServer, tmp_path: Path) -> None:
    """Both on one machine, so with one spool."""
    reporter = MlflowReporter(team.uri, "digits", str(tmp_path / "spool"), flush_timeout=2)
    wrong = job(reporter, 50, tmp_path, environment("jobs", "not-the-password"), steps=300, pause=0.1)
    time.sleep(5)
    patient = replace(reporter, flush_timeout=60)
    sent, said = outcome(job(patient, 51, tmp_path, environment("jobs", JOBS), steps=5))
    assert sent, said
    assert_whole(team, 51, steps=5)
    outcome(wrong)


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
    reporter = MlflowReporter(team.uri_of("reader", READER), "owned", str(tmp_path / "spool"), flush_timeout=8)
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


def test_object_storage_that_is_away_for_a_while_costs_no_file(team: TeamServer, tmp_path: Path) -> None:
    reporter = MlflowReporter(team.uri_of("jobs", JOBS), "digits", str(tmp_path / "spool"), flush_timeout=240)
    team.objects.kill()
    process = job(reporter, 70, tmp_path, environment(), steps=20)
    time.sleep(25)  # longer than five tries
    team.objects.start()
    sent, said = outcome(process)
    assert sent, said
    assert_whole(team, 70, steps=20)


def test_no_password_stands_on_a_command_line_or_in_a_log(team: TeamServer) -> None:
    told = team.command_lines() + team.log.read_bytes()
    assert b"mlflow" in told
    secrets = (ADMINISTRATOR, JOBS, READER, DATABASE, SECRET_KEY)
    assert [secret for secret in secrets if secret.encode() in told] == []


def test_passwords_lie_hashed_in_the_database(team: TeamServer) -> None:
    dumped = team.database.dump("mlflow_users") + team.database.dump("mlflow")
    assert re.search(rb"\bjobs\b", dumped)
    assert [secret for secret in (ADMINISTRATOR, JOBS, READER) if secret.encode() in dumped] == []
