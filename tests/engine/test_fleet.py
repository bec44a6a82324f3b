"""What a lost actor tells of the chunks that it had, in Ray's own exceptions; and who shares a GPU."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray.exceptions import ActorUnavailableError, RayActorError

from benchmarks.light import LightActor, LightDone, LightSettings, LightTask
from pipeline.engine.driver import drive
from pipeline.engine.fleet import RayFleet, by_chance, num_actors, why_lost
from pipeline.engine.policy import Policy
from pipeline.engine.session import Resources
from pipeline.engine.work import Actors


@pytest.fixture
def two_gpus() -> Iterator[None]:
    """Logical ones, which Ray hands out like any others."""
    ray.init(address="local", num_cpus=8, num_gpus=2, log_to_driver=False, include_dashboard=False)
    yield
    ray.shutdown()


def test_actors_share_gpus_as_they_are_told(two_gpus: None) -> None:
    actors, found = Actors(per_gpu=3), list[LightDone]()
    count = num_actors(actors, 1, "cuda", Resources(8, 2))
    settings: Any = LightSettings()
    fleet = RayFleet(settings, (), actors, count, print, LightActor)
    policy: Any = Policy([LightTask("setting", index, 0.5) for index in range(4 * count)])
    try:
        drive(policy, fleet, lambda _, done: found.append(done), lambda _, error: pytest.fail(str(error)))
    finally:
        fleet.close()
    on = defaultdict(set)
    for done in found:
        on[done.gpu].add(done.pid)
    assert sorted(len(pids) for pids in on.values()) == [3, 3]


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
