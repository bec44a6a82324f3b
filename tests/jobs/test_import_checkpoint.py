"""The jobs that import and export checkpoints, and what they leave with every run on the weights."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from jobs import cli, evaluate, export_checkpoint, generate, import_checkpoint
from jobs.context import checked_points, measures_of, open_store
from pipeline.config.generation import GenerateJob
from pipeline.config.job import Job
from pipeline.config.measuring import EvaluateJob, MetricSettings
from pipeline.config.transfer import ExportCheckpointJob, ImportCheckpointJob
from pipeline.data.store import Store
from pipeline.diffusion.preconditioning import EDMPreconditioning
from pipeline.engine.measures import needs_dataset
from pipeline.engine.point_summary import checkpoint_tags, licence_notes
from pipeline.errors import SettingsError
from pipeline.networks import MLP, DDPMpp
from pipeline.training.importing import commit_import, export_folder, recognise
from pipeline.training.settings import ModelSpec
from pipeline.training.snapshot import CheckpointRef, commit_snapshot, find_snapshot
from tests.training import nvlabs

LICENCE = "CC BY-NC-SA 4.0"
JOBS: dict[str, tuple[type[Job], Callable[[Any], None], Any]] = {
    "import": (ImportCheckpointJob, import_checkpoint.main, import_checkpoint.dry_run),
    "export": (ExportCheckpointJob, export_checkpoint.main, export_checkpoint.dry_run),
    "generate": (GenerateJob, generate.main, generate.dry_run),
    "evaluate": (EvaluateJob, evaluate.main, evaluate.dry_run),
}


def run(root: Path, job: str, *flags: str, **content: Any) -> int:
    model, main, dry_run = JOBS[job]
    path = root / f"{job}.yaml"
    path.write_text(yaml.safe_dump({"store": str(root / "store"), **content}))
    return cli.run(model, main, None, dry_run, argv=[str(path), *flags])


def folder(root: Path) -> Path:
    """A checkpoint that somebody exported."""
    spec = ModelSpec(
        network=MLP(hidden=8), preconditioning=EDMPreconditioning(), sigma_data=0.5, resolution=4, channels=1,
        num_classes=0,
    )  # fmt: skip
    torch.manual_seed(0)
    weights = {"ema-1": spec.network.build(4, 1, 0).state_dict()}
    other = Store(root / "other")
    commit_snapshot(other, "tiny-00000000", 5000, spec, weights, {"settings": {}, "dataset": {}})
    export_folder(other, CheckpointRef("tiny"), root / "away")
    return root / "away"


def pickled(root: Path) -> Path:
    network = DDPMpp(model_channels=4, channel_mult=(1,), num_blocks=1, attn_resolutions=()).build(4, 1, 0)
    path = root / "network.pkl"
    path.write_bytes(nvlabs.file(nvlabs.network(network, EDMPreconditioning(), 0.5, (4, 1, 0))))
    return path


def generation(**changes: Any) -> dict[str, Any]:
    base = {"checkpoint": {"training": "theirs"}, "seeds": {"count": 2}, "actors": {"num_actors": 0}}
    sampler = {"timesteps": {"kind": "edm", "num_steps": 2}}
    return {**base, "sampler": sampler, "execution": {"batch_size": 2, "chunk_size": 2}, **changes}


def test_an_import_tells_what_it_is_and_every_run_on_it_shows_its_licence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder(tmp_path)
    assert run(tmp_path, "import", "--dry-run", name="theirs", path=str(path), licence=LICENCE) == 0
    assert "# recognised: a checkpoint of ours, tiny-00000000@5000" in capsys.readouterr().out
    assert not (tmp_path / "store").exists()
    assert run(tmp_path, "import", name="theirs", path=str(path), licence=LICENCE) == 0
    told = capsys.readouterr().out
    for words in ("mlp for images of 1x4x4", "sigma from 0 to inf", "1 (ema-1)", f"licence of the weights: {LICENCE}"):
        assert words in told
    snapshot = find_snapshot(Store(tmp_path / "store"), CheckpointRef("theirs"))
    assert (snapshot.num_images, snapshot.licence, dict(snapshot.dataset)) == (5000, LICENCE, {})

    runs: list[tuple[dict[str, str], dict[str, Any]]] = []
    monkeypatch.setattr(generate, "tracked", lambda settings: _Tracker(runs))
    assert run(tmp_path, "generate", **generation()) == 0
    [(tags, params)] = runs
    assert tags["licence"] == params["checkpoint"]["licence"] == LICENCE
    assert f"licence of the weights {snapshot.title}: {LICENCE}" in capsys.readouterr().out


def test_a_table_has_one_line_for_each_imported_checkpoint_and_none_for_our_own(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    commit_import(store, "theirs", recognise(folder(tmp_path)), LICENCE)
    theirs = find_snapshot(store, CheckpointRef("theirs"))
    own = find_snapshot(Store(tmp_path / "other"), CheckpointRef("tiny"))
    pairs = [(theirs, None), (own, None), (theirs, own), (own, theirs)]
    results: list[Any] = [SimpleNamespace(snapshot=snapshot, guide=guide) for snapshot, guide in pairs]
    assert licence_notes(results) == [f"licence of the weights {theirs.title}: {LICENCE}"]
    licences = [checkpoint_tags(result).get("licence") for result in results]
    assert licences == [LICENCE, None, LICENCE, LICENCE], "of the guide too"


class _Tracker:
    """Stands for the tracker and for the Ray session."""

    def __init__(self, runs: list[Any]) -> None:
        self.runs = runs

    def __enter__(self) -> "_Tracker":
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def run(self, _key: str, _name: str, tags: dict[str, str]) -> "_Tracker":
        self.tags = tags
        return self

    def params(self, params: dict[str, Any]) -> None:
        self.runs.append((self.tags, params))

    def metrics(self, *_arguments: Any, **_more: Any) -> None:
        pass

    image = metrics


def files(root: Path) -> list[str]:
    return sorted(str(path) for path in root.rglob("*") if path.is_file() and path.suffix != ".yaml")


MISTAKES: dict[str, tuple[Callable[[Path], dict[str, Any]], list[str]]] = {
    "no licence": (
        lambda root: {"path": str(pickled(root))},
        ["licence: must be given", "usually under CC BY-NC-SA 4.0", "look where you got them"],
    ),
    "no licence of our own folder": (lambda root: {"path": str(folder(root))}, ["licence: must be given"]),
    "no file": (lambda root: {"path": str(root / "none.pkl"), "licence": "x"}, ["none.pkl: there is no such file"]),
    "a name with a slash": (lambda root: {"name": "a/b", "path": "x", "licence": "x"}, ["name", "(got 'a/b')"]),
    "a data set that is not there": (
        lambda root: {"path": str(folder(root)), "licence": "x", "dataset": "birds"}, ["birds", "jobs.prepare"],
    ),
    "a pickle that calls": (
        lambda root: {"path": _hostile(root), "licence": "x"}, ["evil.pkl", "os.system, which is not data"],
    ),
}  # fmt: skip


def _hostile(root: Path) -> str:
    (root / "evil.pkl").write_bytes(b"cos\nsystem\n(S'touch " + str(root).encode() + b"/owned'\ntR.")
    return str(root / "evil.pkl")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_and_nothing_is_written(
    tmp_path: Path, mistake: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make, words = MISTAKES[mistake]
    content = {"name": "theirs", **make(tmp_path)}
    before = files(tmp_path)
    assert run(tmp_path, "import", **content) == 2
    told = capsys.readouterr()
    assert told.err.count("\n") == 1
    for word in ("error: ", *words):
        assert word in told.err
    assert files(tmp_path) == before


def test_an_evaluation_of_imported_weights_needs_a_data_set_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "import", name="theirs", path=str(folder(tmp_path)), licence="MIT") == 0
    content = generation(metrics={"extractors": [{"kind": "classifier"}]}, tracking_uri=str(tmp_path / "runs"))
    capsys.readouterr()
    settings = EvaluateJob.model_validate({"store": str(tmp_path / "store"), **content})
    store = open_store(settings)
    with pytest.raises(SettingsError, match=r"metrics.dataset: must be given: theirs-\w+ was imported"):
        measures_of(store, settings, settings.metrics, checked_points(store, settings))


def test_published_statistics_alone_need_no_data_set() -> None:
    def metrics(*kinds: str, **more: Any) -> MetricSettings:
        return MetricSettings.model_validate({"extractors": [{"kind": kind} for kind in kinds], **more})

    assert not needs_dataset(metrics("inception", reference_npz="x.npz"))
    assert needs_dataset(metrics("inception"))
    assert needs_dataset(metrics("classifier", reference_npz="x.npz"))
    assert needs_dataset(metrics("inception", "classifier", reference_npz="x.npz"))


def test_an_export_is_a_folder_that_imports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "import", name="theirs", path=str(folder(tmp_path)), licence=LICENCE) == 0
    out = tmp_path / "given"
    assert run(tmp_path, "export", "--dry-run", checkpoint={"training": "theirs"}, folder=str(out)) == 0
    assert not out.exists()
    assert run(tmp_path, "export", checkpoint={"training": "theirs"}, folder=str(out)) == 0
    assert run(tmp_path, "import", name="again", path=str(out)) == 0  # its licence is in it
    assert f"licence of the weights: {LICENCE}" in capsys.readouterr().out
    assert run(tmp_path, "export", checkpoint={"training": "theirs"}, folder=str(out)) == 2
    assert "is there already" in capsys.readouterr().err
