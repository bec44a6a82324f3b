"""What a lost actor tells of the chunks that it had, in Ray's own exceptions; and who shares a GPU."""

import subprocess
import sys
from pathlib import Path

from ray.exceptions import ActorUnavailableError, RayActorError

from pipeline.engine.fleet import by_chance, why_lost

ROOT = Path(__file__).parents[2]
# A logical GPU, which Ray hands out like any other; in a process of its own, as a process has one Ray.
ON_A_GPU = """
import json
from collections import defaultdict
import ray
from benchmarks.light import LightActor, LightSettings, LightTask
from pipeline.engine.driver import drive
from pipeline.engine.fleet import RayFleet, num_actors
from pipeline.engine.policy import Policy
from pipeline.engine.session import Resources
from pipeline.engine.work import Actors

ray.init(address="local", num_cpus=2, num_gpus=1, log_to_driver=False, include_dashboard=False)
actors, on = Actors(per_gpu=2), defaultdict(set)
count = num_actors(actors, 1, "cuda", Resources(2, 1))
fleet = RayFleet(LightSettings(), (), actors, count, print, LightActor)
tasks = Policy([LightTask("setting", index, 0.5) for index in range(4 * count)])
drive(tasks, fleet, lambda _, done: on[done.gpu].add(done.pid), print)
fleet.close()
print(json.dumps(sorted(len(pids) for pids in on.values())))
"""


def test_actors_share_a_gpu_where_they_are_told() -> None:
    run = subprocess.run([sys.executable, "-c", ON_A_GPU], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "[2]"


def test_a_broken_connection_is_not_the_chunks_fault() -> None:
    error = ActorUnavailableError("The actor is temporarily unavailable: RpcError: Socket closed", b"1" * 16)
    assert by_chance(error)
    assert why_lost(error) == "the connection to it was lost"


def test_a_worker_that_died_may_have_been_ended_by_its_chunk() -> None:
    error = RayActorError(error_msg="The actor is dead because its worker process has died. Worker exit type: 1")
    assert not by_chance(error)
    assert "worker process has died" in why_lost(error)


def test_a_node_that_died_is_not_the_chunks_fault() -> None:
    assert by_chance(RayActorError(error_msg="The actor is dead because its node has died. Node Id: 12ab"))
