"""The golden store, and how every kind of file is read by those who use it."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jobs import cli, train
from pipeline.config.trainings import TrainJob
from pipeline.data.cache import Kept, kept
from pipeline.data.dataset import Dataset
from pipeline.data.features import (
    read_chunk_features,
    read_moments,
    read_reference_features,
    read_score,
    verify_features,
)
from pipeline.data.formats import Kind, kind_of
from pipeline.data.samples import chunk_indices, commit_setting, read_chunk, read_counts, read_setting
from pipeline.data.store import Store
from pipeline.data.trajectories import read_errors
from pipeline.digests import canonical, sha256
from pipeline.engine import slots
from pipeline.engine.benchmark_record import commit_record, find_record
from pipeline.engine.paces import Paces
from pipeline.engine.search_state import read_state
from pipeline.engine.timing import seconds_of_network
from pipeline.networks import MLP
from pipeline.reporting import MemoryReporter
from pipeline.training import checkpoint
from pipeline.training.snapshot import CheckpointRef, find_snapshot

GOLDEN = Path(__file__).parent / "golden"
DIGESTS = json.loads((GOLDEN / "digests.json").read_text())
TRAINING = DIGESTS["training"]
SLOT = slots.Slot("nightly", datetime(2026, 11, 26, 2, tzinfo=UTC))
# Kinds that the first version did not have, with a key of each.
LATER = {
    "beginning of a schedule": "schedules/nightly/since",
    "slot of a schedule": SLOT.key("outcome"),
    "gap of a schedule": "schedules/nightly/gaps/20261127T020000Z",
    "slot ahead of the clock": "schedules/nightly/ahead/20261128T020000Z",
}


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


def the_meta(store: Store, key: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(store.read(f"{key}.json"))["meta"]
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
        lambda store, key: commit_setting(store, the_meta(store, key)["key"]),
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
        lambda store, key: commit_record(store, parts(key)[0], the_meta(store, key)),
    ],
    "step of a search": [lambda store, key: read_state(store, parts(key)[0])],
    "record of a search": [lambda store, key: find_record(store, "golden-search")],
    "beginning of a schedule": [lambda store, key: slots.read_ledger(store, "nightly")],
    "slot of a schedule": [lambda store, key: slots.read_outcome(store, SLOT)],
    "gap of a schedule": [lambda store, key: store.manifest(key)],
    "slot ahead of the clock": [lambda store, key: store.manifest(key)],
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
    return [key for key in commits(store) if kind_of(key) == kind]


def commits(store: Store) -> list[str]:
    """The keys of all commits; a blob may end with .json too."""
    return [key for key in store.committed("") if not re.search(r"-[0-9a-f]{12}-[^/]+$", key)]


def train_on(store: Store, tmp_path: Path, kimg: float) -> int:
    """Goes on with the golden training, as the job does but for the tracker; the exit code."""
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

    def main(settings: TrainJob) -> None:
        train.run_training(store, settings, MemoryReporter())

    return cli.run(TrainJob, main, None, argv=[str(config)])


def golden_store(root: Path) -> Store:
    """A copy of the golden store, with something of every kind."""
    shutil.copytree(GOLDEN / "kept", root)
    store = Store(root)
    for key in LATER.values():
        store.commit(key, {}, {"made": "now", "since": SLOT.instant.isoformat()})
    return store
