"""What a lost actor tells of the chunks that it had: in Ray's own exceptions."""

from ray.exceptions import ActorUnavailableError, RayActorError

from pipeline.engine.fleet import by_chance, why_lost


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
