"""An actor on a node where the store's address leads elsewhere finds out before it writes anything there."""

import socket
from pathlib import Path

import pytest

from pipeline.engine import generation
from pipeline.engine.actor import Actor, Hello
from pipeline.engine.devices import family
from pipeline.engine.work import WorkerSettings
from pipeline.errors import StoreError
from tests.engine.tiny import EXECUTION, tiny_store


def settings_of(folder: Path) -> WorkerSettings:
    return WorkerSettings(tiny_store(folder), EXECUTION, "cpu", family("cpu", EXECUTION.precision))


def test_an_actor_that_sees_the_jobs_store_takes_part(tmp_path: Path) -> None:
    with generation._marked(settings_of(tmp_path)) as marked:
        assert isinstance(Actor(marked, []).hello(), Hello)
        assert marked.store.keys("cache/marks") == [marked.mark]
    assert marked.store.keys("cache/marks") == []


def test_an_actor_that_sees_another_folder_of_the_same_name_is_refused(tmp_path: Path) -> None:
    with generation._marked(settings_of(tmp_path)) as marked:
        marked.store.delete(marked.mark)  # as on a node where the folder is not shared
        with pytest.raises(StoreError) as error:
            Actor(marked, []).hello()
    assert str(error.value) == (
        f"{tmp_path} on {socket.gethostname()}: is another folder than the job's, which would not see what is written "
        "here: give a store that all nodes see: a shared folder, or s3://bucket/prefix"
    )
