"""What a later version wrote is told in a sentence and left as it is."""

import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import cli, prune
from pipeline.config.upkeep import PruneJob
from pipeline.data import lease
from pipeline.data.dataset import Dataset
from pipeline.data.formats import KINDS, Kind, kind_of
from pipeline.data.samples import read_chunk, read_counts
from pipeline.data.store import Store
from pipeline.errors import NewerFormatError, StoreError
from pipeline.training.importing.own_folder import read_own
from tests.data.kept import (
    GOLDEN,
    READERS,
    TRAINING,
    content,
    golden_store,
    index,
    keys_of,
    parts,
    train_on,
    with_format,
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return golden_store(tmp_path / "kept")


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


def test_the_page_on_upgrading_names_every_kind_with_its_number() -> None:
    page = (Path(__file__).parents[2] / "docs" / "upgrading.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \| `([^|`]+)` \| (\d+) \|$", page, re.MULTILINE)
    assert rows == [(kind.name, kind.pattern, str(kind.format)) for kind in KINDS]
