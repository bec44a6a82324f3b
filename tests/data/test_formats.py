"""What a later version wrote is told in a sentence and left as it is; what the first version wrote is read."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy

from jobs import cli, prune, report, train
from pipeline.config.settings import PruneJob, ReportJob, TrainJob
from pipeline.data import lease
from pipeline.data.cache import Kept, kept
from pipeline.data.dataset import Dataset
from pipeline.data.features import (
    read_chunk_features,
    read_moments,
    read_reference_features,
    read_score,
    verify_features,
)
from pipeline.data.formats import KINDS, Kind, kind_of
from pipeline.data.samples import chunk_indices, commit_setting, read_chunk, read_counts, read_setting
from pipeline.data.store import Store
from pipeline.data.trajectories import read_errors
from pipeline.digests import canonical, digest, sha256
from pipeline.engine.benchmark_record import commit_record, find_record
from pipeline.engine.paces import Paces
from pipeline.engine.search_state import read_state
from pipeline.engine.timing import seconds_of_network
from pipeline.errors import ImagesNotKeptError, NewerFormatError, StoreError
from pipeline.networks import MLP
from pipeline.training import checkpoint
from pipeline.training.importing.own_folder import read_own
from pipeline.training.snapshot import CheckpointRef, find_snapshot, read_weights

GOLDEN = Path(__file__).parent / "golden"
DIGESTS = json.loads((GOLDEN / "digests.json").read_text())
TRAINING = DIGESTS["training"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    shutil.copytree(GOLDEN / "kept", tmp_path / "kept")
    return Store(tmp_path / "kept")


def made_anew() -> Kept:
    raise AssertionError("what is there was not read")


def parts(key: str) -> tuple[str, str, str]:
    return tuple(key.split("/")[1:4])  # type: ignore[return-value]


def numbers(key: str) -> tuple[int, int]:
    first, count = key.split("-")[-2:]
    return int(first), int(count)


def index(key: str) -> int:
    return next(iter(chunk_indices([key])))


def the_blob(store: Store, key: str) -> str:
    return next(iter(json.loads(store.read(f"{key}.json"))["blobs"]))


def the_setting(store: Store, key: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(store.read(f"{key}.json"))["meta"]["key"]
    return found


# How each kind is read by those who use it. All of them must refuse what is newer.
READERS: dict[str, list[Callable[[Store, str], Any]]] = {
    "data set": [
        lambda store, key: Dataset.open(store, "digits"),
        lambda store, key: Dataset.is_there(store, "digits"),
    ],
    "checkpoint of a training": [lambda store, key: checkpoint.newest(store, TRAINING, print)],
    "snapshot": [lambda store, key: find_snapshot(store, CheckpointRef("golden", int(parts(key)[2])))],
    "rebuilt weights": [lambda store, key: find_snapshot(store, CheckpointRef("golden", ema="posthoc-0.07"))],
    "setting of samples": [
        lambda store, key: read_setting(store, parts(key)[0]),
        lambda store, key: commit_setting(store, the_setting(store, key)),
    ],
    "chunk of samples": [
        lambda store, key: read_chunk(store, parts(key)[0], index(key)),
        lambda store, key: read_counts(store, parts(key)[0], index(key)),
    ],
    "features": [
        lambda store, key: read_chunk_features(store, *parts(key)[:2], index(key)),
        lambda store, key: verify_features(store, *parts(key)[:2], index(key)),
    ],
    "moments": [lambda store, key: read_moments(store, *parts(key)[:2], *numbers(key))],
    "score": [lambda store, key: read_score(store, *parts(key))],
    "errors of trajectories": [lambda store, key: read_errors(store, *parts(key)[:2], *numbers(key))],
    "reference": [lambda store, key: kept(store, key, "moments.safetensors", made_anew)],
    "features of a reference": [lambda store, key: read_reference_features(store, *parts(key)[:2], index(key))],
    "what a score prepared": [lambda store, key: kept(store, key, the_blob(store, key), made_anew)],
    "pace": [lambda store, key: Paces(store)],
    "timing": [lambda store, key: seconds_of_network(store, MLP(), 8)],
    "record of a benchmark": [
        lambda store, key: find_record(store, "golden"),
        lambda store, key: commit_record(store, parts(key)[0], {}),
    ],
    "step of a search": [lambda store, key: read_state(store, parts(key)[0])],
    "record of a search": [lambda store, key: find_record(store, "golden-search")],
    "cache": [lambda store, key: kept(store, key, the_blob(store, key), made_anew)],
}


def with_format(store: Store, key: str, field: str, number: int) -> None:
    """The manifest as a version with another format would have written it: whole, by its own digest."""
    body = json.loads(store.read(f"{key}.json"))
    del body["sha256"]
    body[field] = number
    store.write(f"{key}.json", json.dumps({"sha256": sha256(canonical(body).encode()), **body}).encode())


def content(root: str | Path) -> dict[str, str]:
    """The sha256 of every file below a folder."""
    files = (path for path in Path(root).rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def keys_of(store: Store, kind: Kind) -> list[str]:
    return [key for key in store.committed("") if kind_of(key) == kind]


# -- what the first version wrote ---------------------------------------------------------------------------------------


def test_the_golden_store_has_every_kind_of_file_in_format_1(store: Store) -> None:
    kinds = {kind_of(key) for key in store.committed("")}
    assert kinds == set(KINDS), "a new kind is tested by readers of its own; a new format by a golden store of its own"
    assert set(READERS) == {kind.name for kind in KINDS}
    assert all("content_format" not in json.loads(store.read(f"{key}.json")) for key in store.committed(""))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_what_the_first_version_wrote_is_read(store: Store, kind: Kind) -> None:
    for key in keys_of(store, kind):
        assert store.manifest(key).content_format == 1
        for reader in READERS[kind.name]:
            if kind.name == "chunk of samples" and store.manifest(key).meta["encoding"] == "none":
                with pytest.raises(ImagesNotKeptError):
                    read_chunk(store, parts(key)[0], index(key))
            elif reader(store, key) is None:
                assert kind.name in ("setting of samples", "features", "record of a benchmark", "timing")


def test_the_numbers_in_the_golden_store_are_what_they_were(store: Store) -> None:
    assert numbers_in(store) == DIGESTS["numbers"]


def numbers_in(store: Store) -> dict[str, Any]:
    """Digests of all that is read of a store, after decoding: how files keep it is left out."""
    found: dict[str, Any] = {"data set": Dataset.open(store, "digits").info.digest}
    pixels = Dataset.open(store, "digits").images(np.arange(100, dtype=np.int64))
    found["images"] = sha256(np.ascontiguousarray(pixels).data)
    for kind in KINDS:
        for key in keys_of(store, kind):
            manifest = store.manifest(key)
            told = [digest(manifest.meta)]
            for name in sorted(manifest.blobs):
                if name.endswith(".safetensors"):
                    arrays = safetensors.numpy.load(store.blob(manifest, name))
                    told += [f"{name} {key} {array.dtype} {array.shape} {sha256(np.ascontiguousarray(array).data)}"
                             for key, array in sorted(arrays.items())]  # fmt: skip
                elif name.endswith(".parquet"):
                    table = pq.read_table(pa.BufferReader(store.blob(manifest, name)), columns=["seed", "label", "nfe"])
                    told += [name, sha256(canonical(table.to_pydict()).encode())]
            found[key] = digest(told)
    return found


def test_the_golden_report_is_made_of_the_store_alone(store: Store, tmp_path: Path) -> None:
    config = tmp_path / "report.yaml"
    config.write_text(f"store: {store.uri}\nname: golden\nout: {tmp_path}/report\n")
    assert cli.run(ReportJob, report.main, None, argv=[str(config)]) == 0
    assert "euler" in (tmp_path / "report" / "report.html").read_text()


def test_the_golden_training_goes_on(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train_on(store, tmp_path, 0.3) == 0
    assert f"trained {TRAINING}: 300 images seen, 3 snapshots" in capsys.readouterr().out


def test_the_golden_folder_of_a_checkpoint_is_read(store: Store) -> None:
    found = read_own(GOLDEN / "exported")
    snapshot = find_snapshot(store, CheckpointRef("golden", ema="raw"))
    assert set(found.weights) == {"raw"}
    assert sha256((GOLDEN / "exported" / "raw.safetensors").read_bytes()) == sha256(read_weights(store, snapshot))


# -- what a later version wrote -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["format", "content_format"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_later_format_is_refused_in_a_sentence_and_left_as_it_is(store: Store, kind: Kind, field: str) -> None:
    keys = keys_of(store, kind)
    for key in keys:
        with_format(store, key, field, 2)
    before = content(store.uri)
    for reader in READERS[kind.name]:
        with pytest.raises(NewerFormatError) as caught:
            reader(store, keys[-1])
        said = str(caught.value)
        what = kind.name if field == "content_format" else "a manifest"
        assert re.match(rf"\S+\.json: was written by a newer version of sigmasweep \({what} of format 2, this", said)
        assert said.removesuffix(".").endswith("update sigmasweep, or name another store; it was left as it is")
    with pytest.raises(NewerFormatError):
        store.commit(keys[-1], {"x": b"another"}, {})
    assert content(store.uri) == before


@pytest.mark.parametrize("number", [True, 0, -1, "2", None, 1.5])
def test_what_is_no_number_of_a_format_is_damage(store: Store, number: Any) -> None:
    key = keys_of(store, KINDS[0])[0]
    with_format(store, key, "content_format", number)
    with pytest.raises(StoreError, match="the manifest is damaged"):
        store.find(key)


def test_a_number_of_a_format_that_was_only_flipped_is_damage_and_no_later_version(store: Store) -> None:
    key = keys_of(store, KINDS[0])[0]
    store.write(f"{key}.json", store.read(f"{key}.json").replace(b'"format": 1', b'"format": 3'))
    with pytest.raises(StoreError, match="its digest does not match"):
        store.find(key)


def test_what_is_written_says_its_format(store: Store) -> None:
    store.commit("samples/x/chunk-000000", {}, {})
    written = json.loads(store.read("samples/x/chunk-000000.json"))
    assert (written["format"], written["content_format"]) == (1, kind_of("samples/x/chunk-000000").format)


def test_a_parquet_file_of_a_later_format_is_no_damaged_chunk(store: Store) -> None:
    key = next(key for key in keys_of(store, kind_of("samples/x/chunk-0")) if store.manifest(key).meta["count"])
    manifest = store.manifest(key)
    table = pq.read_table(pa.BufferReader(store.blob(manifest, "images.parquet")))
    about = json.loads(table.schema.metadata[b"sigmasweep"])
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({b"sigmasweep": json.dumps({**about, "format": 2})}), sink)
    store.commit(key, {"images.parquet": sink.getvalue().to_pybytes()}, manifest.meta)
    for read in (read_chunk, read_counts):
        with pytest.raises(NewerFormatError, match="Parquet file of format 2"):
            read(store, parts(key)[0], index(key))


def test_an_arrow_file_of_a_later_format_is_no_damaged_data_set(store: Store) -> None:
    manifest = store.manifest("datasets/digits")
    batch = pa.ipc.open_file(pa.BufferReader(store.blob(manifest, "images.arrow"))).get_batch(0)
    metadata = {**batch.schema.metadata, b"sigmasweep_format": b"2"}
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema.with_metadata(metadata)) as writer:
        writer.write_batch(batch.replace_schema_metadata(metadata))
    store.commit("datasets/digits", {"images.arrow": sink.getvalue().to_pybytes()}, manifest.meta)
    with pytest.raises(NewerFormatError, match="Arrow file of format 2"):
        Dataset.open(store, "digits")


def test_a_lease_of_a_later_version_is_not_taken(store: Store) -> None:
    name = f"trainings/{TRAINING}"
    key = store.keys(f"leases/{name}")[-1]
    assert "format" not in json.loads(store.read(key))  # of the first version: taken, as its process let it go
    lease.acquire(store, name, print).release()
    key = store.keys(f"leases/{name}")[-1]
    assert json.loads(store.read(key))["format"] == lease.FORMAT == 1
    store.write(key, json.dumps({"format": 2, "holder": "told otherwise"}).encode())
    before = content(store.uri)
    with pytest.raises(NewerFormatError, match=r"0000000002: was written by a newer version .*a lease of format 2"):
        lease.acquire(store, name, print)
    assert content(store.uri) == before


def test_a_holder_that_a_later_version_succeeded_is_told_that_it_is_old(store: Store) -> None:
    mine = lease.acquire(store, "trainings/x", print)
    assert asdict(mine.holder).keys() == json.loads(store.read(store.keys("leases/trainings/x")[0])).keys() - {"format"}
    store.write("leases/trainings/x/000000000002", b'{"format": 2}')
    with pytest.raises(Exception, match="was taken over by another process"):
        mine.check()


def test_a_folder_of_a_later_version_is_refused(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "exported", tmp_path / "exported")
    config = tmp_path / "exported" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "version": 2}))
    with pytest.raises(NewerFormatError, match=r"config\.json: was written by a newer version .*folder of format 2"):
        read_own(tmp_path / "exported")


# -- whole jobs ---------------------------------------------------------------------------------------------------------


def train_on(store: Store, tmp_path: Path, kimg: float) -> int:
    config = tmp_path / "train.yaml"
    config.write_text(
        f"""store: {store.uri}
name: golden
dataset: digits
model: {{network: {{kind: mlp, hidden: 4, num_layers: 1}}, sigma_data: null}}
training:
  optimizer: {{lr: 3.0e-3, ramp_up_kimg: 0}}
  ema: {{halflife_kimg: [0.2], power_stds: [0.05, 0.1]}}
  batch_size: 50
  duration_kimg: {kimg}
  snapshot_kimg: 0.1
workers: {{num_workers: 0, device: cpu}}
"""
    )
    return cli.run(TrainJob, train.main, None, argv=[str(config)])


def test_a_training_whose_newest_checkpoint_is_of_a_later_version_does_not_begin_again(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_format(store, keys_of(store, KINDS[1])[-1], "content_format", 2)
    before = content(f"{store.uri}/checkpoints")
    assert train_on(store, tmp_path, 0.3) == 2
    told = capsys.readouterr().err
    assert "checkpoint of a training of format 2" in told
    assert "Traceback" not in told
    assert content(f"{store.uri}/checkpoints") == before


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_pruning_never_takes_what_a_later_version_wrote(
    store: Store, kind: Kind, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The blobs of a newer manifest may not be where this version looks for them."""
    for key in keys_of(store, kind):
        with_format(store, key, "content_format", 2)
        store.write(f"{key}-0123456789ab-new.bin", b"named in a way that this version cannot know")
    before = content(store.uri)
    config = tmp_path / "prune.yaml"
    config.write_text(f"store: {store.uri}\nkeep: moments\nsnapshots: 1\npictures: 0\n")
    assert cli.run(PruneJob, prune.main, None, argv=[str(config)]) == 2
    assert "was written by a newer version of sigmasweep" in capsys.readouterr().err
    assert content(store.uri) == before
