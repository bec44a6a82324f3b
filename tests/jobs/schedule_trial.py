"""A schedule at one-minute slots for real: `python -m tests.jobs.schedule_trial FOLDER [MINUTES]`.

The service runs as a process, Ray as a head of its own. After a quarter of the time the service is killed with -9 in
the middle of a slot, and started again; after half of it Ray's head is, likewise. In the last third a worse checkpoint
is registered, which must raise the alarm at the next slot, and then a good one. A JSON report is printed at the end.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pipeline.config.cron import Cron
from pipeline.data.store import Store
from pipeline.engine import slots
from pipeline.engine.slot_history import history
from tests.engine.processes import below
from tests.jobs.scheduled import WORSE_KIMG, config, make_data, train_version
from tests.tracking.test_webhook import server

NAME = "minutes"


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@dataclass
class Trial:
    root: Path
    minutes: float
    port: int = field(default_factory=free_port)
    processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    events: list[str] = field(default_factory=list)

    def say(self, event: str) -> None:
        self.events.append(f"{datetime.now(UTC):%H:%M:%S} {event}")
        print(self.events[-1], flush=True)

    @property
    def environment(self) -> dict[str, str]:
        own = {"RAY_ADDRESS": f"127.0.0.1:{self.port}", "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}
        return {**os.environ, **own}

    def start(self, *command: object, log: str) -> "subprocess.Popen[bytes]":
        with (self.root / log).open("ab") as file:
            process = subprocess.Popen(
                [str(word) for word in command], env=self.environment, stdout=file, stderr=subprocess.STDOUT
            )
        self.processes.append(process)
        return process

    def start_ray(self) -> "subprocess.Popen[bytes]":
        temporary = Path(f"/tmp/rs{os.getpid()}")  # short: it becomes part of a socket's name
        return self.start(
            Path(sys.executable).parent / "ray", "start", "--head", "--block", "--port", self.port, "--num-cpus", 2,
            "--temp-dir", temporary, "--include-dashboard", "false", "--object-store-memory", 200_000_000,
            "--node-ip-address", "127.0.0.1", "--disable-usage-stats", log="ray.log",
        )  # fmt: skip

    def serve(self, path: Path) -> "subprocess.Popen[bytes]":
        return self.start(sys.executable, "-m", "jobs.schedule", path, log="service.log")

    def ledger(self) -> slots.Ledger:
        return slots.read_ledger(Store(self.root / "store"), NAME)

    def until(self, moment: datetime) -> None:
        time.sleep(max((moment - datetime.now(UTC)).total_seconds(), 0))

    def until_at_work(self, patience: float = 120) -> datetime:
        """Waits until a slot is begun and not settled."""
        end = time.monotonic() + patience
        while not (at_work := self.ledger().begun - self.ledger().outcomes):
            assert time.monotonic() < end, "no slot was begun"
            time.sleep(0.1)
        return max(at_work)


@contextmanager
def ended(trial: Trial) -> Iterator[None]:
    """What was started here is ended, by its id."""
    try:
        yield
    finally:
        for process in reversed(trial.processes):
            if process.poll() is None:
                for child in reversed(below(process.pid, "")):
                    _kill(child, signal.SIGKILL)
                process.wait()


def _kill(process: int, number: int) -> None:
    try:
        os.kill(process, number)
    except ProcessLookupError:
        return


def run(root: Path, minutes: float) -> dict[str, Any]:
    trial = Trial(root, minutes)
    make_data(root)
    for seed in (1, 2, 3):
        train_version(root, seed, register=False)
    train_version(root, 99, WORSE_KIMG, register=False)
    train_version(root, 1)
    with server([200]) as (url, got), ended(trial):
        os.environ["TRIAL_HOOK"] = url
        path = config(
            root, NAME, cron="* * * * *", catch_up="all", time_limit_s=150, retry_s=3, slot_seeds="disjoint",
            alarm={"margin": 0.1, "webhook_from": "TRIAL_HOOK"},
            benchmark={"actors": {"num_actors": 1}, "reuse": "none"},
        )  # fmt: skip
        begin = _play(trial, path)
        return _report(trial, begin, got)


def _play(trial: Trial, path: Path) -> datetime:
    ray = trial.start_ray()
    time.sleep(25)
    service = trial.serve(path)
    begin = datetime.now(UTC)
    step = timedelta(minutes=trial.minutes)

    def kill_service() -> None:
        nonlocal service
        at_work = trial.until_at_work()
        _kill(service.pid, signal.SIGKILL)
        service.wait()
        trial.say(f"kill -9 of the service in the slot {at_work:%H:%M}")
        time.sleep(10)
        service = trial.serve(path)
        trial.say("the service is started again")

    def kill_head() -> None:
        nonlocal ray
        at_work = trial.until_at_work()
        time.sleep(2)
        for word in ("gcs_server", "raylet/raylet"):
            for process in below(ray.pid, word):
                _kill(process, signal.SIGKILL)
        trial.say(f"kill -9 of Ray's head in the slot {at_work:%H:%M}")
        ray.wait()
        time.sleep(10)
        ray = trial.start_ray()
        trial.say("Ray's head is started again")

    def register(seed: int, kimg: float | None = None) -> Callable[[], None]:
        def act() -> None:
            trial_register(trial.root, seed, kimg)
            trial.say(f"registered the training of seed {seed}{' (worse)' if kimg else ''}")

        return act

    acts = [
        (0.15, register(2)), (0.25, kill_service), (0.5, kill_head), (0.66, register(99, WORSE_KIMG)),
        (0.82, register(3)),
    ]  # fmt: skip
    for share, act in acts:
        trial.until(begin + share * step)
        act()
    trial.until(begin + step)
    service.send_signal(signal.SIGTERM)
    trial.say(f"the service ended with exit code {service.wait(90)}")
    return begin


def trial_register(root: Path, seed: int, kimg: float | None) -> None:
    """A training that was done before is found done, and only registered."""
    if kimg is None:
        train_version(root, seed)
    else:
        train_version(root, seed, kimg)


def _report(trial: Trial, begin: datetime, got: list[Any]) -> dict[str, Any]:
    from mlflow import MlflowClient

    entries = history(Store(trial.root / "store"), NAME)
    end = datetime.now(UTC)
    since = trial.ledger().since or begin
    due = [instant.isoformat() for instant in Cron("* * * * *").between(since, end)]
    client = MlflowClient(f"sqlite:///{trial.root}/mlflow.db")
    [experiment] = client.search_experiments(filter_string="name = 'tests'")
    runs = client.search_runs([experiment.experiment_id], "tags.kind = 'slot'")
    of_slots = Counter(run.data.tags["slot"] for run in runs)
    alarms = [(entry.slot, entry.version) for entry in entries if entry.verdict == "regression"]
    by_state = {state: [e.slot for e in entries if e.state == state] for state in ("done", "missed", "begun")}
    return {
        "due": len(due),
        "results": len(by_state["done"]),
        "missed": [(entry.slot, entry.note) for entry in entries if entry.state == "missed"],
        "not settled when the time was over": by_state["begun"],
        "neither": [slot for slot in due if slot not in {e.slot for e in entries}],
        "doubled": [slot for slot, count in Counter(e.slot for e in entries).items() if count > 1],
        "doubled in MLflow": [slot for slot, count in of_slots.items() if count > 1],
        "alarms": alarms,
        "webhooks": [content["slot"] for _, content in got],
        "versions": [(entry.slot, entry.version, entry.verdict, entry.distance) for entry in entries],
        "events": trial.events,
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    report = run(folder, float(sys.argv[2]) if len(sys.argv) > 2 else 15)
    print(json.dumps(report, indent=1))
