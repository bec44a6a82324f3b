"""Jobs that report to a team's tracker, and what then lies in its database and its bucket."""

import json
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

from pipeline.tracking.client import TrackingClient
from pipeline.tracking.mlflow_reporter import MlflowReporter
from tests.tracking.team import JOBS, TeamServer

NUM_STEPS = 500
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
    shared = reporter.run(f"shared-{folder.name}", "shared", {})
    with reporter.run(f"job-{number}", f"job {number}", {"benchmark": "eight"}) as run:
        run.params({"job": number, "sampler": {"num_steps": 18}})
        for step in range(steps):
            run.metrics({"loss": step / 7, "rate": number + step}, step)
            shared.metrics({"all": number + step / 7}, number * steps + step)
            time.sleep(pause)
        for step in range(3):
            run.image("samples", np.full((32, 32, 3), 3 * number + step, np.uint8), step)
        run.text(f"job: {number}", "settings.yaml")
        run.file(folder / f"weights-{number}.bin", "files")
    shared.close()
    started = time.perf_counter()
    sent = reporter.flush()
    print(json.dumps([sent, time.perf_counter() - started]))
"""


def environment(user: str = "", password: str = "") -> dict[str, str]:
    given = dict(zip(CREDENTIALS, (user, password), strict=True)) if user else {}
    return {**{name: value for name, value in os.environ.items() if name not in CREDENTIALS}, **given}


def job(
    reporter: MlflowReporter, number: int, folder: Path, credentials: dict[str, str], steps: int = NUM_STEPS,
    pause: float = 0.002,
) -> "subprocess.Popen[str]":  # fmt: skip
    """A job as a process; its number tells its runs and files from those of others."""
    arguments = [pickle.dumps(reporter).hex(), *map(str, (number, steps, pause, folder))]
    command = [sys.executable, "-c", JOB, *arguments]
    return subprocess.Popen(command, env=credentials, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


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
    images = client.artifacts(run_id, "images")
    assert len(images) == 6, images  # three pictures, each with its small one
    local = Path(client.mlflow.download_artifacts(run_id, f"files/weights-{number}.bin"))
    assert local.read_bytes() == random.Random(number).randbytes(200_000)
