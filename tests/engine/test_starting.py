"""What a session knows of an actor that does not answer yet, in a Ray of its own, as CPUs are counted here."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# The second actor waits for the first one's CPU; the first, started anew, then waits for the second one's.
WAITING = """
import ray
from pipeline.engine.session import session
from pipeline.engine.starting import has_process

class Light:
    def hello(self):
        return True

with session(num_cpus=1):
    actor = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=-1)(Light)
    first = actor.remote()
    assert ray.get(first.hello.remote()) and has_process(first)
    second = actor.remote()
    assert not has_process(second)
    ray.kill(first, no_restart=False)
    assert ray.get(second.hello.remote()) and has_process(second)
    assert not has_process(first)
    ray.kill(second)
    assert ray.get(first.hello.remote()) and has_process(first)
"""


def test_an_actor_has_a_process_only_with_its_device() -> None:
    run = subprocess.run([sys.executable, "-c", WAITING], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
