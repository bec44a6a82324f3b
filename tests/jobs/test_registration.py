"""A training registers its checkpoint, once, whatever the tracker does meanwhile: with a real MLflow server."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from jobs import cli, train
from pipeline.config.trainings import TrainJob
from pipeline.data.dataset import commit_dataset
from pipeline.data.sources.base import Item
from pipeline.data.store import Store
from pipeline.tracking.client import TrackingClient
from pipeline.tracking.mlflow_reporter import MlflowReporter
from pipeline.tracking.registry import Registry
from pipeline.tracking.spool import SpoolFolder
from tests.tracking import conftest as tracking
from tests.tracking.conftest import Server

empty_database, stopped_server, server = tracking.empty_database, tracking.stopped_server, tracking.server

TRAINING = {
    "name": "digits", "dataset": "noise", "model": {"network": {"kind": "mlp", "hidden": 8}, "sigma_data": 0.5},
    "training": {"batch_size": 10, "duration_kimg": 0.1, "snapshot_kimg": 0.1, "ema": {"halflife_kimg": [0.1]}},
    "workers": {"num_workers": 0, "device": "cpu"}, "experiment": "tests",
    "register_as": {"name": "digits", "alias": "newest"},
}  # fmt: skip


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with a data set of noise; a tracker that is away is waited for a second only."""
    images = np.random.default_rng(0).integers(0, 256, (40, 1, 4, 4), dtype=np.uint8)
    commit_dataset(Store(tmp_path / "store"), "noise", (Item(str(i), image, i % 3) for i, image in enumerate(images)))
    monkeypatch.setattr(MlflowReporter.flush, "__defaults__", (1.0,))
    monkeypatch.setattr("pipeline.tracking.patience.FIRST_WAIT_SECONDS", 0.01)
    return tmp_path


def run(root: Path, uri: str, **changes: Any) -> int:
    path = root / "train.yaml"
    path.write_text(yaml.safe_dump({"store": str(root / "store"), "tracking_uri": uri, **TRAINING, **changes}))
    return cli.run(TrainJob, train.main, None, train.dry_run, argv=[str(path)])


def test_a_tracker_that_is_away_loses_no_training_and_the_same_command_registers_it(
    stopped_server: Server,
    root: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server, begun = stopped_server, []
    server.kill()
    assert run(root, server.uri) == 1
    told = capsys.readouterr()
    assert "trained digits-" in told.out
    assert "is kept and not registered yet: run the same command again" in told.err
    assert server.uri in told.err
    store = Store(root / "store")
    snapshots = [key for key in store.committed("checkpoints") if "/snapshots/" in key]
    assert len(snapshots) == 1

    server.start()
    monkeypatch.setattr("pipeline.engine.training._own", lambda *_: begun.append(1))
    for _ in range(2):
        assert run(root, server.uri) == 0
        assert "as models:/digits/1" in capsys.readouterr().out
    assert not begun, "nothing is trained again"
    registry = Registry(server.uri)
    [version] = registry.versions("digits")
    assert registry.aliases("digits") == {"newest": 1}
    run_of = TrackingClient(server.uri, "tests").mlflow.get_run(version.run_id)
    assert run_of.data.tags["sigmasweep.training"] == version.training == snapshots[0].split("/")[1]
    assert run_of.data.tags["sigmasweep.store"] == version.store == store.title
    assert run_of.data.metrics, "the run is the training's own"
    assert SpoolFolder.of(str(root / "mlflow-spool"), server.uri, "tests").files() == []
    files = registry.download(version, root)
    assert {path.name for path in files.iterdir()} == {"MLmodel", "model.py", "config.json", "ema-0.1.safetensors"}


def test_a_training_that_goes_on_is_the_next_version(
    server: Server,
    root: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = {"register_as": "longer"}
    assert run(root, server.uri, **model) == 0
    longer = {**TRAINING["training"], "duration_kimg": 0.2}  # type: ignore[dict-item]
    assert run(root, server.uri, training=longer, **model) == 0
    assert "as models:/longer/2" in capsys.readouterr().out
    first, second = Registry(server.uri).versions("longer")
    assert (first.num_images, second.num_images) == (100, 200)
    assert first.training == second.training
    assert first.run_id == second.run_id


@pytest.mark.slow
def test_a_training_that_another_tracker_was_told_of_gets_a_run_to_belong_to(
    server: Server,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert run(root, f"sqlite:///{root}/first.db", register_as=None) == 0
    assert run(root, server.uri, register_as="moved") == 0
    registry = Registry(server.uri)
    version = registry.resolve("models:/moved")
    assert registry.of_run(f"runs:/{version.run_id}").name == version.training
