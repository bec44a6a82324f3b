"""A checkpoint by any of its names is the same checkpoint: with a real MLflow beside the store."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from jobs import cli, export_checkpoint, generate, import_checkpoint, optimize_grid, suggest
from jobs.checkpoints import with_checkpoints
from jobs.context import engine_points, open_reporter
from jobs.registration import register
from pipeline.config.benchmarks import BenchmarkJob
from pipeline.config.checkpoints import CheckpointSettings, GuideSettings, RegisterSettings
from pipeline.config.generation import GenerateJob
from pipeline.config.job import Job
from pipeline.config.optimized_grid import OptimizeGridJob
from pipeline.config.search import SearchJob
from pipeline.config.studies import StudyJob
from pipeline.config.suggest import SuggestJob
from pipeline.config.transfer import ExportCheckpointJob, ImportCheckpointJob
from pipeline.data.samples import read_samples
from pipeline.data.store import Store
from pipeline.diffusion.preconditioning import EDMPreconditioning
from pipeline.errors import SettingsError
from pipeline.networks import MLP
from pipeline.tracking.registry import Registry
from pipeline.training.importing import export_folder
from pipeline.training.settings import ModelSpec
from pipeline.training.snapshot import CheckpointRef, commit_snapshot, find_snapshot
from tests.tracking import conftest as tracking

empty_database = tracking.empty_database

ROOT = Path(__file__).parents[2]
TRAINING = "digits-01234567"
MODEL = ModelSpec(
    network=MLP(hidden=8), preconditioning=EDMPreconditioning(), sigma_data=0.5, resolution=4, channels=1, num_classes=3
)
GENERATION = {
    "sampler": {"timesteps": {"kind": "edm", "num_steps": 3}}, "seeds": {"count": 4},
    "execution": {"batch_size": 4, "chunk_size": 4, "device": "cpu"}, "actors": {"num_actors": 0},
}  # fmt: skip


def state(seed: int) -> dict[str, Any]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return dict(MODEL.network.build(4, 1, 3).state_dict())


@dataclass
class Place:
    """A store with one training, and a tracker that knows it as models:/digits/1 and /2, the first being champion."""

    root: Path
    run_id: str

    @property
    def store(self) -> Store:
        return Store(self.root / "store")

    @property
    def tracking_uri(self) -> str:
        return f"sqlite:///{self.root}/mlflow.db"

    @property
    def registry(self) -> Registry:
        return Registry(self.tracking_uri)

    def run(self, model: type[Job], module: Any, *flags: str, store: str = "store", **content: Any) -> int:
        path = self.root / "job.yaml"
        where = {"store": str(self.root / store), "tracking_uri": self.tracking_uri, "experiment": "tests"}
        path.write_text(yaml.safe_dump({**where, **content}))
        return cli.run(model, module.main, None, getattr(module, "dry_run", None), argv=[str(path), *flags])

    def generate(self, checkpoint: Any, *flags: str, store: str = "store") -> int:
        return self.run(GenerateJob, generate, *flags, store=store, checkpoint=checkpoint, **GENERATION)


@pytest.fixture(scope="module")
def made(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("place")
    shutil.copy(empty_database, root / "mlflow.db")
    store = Store(root / "store")
    for number, at in enumerate((1000, 2000)):
        weights = {"ema-1": state(2 * number), "raw": state(2 * number + 1)}
        meta = {"settings": {}, "dataset": {"name": "mnist", "digest": "0"}}
        commit_snapshot(store, TRAINING, at, MODEL, weights, meta)
        job = Job(store=str(root / "store"), tracking_uri=f"sqlite:///{root}/mlflow.db", experiment="tests")
        assert register(store, TRAINING, "training", RegisterSettings(name="digits"), open_reporter(job)) is None
    registry = Registry(f"sqlite:///{root}/mlflow.db")
    registry.set_alias("digits", "champion", 1)
    assert not (Path.cwd() / "mlruns").exists(), "artifacts lie beside the database"
    return Place(root, registry.run_id("tests", "training"))


@pytest.fixture
def place(made: Place) -> Iterator[Place]:
    """Other stores are each test's own."""
    yield made
    for path in made.root.iterdir():
        if path.name not in ("store", "mlflow.db", "mlartifacts", "mlflow-spool", "job.yaml"):
            shutil.rmtree(path)


def told(text: str) -> tuple[int, str]:
    """Images that a job generated, and the digest of its samples."""
    found = re.search(r"(\d+) images generated.* samples/(\w{32})", text)
    assert found is not None, text
    return int(found[1]), found[2]


def test_every_name_of_a_checkpoint_is_the_same_samples_and_none_is_made_twice(
    place: Place, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    export_folder(place.store, CheckpointRef(TRAINING, 1000, "ema-1"), tmp_path / "exported")
    other = Store(tmp_path / "other")
    commit_snapshot(other, "else-89abcdef", 1000, MODEL, {"ema-1": state(0)}, {"settings": {}, "dataset": {}})
    assert place.generate({"training": "digits", "at": 1000}) == 0
    _, digest = told(capsys.readouterr().out)
    names = [
        f"{TRAINING}@1000", f"{TRAINING}@1000/ema-1", "models:/digits/1", "models:/digits@champion",
        {"training": f"runs:/{place.run_id}", "at": 1000, "ema": "ema-1"}, str(tmp_path / "exported"),
        f"{place.root}/store/checkpoints/{TRAINING}@1000",
        f"{place.root}/store/checkpoints/digits/snapshots/000000001000",
        str(tmp_path / "other" / "checkpoints" / "else"), f"file://{tmp_path}/other/checkpoints/else-89abcdef/",
    ]  # fmt: skip
    for name in names:
        assert place.generate(name) == 0, name
        assert told(capsys.readouterr().out) == (0, digest), name
    for name in (
        "models:/digits",
        "models:/digits/2",
        f"runs:/{place.run_id}",
        {"training": "models:/digits/1", "ema": "raw"},
    ):
        assert place.generate(name) == 0, name
        assert told(capsys.readouterr().out)[1] != digest, name
    copies = {key.split("/")[1] for key in place.store.committed("checkpoints")} - {TRAINING}
    assert copies == {copy for copy in copies if copy.startswith("else-89abcdef-")}, "what is there is not copied"


def test_a_store_that_never_saw_the_training_gets_it_from_the_tracker_alone(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    assert place.generate("models:/digits/1") == 0
    _, digest = told(capsys.readouterr().out)
    assert place.generate("models:/digits@champion", "--dry-run", store="fresh") == 0
    assert "1 settings x 4 images" in capsys.readouterr().out
    assert not (place.root / "fresh").exists(), "a dry run writes nothing"
    assert place.generate("models:/digits@champion", store="fresh") == 0
    assert told(capsys.readouterr().out) == (4, digest)
    fresh = Store(place.root / "fresh")
    images = [read_samples(store, digest, 0, 4).images for store in (place.store, fresh)]
    assert (images[0] == images[1]).all()
    [copy] = {key.split("/")[1] for key in fresh.committed("checkpoints")}
    assert re.fullmatch(rf"{TRAINING}-[0-9a-f]{{8}}", copy)
    snapshot = find_snapshot(fresh, CheckpointRef(copy))
    assert snapshot.weights_sha256 == find_snapshot(place.store, CheckpointRef(TRAINING, 1000)).weights_sha256
    assert dict(snapshot.dataset) == {"name": "mnist", "digest": "0"}
    assert place.generate({"training": "models:/digits/1", "ema": "posthoc-0.1"}, store="fresh") == 2
    assert "is a copy of one snapshot" in capsys.readouterr().err
    before = fresh.keys("checkpoints")
    assert place.generate("models:/digits/1", store="fresh") == 0
    assert told(capsys.readouterr().out) == (0, digest)
    assert fresh.keys("checkpoints") == before, "copied once"


def files_of(place: Place, version: int) -> Path:
    found = place.registry.resolve(f"models:/digits/{version}")
    return place.root / "mlartifacts" / found.run_id / "artifacts" / found.folder


def test_a_registered_model_is_safetensors_json_and_a_few_lines_of_code(place: Place) -> None:
    files = {path.name for path in files_of(place, 1).rglob("*")}
    assert files == {"MLmodel", "model.py", "config.json", "ema-1.safetensors"}
    flavor = yaml.safe_load((files_of(place, 1) / "MLmodel").read_text())["flavors"]["python_function"]
    assert flavor["loader_module"] == "mlflow.pyfunc.loaders.code_model"
    assert "python_model" not in flavor, "that would be a pickle"
    assert "cloudpickle_version" not in flavor


@pytest.mark.parametrize("damage", ["a byte", "the digest too", "another model", "a file that is gone"])
def test_files_that_are_not_what_was_registered_are_refused(
    place: Place, capsys: pytest.CaptureFixture[str], tmp_path: Path, damage: str
) -> None:
    files, kept = files_of(place, 2), tmp_path / "kept"
    shutil.copytree(files, kept)
    config, weights = files / "config.json", files / "ema-1.safetensors"
    try:
        if damage == "a file that is gone":
            weights.unlink()
        elif damage == "another model":
            content = json.loads(config.read_text())
            content["model"]["sigma_data"] = 0.6
            config.write_text(json.dumps(content))
        else:
            data = bytearray(weights.read_bytes())
            data[-1] ^= 1
            weights.write_bytes(data)
            if damage == "the digest too":
                content = json.loads(config.read_text())
                content["weights"]["ema-1"] = hashlib.sha256(data).hexdigest()
                config.write_text(json.dumps(content))
        assert place.generate("models:/digits/2", store="fresh") == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        expected = {"a byte": "is damaged: its sha256", "a file that is gone": "cannot be read"}
        assert error.startswith("error: models:/digits/2: ")
        assert expected.get(damage, "is not the checkpoint that was registered: its digests differ") in error
        assert Store(place.root / "fresh").committed("checkpoints") == []
    finally:
        shutil.rmtree(files)
        shutil.copytree(kept, files)


@pytest.mark.parametrize(
    ("checkpoint", "words"),
    [
        ("models:/digit", "did you mean digits?"),
        ("models:/digits/9", "has no version 9"),
        ("models:/digits@best", "has no such alias (it has: @champion)"),
        ({"training": "models:/digits/1", "at": 1000}, "at: must not be given, as models:/digits/1 is of one moment"),
        ({"training": "models:/digits/1", "ema": "ema-9"}, "has no weights 'ema-9' (it has ema-1, raw)"),
        (f"runs:/{'0' * 32}", "there is no such run"),
        (
            "./nowhere",
            "is no checkpoint: name a folder that jobs.export_checkpoint wrote, or STORE/checkpoints/TRAINING",
        ),
        ("/nowhere/checkpoints/digits", "no such training in /nowhere (there are: none)"),
        (f"{TRAINING}@1500", "has no snapshot at 1500 images"),
        ("/nowhere/checkpoints/digits@7/posthoc-0.1", "are rebuilt in the store of their training"),
    ],
)
def test_a_name_that_leads_nowhere_is_one_sentence(
    place: Place, capsys: pytest.CaptureFixture[str], checkpoint: Any, words: str
) -> None:
    assert place.generate(checkpoint) == 2
    [error] = capsys.readouterr().err.strip().splitlines()[-1:]
    assert error.startswith("error: ")
    assert words in error


def test_a_run_of_another_store_says_where_its_checkpoint_lies(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    reporter = open_reporter(Job(store=str(place.root / "store"), tracking_uri=place.tracking_uri, experiment="tests"))
    tags = {"kind": "training", "sigmasweep.training": "far-01234567", "sigmasweep.store": "s3://far/store"}
    with reporter.run("far", "far-01234567", tags):
        pass
    assert reporter.flush(120)
    assert place.generate(f"runs:/{place.registry.run_id('tests', 'far')}") == 2
    assert (
        "lies in s3://far/store: set store, or write s3://far/store/checkpoints/far-01234567" in capsys.readouterr().err
    )


def test_other_jobs_take_addresses_too(place: Place, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    away = tmp_path / "away"
    assert place.run(ExportCheckpointJob, export_checkpoint, checkpoint="models:/digits/1", folder=str(away)) == 0
    assert {path.name for path in away.iterdir()} == {"config.json", "ema-1.safetensors"}
    grid = {"num_steps": [2], "seeds": {"count": 4}, "out": str(tmp_path), "execution": GENERATION["execution"]}
    grid |= {"sampler": {"timesteps": {"kind": "edm", "num_steps": 4}}, "actors": {"num_actors": 0}}
    assert place.run(OptimizeGridJob, optimize_grid, checkpoint="models:/digits/1", **grid) == 0
    assert f"for {TRAINING}@1000, 4 seeds" in json.loads((tmp_path / "steps-02.json").read_text())["source"]
    assert place.run(SuggestJob, suggest, "--dry-run", checkpoint="models:/digits@champion", images=10) == 0
    assert f"160 network evaluations of {TRAINING}@1000/ema-1" in capsys.readouterr().out


METRICS = {"extractors": [{"kind": "classifier"}]}


def test_addresses_in_sweeps_baselines_and_spaces_become_titles(place: Place) -> None:
    job = {"store": f"{place.root}/store", "tracking_uri": place.tracking_uri, "name": "n", "metrics": METRICS}
    swept = {"checkpoint.training": ["models:/digits/1", "models:/digits"], "checkpoint.ema": [None, "raw"]}
    benchmark = BenchmarkJob.model_validate(
        {**job, "checkpoint": "models:/digits/2", "sweep": swept, "baseline": "training=models:/digits/1, ema=raw"}
    )
    found = with_checkpoints(place.store, benchmark)
    assert [point.checkpoint for point in engine_points(found)] == [
        CheckpointRef(TRAINING, at, ema) for at in (1000, 2000) for ema in ("ema-1", "raw")
    ]
    assert found.baseline == f"training={TRAINING}@1000/ema-1, ema=raw"
    assert with_checkpoints(place.store, found) is found, "nothing is left to be found"
    inner = {"name": "n", "metrics": METRICS, "sweep": swept, "baseline": "training=models:/digits, ema=raw"}
    whole = {**job, "train": {"name": "digits", "dataset": "digits"}, "benchmark": inner}
    study = StudyJob.model_validate({key: whole[key] for key in ("store", "tracking_uri", "train", "benchmark")})
    assert with_checkpoints(place.store, study).benchmark.baseline == f"training={TRAINING}@2000/ema-1, ema=raw"
    space = {"checkpoint.training": ["models:/digits/1", "digits"], "sampler.timesteps.num_steps": [4, 6]}
    search = SearchJob.model_validate({**job, "checkpoint": "digits", "space": space, "budget": {"nfe": 1000}})
    assert with_checkpoints(place.store, search).space == {
        **space,
        "checkpoint.training": [f"{TRAINING}@1000/ema-1", "digits"],
    }


def test_a_guide_without_a_training_is_of_the_same_checkpoint_as_what_it_guides() -> None:
    guided = CheckpointSettings(training=f"{TRAINING}@1000/ema-1")
    assert GuideSettings(ema="raw").ref(guided) == CheckpointRef(TRAINING, 1000, "raw")
    assert GuideSettings(at=500).ref(guided) == CheckpointRef(TRAINING, 500, None)
    assert GuideSettings.model_validate("net@7/raw").ref(guided) == CheckpointRef("net", 7, "raw")
    assert GuideSettings(ema="raw").ref(CheckpointSettings(training="net", at=7)) == CheckpointRef(
        "net", "latest", "raw"
    )


def test_an_import_is_registered_and_its_licence_stands_with_the_version(
    place: Place, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    export_folder(place.store, CheckpointRef(TRAINING, 1000, "raw"), tmp_path / "theirs")
    content = {"name": "theirs", "path": str(tmp_path / "theirs"), "licence": "CC0", "register_as": "imports"}
    for _ in range(2):
        assert place.run(ImportCheckpointJob, import_checkpoint, store="imported", **content) == 0
        assert "as models:/imports/1" in capsys.readouterr().out
    [version] = place.registry.versions("imports")
    assert version.all_tags["licence"] == "CC0"
    assert version.weights == "raw"
    assert place.registry.of_run(f"runs:/{version.run_id}").name == version.title
    assert place.generate("models:/imports", store="fresh") == 0
    assert "licence of the weights" in capsys.readouterr().out, "it goes with the weights"


def test_rebuilt_weights_are_registered_as_they_are(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    job = Job(store=f"{place.root}/store", tracking_uri=place.tracking_uri, experiment="tests")
    wide = Store(place.root / "wide")
    for at in (1000, 2000):
        weights = {f"power-{std}": state(at + number) for number, std in enumerate((0.05, 0.1))}
        commit_snapshot(wide, "wide-01234567", at, MODEL, weights, {"settings": {}, "dataset": {}})
    settings = RegisterSettings(name="wide", ema="posthoc-0.07")
    assert register(wide, "wide-01234567", "training", settings, open_reporter(job)) is None
    assert place.generate({"training": "wide", "ema": "posthoc-0.07"}, store="wide") == 0
    _, digest = told(capsys.readouterr().out)
    assert place.generate("models:/wide", store="wide") == 0
    assert told(capsys.readouterr().out) == (0, digest)
    for count in (4, 0):
        assert place.generate("models:/wide", store="fresh") == 0
        assert told(capsys.readouterr().out) == (count, digest)


def test_an_alias_moves_to_a_newer_version_and_never_back(place: Place) -> None:
    job = Job(store=f"{place.root}/store", tracking_uri=place.tracking_uri, experiment="tests")
    settings = RegisterSettings(name="moving", alias="candidate")
    other = Store(place.root / "others")
    aliases = []
    for at in (1000, 2000):
        commit_snapshot(other, TRAINING, at, MODEL, {"raw": state(at)}, {"settings": {}, "dataset": {}})
        assert register(other, TRAINING, "training", settings, open_reporter(job)) is None
        aliases.append(place.registry.aliases("moving")["candidate"])
    older = Store(place.root / "older")
    commit_snapshot(older, TRAINING, 1000, MODEL, {"raw": state(1000)}, {"settings": {}, "dataset": {}})
    assert register(older, TRAINING, "training", settings, open_reporter(job)) is None
    assert [*aliases, place.registry.aliases("moving")["candidate"]] == [1, 2, 2]


def test_words_that_mlflow_keeps_for_itself_are_no_alias() -> None:
    for alias in ("latest", "v3"):
        with pytest.raises(ValueError, match=f"MLflow keeps {alias} for itself"):
            RegisterSettings(name="digits", alias=alias)
    with pytest.raises(ValueError, match="name"):
        RegisterSettings(name="a/b")


def test_three_lines_of_the_docs_sample_from_a_model_with_the_tracker_alone(place: Place, tmp_path: Path) -> None:
    [lines] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "registry.md").read_text(), re.DOTALL)
    assert len([line for line in lines.splitlines() if line.strip()]) == 3
    sampler = "{solver: {kind: euler}, timesteps: {kind: edm, num_steps: 3}}"
    more = f"""
import numpy
numpy.save("images.npy", images)
numpy.save("few.npy", model.predict([0, 1], params={{"sampler": "{sampler}"}}))
"""
    environment = {**os.environ, "MLFLOW_TRACKING_URI": place.tracking_uri, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", lines + more], check=True, cwd=tmp_path, env=environment, timeout=120)
    images = np.load(tmp_path / "images.npy")
    assert (images.shape, images.dtype) == ((4, 1, 4, 4), np.uint8)
    assert np.load(tmp_path / "few.npy").shape == (2, 1, 4, 4)
    settings = {**GENERATION, "sampler": {"timesteps": {"kind": "edm", "num_steps": 18}}}
    assert (
        place.run(GenerateJob, generate, checkpoint="models:/digits/1", export=str(tmp_path / "png"), **settings) == 0
    )
    from PIL import Image

    [folder] = (tmp_path / "png").iterdir()
    ours = np.stack([np.asarray(Image.open(path)) for path in sorted(folder.rglob("*.png"))])
    assert np.abs(ours.astype(int) - images[:, 0].astype(int)).max() <= 1


def test_settings_that_name_a_moment_twice_are_refused_when_they_are_read() -> None:
    for training in ("models:/digits/1", f"{TRAINING}@1000"):
        with pytest.raises(ValueError, match="at: must not be given"):
            CheckpointSettings(training=training, at=5)


def test_a_sweep_over_addresses_of_which_one_is_wrong_computes_nothing(place: Place) -> None:
    job = GenerateJob.model_validate(
        {"store": f"{place.root}/store", "tracking_uri": place.tracking_uri, "checkpoint": "models:/", **GENERATION}
    )
    with pytest.raises(SettingsError, match="write models:/NAME"):
        with_checkpoints(place.store, job)
