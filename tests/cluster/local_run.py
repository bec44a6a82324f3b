"""The same jobs without a cluster."""

import subprocess
import sys
from pathlib import Path

from pipeline.data.store import Store
from tests.cluster.nodes import PATIENCE_S, environment


def run_here(code: Path, job: str, store: Store, *settings: str) -> None:
    """Runs a job as a user without a cluster does: in a checkout, with a Ray session of its own."""
    variables = {name: value for name, value in environment(Path.home()).items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-m", f"jobs.{job}", f"{job}.yaml", "--set", f"store={store.uri}", *settings],
        cwd=code, env=variables, text=True, timeout=PATIENCE_S, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
