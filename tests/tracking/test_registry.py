"""Registered models at a real MLflow: once each, found by every form of address, and never trusted blindly."""

import threading
from dataclasses import replace
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.errors import CheckpointError, SettingsError, UserError
from pipeline.tracking import names
from pipeline.tracking.client import TrackingClient
from pipeline.tracking.registry import Registry
from pipeline.tracking.versions import Registrable, checkpoint_of_run
from tests.tracking.conftest import EXPERIMENT, LosingProxy, Server

CHECKPOINT = Registrable("/data/store", "digits-0123abcd", 100_000, "ema-500", "ab" * 32, "cd" * 16)
LATER = replace(CHECKPOINT, num_images=200_000, weights_sha256="ef" * 32)


@pytest.fixture
def registry(client: TrackingClient) -> Registry:
    return Registry(client.mlflow.tracking_uri)


def run_of(client: TrackingClient, key: str = "training") -> str:
    run, _ = client.find_or_create({"key": key, "name": CHECKPOINT.training, "tags": {"kind": "training"}, "ts": 1})
    return str(run.info.run_id)


def files(root: Path, content: str = "weights") -> Path:
    folder = root / "files"
    (folder / "more").mkdir(parents=True, exist_ok=True)
    (folder / "ema-500.safetensors").write_text(content)
    (folder / "more" / "config.json").write_text("{}")
    return folder


def test_a_checkpoint_is_one_version_however_often_it_is_registered(
    client: TrackingClient, registry: Registry, tmp_path: Path
) -> None:
    run, folder = run_of(client), files(tmp_path)
    first = registry.register("digits", CHECKPOINT, run, folder, "a description", {"dataset": "digits"})
    assert (first.address, first.run_id, first.title) == ("models:/digits/1", run, CHECKPOINT.title)
    assert Registrable(**{name: getattr(first, name) for name in Registrable.__dataclass_fields__}) == CHECKPOINT
    assert first.all_tags["dataset"] == "digits"
    moved = replace(CHECKPOINT, store="s3://elsewhere", training="digits-again")
    assert registry.register("digits", moved, run, folder) == first, "what counts is what it is, not where it lies"
    assert registry.register("digits", LATER, run, folder).version == 2
    assert registry.register("others", CHECKPOINT, run, folder).address == "models:/others/1"
    assert [version.version for version in registry.versions("digits")] == [1, 2]
    assert registry.models() == ["digits", "others"]


def test_a_model_is_found_by_number_by_alias_and_by_its_name_alone(
    client: TrackingClient, registry: Registry, tmp_path: Path
) -> None:
    run, folder = run_of(client), files(tmp_path)
    for checkpoint in (CHECKPOINT, LATER):
        registry.register("digits", checkpoint, run, folder)
    registry.set_alias("digits", "champion", 1)
    numbers = [registry.resolve(f"models:/digits{end}").version for end in ("/1", "/2", "@champion", "", "/latest")]
    assert numbers == [1, 2, 1, 2, 2]
    assert registry.newest("digits").title == LATER.title
    registry.set_alias("digits", "champion", 2)
    assert registry.aliases("digits") == {"champion": 2}
    copy = registry.download(registry.resolve("models:/digits/1"), tmp_path)
    assert (copy / "ema-500.safetensors").read_text() == "weights"
    assert (copy / "more" / "config.json").read_text() == "{}"


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("models:/digit", "no such model is registered at .*; did you mean digits"),
        ("models:/xyz/1", "no such model is registered at .*; there are: digits"),
        ("models:/it's", "no such model"),
        ("models:/digits/7", "the model digits has no version 7 .it has: 1."),
        ("models:/digits@best", "the model digits has no such alias .it has: none."),
        ("models:/", "write models:/NAME/VERSION, models:/NAME@ALIAS or models:/NAME"),
        ("models:/digits/Production", "is not the address of a registered model"),
    ],
)
def test_what_is_not_there_is_said_in_one_sentence(
    client: TrackingClient, registry: Registry, tmp_path: Path, address: str, words: str
) -> None:
    registry.register("digits", CHECKPOINT, run_of(client), files(tmp_path))
    with pytest.raises(UserError, match=words) as told:
        registry.resolve(address)
    assert "\n" not in str(told.value)


def test_a_database_that_is_not_there_is_not_made_by_looking(tmp_path: Path) -> None:
    registry = Registry(f"sqlite:///{tmp_path}/none.db")
    for look in (lambda: registry.resolve("models:/digits"), lambda: registry.of_run(f"runs:/{'0' * 32}")):
        with pytest.raises(CheckpointError, match=r"none\.db is not there; set tracking_uri"):
            look()
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_away_is_said_with_its_address_but_no_password() -> None:
    with pytest.raises(
        CheckpointError, match=r"http://127.0.0.1:9 cannot be reached: start it, or set tracking_uri"
    ) as e:
        Registry("http://me:secret@127.0.0.1:9").resolve("models:/digits")
    assert "secret" not in str(e.value)


def test_versions_of_other_making_and_changed_tags_are_refused(
    client: TrackingClient, registry: Registry, tmp_path: Path
) -> None:
    registry.register("digits", CHECKPOINT, run_of(client), files(tmp_path))
    client.mlflow.create_model_version("digits", "s3://somewhere/else", await_creation_for=0)
    with pytest.raises(CheckpointError, match=r"models:/digits/2: was not registered by sigmasweep"):
        registry.resolve("models:/digits")
    assert [version.version for version in registry.versions("digits")] == [1]
    client.mlflow.set_model_version_tag("digits", "1", names.WEIGHTS_SHA256, "ee" * 32)
    with pytest.raises(CheckpointError, match="its tags were changed"):
        registry.resolve("models:/digits/1")
    client.mlflow.set_model_version_tag("digits", "1", names.TRAINING, "../../etc/passwd")
    with pytest.raises(CheckpointError, match="a tag that was changed by hand"):
        registry.resolve("models:/digits/1")


def test_a_run_names_the_checkpoint_that_it_made_or_sampled(client: TrackingClient, registry: Registry) -> None:
    training = run_of(client)
    assert registry.of_run(f"runs:/{training}").name == CHECKPOINT.training
    tags = {"kind": "sampler", "checkpoint": CHECKPOINT.title}
    sampler, _ = client.find_or_create({"key": "s", "name": "euler, 6", "tags": tags, "ts": 1})
    assert registry.of_run(f"runs:/{sampler.info.run_id}").name == CHECKPOINT.title
    table, _ = client.find_or_create({"key": "b", "name": "steps", "tags": {"kind": "benchmark"}, "ts": 1})
    with pytest.raises(CheckpointError, match=r"the benchmark run 'steps' has no checkpoint"):
        registry.of_run(f"runs:/{table.info.run_id}")
    with pytest.raises(CheckpointError, match="there is no such run"):
        registry.of_run(f"runs:/{'0' * 32}")
    for wrong in ("runs:/", "runs:/x", f"runs:/{training}/model"):
        with pytest.raises(SettingsError, match="write runs:/ and the id"):
            registry.of_run(wrong)
    with pytest.raises(CheckpointError, match="changed by hand"):
        checkpoint_of_run("runs:/1", "x", {"kind": "sampler", "checkpoint": "../../etc@1/x"})


def test_replies_lost_on_the_wire_make_no_second_version(
    server: Server, proxy: ThreadingHTTPServer, tmp_path: Path
) -> None:
    run = run_of(TrackingClient(server.uri, EXPERIMENT), "lost")
    registry = Registry(f"http://127.0.0.1:{proxy.server_address[1]}")
    version = registry.register("lost", CHECKPOINT, run, files(tmp_path))
    registry.set_alias("lost", "champion", version.version)
    assert {"POST registered-models/create", "POST model-versions/create"} <= set(LosingProxy.seen)
    assert LosingProxy.num_lost >= 6
    direct = Registry(server.uri)
    assert [found.version for found in direct.versions("lost")] == [version.version]
    assert direct.aliases("lost") == {"champion": version.version}
    assert (direct.download(version, tmp_path) / "ema-500.safetensors").read_text() == "weights"


def test_many_that_register_the_same_checkpoint_at_once_make_one_version(server: Server, tmp_path: Path) -> None:
    run, folder = run_of(TrackingClient(server.uri, EXPERIMENT), "race"), files(tmp_path)
    begin, found, failed = threading.Barrier(4), list[int](), list[BaseException]()

    def work() -> None:
        try:
            registry = Registry(server.uri)
            begin.wait()
            found.append(registry.register("race", CHECKPOINT, run, folder).version)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    [left] = Registry(server.uri).versions("race")
    assert set(found) == {left.version}
