"""What the first version wrote is read, by every later one."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy

from jobs import cli, report
from pipeline.config.upkeep import ReportJob
from pipeline.data.dataset import Dataset
from pipeline.data.formats import KINDS, Kind, kind_of
from pipeline.data.samples import read_chunk
from pipeline.data.store import Store
from pipeline.digests import canonical, digest, sha256
from pipeline.errors import ImagesNotKeptError
from pipeline.training.importing.own_folder import read_own
from pipeline.training.snapshot import CheckpointRef, find_snapshot, read_weights, snapshot_moments
from tests.data.kept import DIGESTS, GOLDEN, LATER, READERS, TRAINING, commits, index, keys_of, parts, train_on


@pytest.fixture
def store(tmp_path: Path) -> Store:
    shutil.copytree(GOLDEN / "kept", tmp_path / "kept")
    return Store(tmp_path / "kept")


def test_the_golden_store_has_every_kind_of_file_in_format_1(store: Store) -> None:
    told = "a new kind is tested by readers of its own; a new format by a golden store of its own"
    assert {kind_of(key).name for key in commits(store)} == {kind.name for kind in KINDS} - set(LATER), told
    assert {kind_of(key).name: key for key in LATER.values()} == LATER
    assert set(READERS) == {kind.name for kind in KINDS}
    assert all("content_format" not in json.loads(store.read(f"{key}.json")) for key in commits(store))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.name not in LATER], ids=lambda kind: kind.name)
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


def test_the_golden_training_goes_on(store: Store, tmp_path: Path) -> None:
    before = snapshot_moments(store, TRAINING)
    assert train_on(store, tmp_path, 0.3) == 0
    assert (before, snapshot_moments(store, TRAINING)) == ([100, 200], [100, 200, 300])


def test_the_golden_folder_of_a_checkpoint_is_read(store: Store) -> None:
    found = read_own(GOLDEN / "exported")
    snapshot = find_snapshot(store, CheckpointRef("golden", ema="raw"))
    assert set(found.weights) == {"raw"}
    assert sha256((GOLDEN / "exported" / "raw.safetensors").read_bytes()) == sha256(read_weights(store, snapshot))
