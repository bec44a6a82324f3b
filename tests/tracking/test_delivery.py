"""Spools sent in this process into a real sqlite database."""

import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.tracking import names
from pipeline.tracking.client import TrackingClient
from pipeline.tracking.delivery import Delivery
from pipeline.tracking.hub import Hub
from pipeline.tracking.mlflow_reporter import MlflowRun
from pipeline.tracking.sender import Sender, SenderSettings
from pipeline.tracking.spool import SpoolFolder, SpoolWriter
from pipeline.tracking.spool_reader import SpoolReader


class DirectHub(Hub):
    """Writes the spool at once and starts no sender: the tests send."""

    def _do(self, action: Callable[[], None]) -> None:
        self.folder.create()
        action()


@pytest.fixture
def hub(client: TrackingClient, tmp_path: Path) -> Hub:
    return DirectHub(client.mlflow._tracking_client.tracking_uri, "digits", str(tmp_path / "spool"))


def start(hub: Hub, key: str = "k", **tags: str) -> MlflowRun:
    return MlflowRun(hub, key, f"run {key}", tags)


def send(client: TrackingClient, folder: SpoolFolder) -> None:
    """As the sender does, once."""
    deliveries = [Delivery(client, SpoolReader(path), lambda key, run_id: None) for path in folder.files()]
    for delivery in deliveries:
        others = [d for d in deliveries if d is not delivery and not d.is_done]
        live = [other for other in others if not (other.spool.is_ended or other.spool.is_ownerless)]
        delivery.send(any(other.key == delivery.key for other in live))
    for delivery in deliveries:
        if not delivery.is_done:
            delivery.spool.close()


def runs(client: TrackingClient, key: str = "k") -> list[Any]:
    return client.runs_of(key)


def history(client: TrackingClient, metric: str, key: str = "k") -> list[tuple[int, float]]:
    (run,) = runs(client, key)
    found = [(m.step, m.value) for m in client.mlflow.get_metric_history(run.info.run_id, metric)]
    return sorted(found, key=str)


def test_everything_reported_is_in_the_run(client: TrackingClient, hub: Hub, tmp_path: Path) -> None:
    attached = tmp_path / "figure.txt"
    attached.write_text("figure")
    with start(hub, benchmark="b1") as run:
        run.params({"sampler": {"num_steps": 18}})
        run.tags({"protocol": "fd"})
        run.metrics({"fd": 2.5, "nfe": 35}, step=35)
        run.text("a: 1\n", "settings.yaml")
        run.file(attached, "figures")
    send(client, hub.folder)
    (found,) = runs(client)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "run k"
    assert found.data.params == {"sampler.num_steps": "18"}
    assert found.data.metrics == {"fd": 2.5, "nfe": 35}
    assert {"benchmark": "b1", "protocol": "fd", names.KEY: "k"}.items() <= found.data.tags.items()
    files = Path(found.info.artifact_uri)
    assert (files / "settings.yaml").read_text() == "a: 1\n"
    assert (files / "figures" / "figure.txt").read_text() == "figure"
    assert hub.folder.files() == []


def test_a_spool_sent_three_times_is_stored_once(client: TrackingClient, hub: Hub, tmp_path: Path) -> None:
    run = start(hub)
    for step in range(2500):  # more than one request
        run.metrics({"train/loss": step % 7, "other": 1.0}, step=step)
    run.image("samples", np.zeros((8, 8, 3), np.uint8), 1)
    run.close()
    shutil.copytree(hub.folder.path, tmp_path / "copy")
    send(client, hub.folder)
    for _ in range(2):
        shutil.rmtree(hub.folder.path)
        shutil.copytree(tmp_path / "copy", hub.folder.path)
        send(client, hub.folder)
    assert len(history(client, "train/loss")) == 2500
    assert len(history(client, "other")) == 2500
    (found,) = runs(client)
    assert len(list((Path(found.info.artifact_uri) / "images").iterdir())) == 2


def test_the_database_itself_stores_a_repeated_batch_once(client: TrackingClient, tmp_path: Path) -> None:
    """The fact of MLflow that resending rests on, also where half of a batch is there."""
    run = client.mlflow.create_run(client.experiment_id())
    batch = [("m", float(step), 1000, step) for step in range(100)] + [("m", float("nan"), 1000, 100)]
    client.log(run.info.run_id, batch[:50])
    for _ in range(2):
        client.log(run.info.run_id, batch)
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        assert database.execute("select count(*), count(distinct step) from metrics").fetchone() == (101, 101)
    database.close()


def test_nan_and_infinity_are_stored(client: TrackingClient, hub: Hub) -> None:
    run = start(hub)
    run.metrics({"m": float("nan")}, step=1)
    run.metrics({"m": float("inf")}, step=2)
    run.metrics({"m": np.float32(0.5)}, step=3)
    send(client, hub.folder)
    found = dict(history(client, "m"))
    assert np.isnan(found[1])
    assert found[2] > 1e308
    assert found[3] == 0.5


def test_a_restart_that_reports_the_same_again_adds_nothing(client: TrackingClient, hub: Hub) -> None:
    for first, last in ((0, 60), (40, 100)):  # killed at 60, resumed from 40
        run = start(hub)
        for step in range(first, last):
            value = float("nan") if step == 50 else float("inf") if step == 51 else step / 3
            run.metrics({"loss": value}, step=step)
        run.image("samples", np.full((8, 8), 7, np.uint8), 50)
        run.close("FAILED" if last == 60 else "FINISHED")
        send(client, hub.folder)
    assert [step for step, _ in sorted(history(client, "loss"))] == list(range(100))
    (found,) = runs(client)
    assert found.info.status == "FINISHED"
    assert len(list((Path(found.info.artifact_uri) / "images").iterdir())) == 2


def test_a_new_value_at_an_old_step_is_stored(client: TrackingClient, hub: Hub) -> None:
    for value in (3.0, 2.0):
        with start(hub) as run:
            run.metrics({"seconds": value}, step=0)
        send(client, hub.folder)
    assert history(client, "seconds") == [(0, 2.0), (0, 3.0)]
    assert runs(client)[0].data.metrics["seconds"] == 2.0


def test_changed_params_stand_in_a_tag_and_do_not_block_what_follows(client: TrackingClient, hub: Hub) -> None:
    for steps in (18, 36):
        with start(hub) as run:
            run.params({"num_steps": steps, "kept": "same", f"new_{steps}": 1})
            run.metrics({"fd": steps}, step=steps)
        send(client, hub.folder)
    (found,) = runs(client)
    assert found.data.params == {"num_steps": "18", "kept": "same", "new_18": "1", "new_36": "1"}
    assert found.data.tags[names.CHANGED_PARAMS] == '{"num_steps": "36"}'
    assert len(history(client, "fd")) == 2


def test_a_long_param_is_whole_in_a_file(client: TrackingClient, hub: Hub) -> None:
    with start(hub) as run:
        run.params({"grid": {"sigmas": "1.5," * 2000}})
    send(client, hub.folder)
    (found,) = runs(client)
    assert len(found.data.params["grid.sigmas"]) == 6000
    assert (Path(found.info.artifact_uri) / "long_params" / "grid.sigmas.txt").read_text() == "1.5," * 2000


def test_more_params_than_one_request_takes_all_arrive(client: TrackingClient, hub: Hub) -> None:
    with start(hub) as run:
        run.params({f"p{number}": number for number in range(350)})
        run.tags({f"t{number}": "x" for number in range(150)})
    send(client, hub.folder)
    (found,) = runs(client)
    assert len(found.data.params) == 350
    assert sum(key.startswith("t") for key in found.data.tags) == 150


def test_pictures_have_the_names_that_the_image_grid_reads(client: TrackingClient, hub: Hub) -> None:
    """Compared with MLflow's own log_image, which makes the rest of the name at random."""
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    with start(hub) as run:
        run.image("train/samples", pixels, 12)
    send(client, hub.folder)
    (ours,) = runs(client)
    theirs = client.mlflow.create_run(client.experiment_id())
    client.mlflow.log_image(theirs.info.run_id, pixels, key="train/samples", step=12)
    theirs = client.mlflow.get_run(theirs.info.run_id)

    def shapes(run: Any) -> set[str]:
        found = (path.name for path in (Path(run.info.artifact_uri) / "images").iterdir())
        return {re.sub(r"timestamp\+\d{13}\+[0-9a-f-]{36}", "timestamp+T+U", name) for name in found}

    assert shapes(ours) == shapes(theirs)
    assert len(shapes(ours)) == 2
    assert ours.data.tags["mlflow.loggedImages"] == theirs.data.tags["mlflow.loggedImages"]


def test_a_twin_that_a_lost_reply_made_is_deleted(client: TrackingClient, hub: Hub) -> None:
    """Two empty runs of one key, as two requests of which one reply was lost leave them."""
    for start_time in (2000, 1000):
        client.mlflow.create_run(client.experiment_id(), start_time=start_time, tags={names.KEY: "k"})
    with start(hub) as run:
        run.metrics({"m": 1}, 1)
    send(client, hub.folder)
    (found,) = runs(client)
    assert found.info.start_time == 1000
    assert history(client, "m") == [(1, 1.0)]


def test_two_runs_of_one_key_with_content_become_one_with_all_of_it(client: TrackingClient, hub: Hub) -> None:
    """Another machine made a run of the same key a moment before, unseen until ours held something."""
    run = start(hub)
    run.metrics({"m": 1}, 1)
    path = hub.folder.files()[0]
    delivery = Delivery(client, SpoolReader(path), lambda key, run_id: None)
    delivery.send(is_shared=False)
    other = client.mlflow.create_run(client.experiment_id(), start_time=5, tags={names.KEY: "k"})
    client.log(other.info.run_id, [("theirs", 2.0, 6, 1)])
    run.metrics({"m": 3}, 2)
    run.close()
    delivery.send(is_shared=False)
    (found,) = runs(client)
    assert found.info.run_id == other.info.run_id
    assert history(client, "m") == [(1, 1.0), (2, 3.0)]
    assert found.data.metrics["theirs"] == 2.0
    assert found.info.status == "FINISHED"


def test_a_run_deleted_by_hand_comes_back_whole(client: TrackingClient, hub: Hub) -> None:
    run = start(hub)
    run.metrics({"m": 1}, 1)
    delivery = Delivery(client, SpoolReader(hub.folder.files()[0]), lambda key, run_id: None)
    delivery.send(is_shared=False)
    client.mlflow.delete_run(runs(client)[0].info.run_id)
    run.metrics({"m": 2}, 2)
    run.close()
    delivery.send(is_shared=False)
    assert history(client, "m") == [(1, 1.0), (2, 2.0)]


def test_what_the_server_refuses_is_named_and_does_not_block_the_rest(
    client: TrackingClient, hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    run = start(hub)
    writer = run._spool
    writer.append({"op": "metrics", "step": 0, "values": {"good": 1.0, "bad\nkey": 2.0}, "ts": 5})
    writer.append({"op": "file", "name": "gone.txt", "ts": 5, "attachment": "nowhere"})
    run.metrics({"after": 3})
    run.close()
    send(client, hub.folder)
    (found,) = runs(client)
    assert found.data.metrics == {"good": 1.0, "after": 3.0}
    assert "bad" in caplog.text
    assert "gone.txt" in caplog.text


def test_the_status_is_left_alone_while_another_still_reports(client: TrackingClient, hub: Hub) -> None:
    first, second = start(hub), start(hub)
    first.metrics({"m": 1}, 1)
    first.close()
    second.metrics({"m": 2}, 2)
    send(client, hub.folder)
    assert runs(client)[0].info.status == "RUNNING"
    second.close("FAILED")
    send(client, hub.folder)
    (found,) = runs(client)
    assert found.info.status == "FAILED"
    assert len(history(client, "m")) == 2


def test_a_killed_owner_leaves_the_run_running_and_all_is_sent(client: TrackingClient, hub: Hub) -> None:
    run = start(hub)
    run.metrics({"m": 1}, 1)
    run._spool.close()  # the lock goes as it does with a killed process
    send(client, hub.folder)
    assert history(client, "m") == [(1, 1.0)]
    assert runs(client)[0].info.status == "RUNNING"
    assert hub.folder.files() == []


def test_a_key_with_quotes_finds_its_run(client: TrackingClient, hub: Hub) -> None:
    for _ in range(2):
        with start(hub, key='it\'s "k" %') as run:
            run.metrics({"m": 1}, 1)
        send(client, hub.folder)
    assert len(client.mlflow.search_runs([client.experiment_id()])) == 1


def test_a_deleted_experiment_is_named_with_the_mend(client: TrackingClient, hub: Hub, tmp_path: Path) -> None:
    client.mlflow.delete_experiment(client.experiment_id())
    other = TrackingClient(hub.tracking_uri, "digits", str(tmp_path / "mlartifacts"))
    with pytest.raises(Exception, match="was deleted: bring it back with `mlflow experiments restore"):
        other.experiment_id()


def test_a_sender_without_owners_ends_when_all_is_sent(client: TrackingClient, hub: Hub) -> None:
    for key in ("a", "b"):
        with start(hub, key=key) as run:
            run.metrics({"m": 1}, 1)
    settings = SenderSettings(hub.tracking_uri, "digits", "", str(hub.folder.path))
    Sender(settings, lambda: False).run()
    assert history(client, "m", "a") == history(client, "m", "b") == [(1, 1.0)]
    assert hub.folder.files() == []


def test_what_a_later_version_reports_is_left_to_its_sender_and_holds_nothing_up(
    client: TrackingClient, hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    with start(hub, key="a") as run:
        run.metrics({"m": 1}, 1)
    newer = hub.folder.pending / "000000000000001-1-00000000.jsonl"  # the oldest: it would be sent first
    newer.write_bytes(b'{"op": "begin", "format": 2, "what": "told otherwise"}\n{"op": "end"}\n')
    before = newer.read_bytes()
    Sender(SenderSettings(hub.tracking_uri, "digits", "", str(hub.folder.path)), lambda: False).run()
    assert history(client, "m", "a") == [(1, 1.0)]
    assert hub.folder.files() == [newer]
    assert newer.read_bytes() == before
    assert "was written by a newer version of sigmasweep (what was reported of format 2" in caplog.text
    assert hub.flush(10)  # and nobody waits for it


def test_an_empty_spool_of_a_killed_process_is_discarded(client: TrackingClient, hub: Hub) -> None:
    hub.folder.create()
    writer = SpoolWriter(hub.folder)
    (hub.folder.pending / f"{writer.stem}.jsonl").write_bytes(b'{"op": "open", "ke')
    send(client, hub.folder)
    assert hub.folder.files() == []
    assert client.mlflow.search_runs([client.experiment_id()]) == []


@pytest.mark.parametrize("tag", ["no JSON", "[1, 2]", "null", "[" * 4000, '{"a": {"b": 1}}'])
def test_whatever_somebody_wrote_into_a_tag_of_ours_holds_nothing_up(
    client: TrackingClient, hub: Hub, tag: str
) -> None:
    start(hub).params({"n": 1})
    send(client, hub.folder)
    (run,) = runs(client)
    client.log(run.info.run_id, tags={names.CHANGED_PARAMS: tag})
    with start(hub) as again:
        again.params({"n": 2})
        again.metrics({"loss": 1.0}, 1)
    send(client, hub.folder)
    assert history(client, "loss") == [(1, 1.0)]
    assert '"n": "2"' in runs(client)[0].data.tags[names.CHANGED_PARAMS]


@pytest.mark.parametrize("name", ["../../../up.txt", "/tmp/up-4711.txt", "a/../../../up.txt", "..", "a\\..\\up.txt"])
def test_an_artifact_stays_among_those_of_its_run(client: TrackingClient, hub: Hub, tmp_path: Path, name: str) -> None:
    with start(hub) as run:
        run.text("text", name)
    send(client, hub.folder)
    (found,) = runs(client)
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.read_bytes() == b"text"]
    assert len(written) == 1
    assert written[0].is_relative_to(found.info.artifact_uri)
    assert not Path("/tmp/up-4711.txt").exists()
