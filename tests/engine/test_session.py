"""The session of a job without a cluster: who may join it, and what it counts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.engine.session import Resources, _may_grow_to, _start
from pipeline.errors import RunFailedError, SettingsError

ROOT = Path(__file__).parents[2]
CLIENT = """
from ray._raylet import GcsClient
import sys
client = GcsClient(address=sys.argv[1])
print(client.internal_kv_keys(b"", namespace=None, timeout=10))
"""


def ask(address: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """What a stranger on the network may ask: Ray's head, for what it knows."""
    return subprocess.run(
        [sys.executable, "-c", CLIENT, address], cwd=ROOT, env={**os.environ, **variables}, text=True,
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip


def test_a_session_of_our_own_lets_in_only_who_has_its_token(ray_session: Resources, tmp_path: Path) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    assert ask(address).returncode == 0  # this process's children have the token
    for variables in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "0" * 64}):
        refused = ask(address, **variables)
        assert refused.returncode != 0, refused.stdout
        assert "auth" in refused.stderr.lower()
    assert (
        not (Path.home() / ".ray" / "auth_token").exists()
        or os.environ["RAY_AUTH_TOKEN"] not in (Path.home() / ".ray" / "auth_token").read_text()
    )


def test_what_a_cluster_may_grow_to_is_counted_where_there_is_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGMASWEEP_MAX_GPUS", "8")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert _may_grow_to("GPU") == 0
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    assert _may_grow_to("GPU") == 8
    monkeypatch.setenv("SIGMASWEEP_MAX_GPUS", "many")
    with pytest.raises(SettingsError, match=r"^SIGMASWEEP_MAX_GPUS: must be the number of GPUs .* \(got many\)$"):
        _may_grow_to("GPU")


def test_a_cluster_that_does_not_answer_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray itself goes on asking for many minutes."""
    monkeypatch.setattr("pipeline.engine.session._KNOCKS_S", (0.1,))
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(RunFailedError, match=r"^Ray: could not be started or reached \(.*refused\): see whether"):
        _start(None)


SHARED = """
import sys
from pipeline.engine.session import is_connected, session, shared_session

with shared_session():
    assert "ray" not in sys.modules
    with shared_session(), session() as first:
        import ray
        started = ray.get_runtime_context().get_job_id(), ray.get_runtime_context().gcs_address
    assert is_connected()
    with session(first.cpus + 5) as again:
        assert (ray.get_runtime_context().get_job_id(), ray.get_runtime_context().gcs_address) == started
        assert again == first
    assert is_connected()
assert not is_connected()
with session(first.cpus + 1) as other:
    assert other.cpus == first.cpus + 1
    with shared_session():
        pass
    assert is_connected()
assert not is_connected()
"""


def test_a_shared_session_starts_when_it_is_needed_and_once_and_ends_with_who_shares_it() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    run = subprocess.run(
        [sys.executable, "-c", SHARED], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
