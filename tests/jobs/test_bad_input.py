"""Every mistake of a user's is one sentence that names it, exit code 2, and nothing half-written."""

import shutil
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from jobs import benchmark, cli, evaluate, generate, prepare, study, train
from pipeline.config.benchmarks import BenchmarkJob
from pipeline.config.datasets import PrepareJob
from pipeline.config.generation import GenerateJob
from pipeline.config.job import Job
from pipeline.config.measuring import EvaluateJob
from pipeline.config.studies import StudyJob
from pipeline.config.trainings import TrainJob
from pipeline.data.store import Store
from pipeline.diffusion.preconditioning import EDMPreconditioning, IDDPMPreconditioning
from pipeline.networks import MLP
from pipeline.training.settings import ModelSpec
from pipeline.training.snapshot import commit_snapshot

JOBS: dict[str, tuple[type[Job], Callable[[Any], None]]] = {
    "prepare": (PrepareJob, prepare.main),
    "train": (TrainJob, train.main),
    "generate": (GenerateJob, generate.main),
    "evaluate": (EvaluateJob, evaluate.main),
    "benchmark": (BenchmarkJob, benchmark.main),
    "study": (StudyJob, study.main),
}


@dataclass(frozen=True)
class Place:
    """A folder with images of every kind, and a store with a data set and two checkpoints."""

    root: Path

    @property
    def store(self) -> Path:
        return self.root / "store"

    def run(self, job: str, content: Any, overrides: Sequence[str] = ()) -> int:
        model, main = JOBS[job]
        path = self.root / f"{job}.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
        sets = [word for override in overrides for word in ("--set", override)]
        return cli.run(model, main, None, argv=[str(path), *sets])

    def files(self) -> list[str]:
        """All but the settings files, which the test writes itself."""
        return sorted(str(path) for path in self.root.rglob("*") if path.is_file() and path.parent != self.root)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("original")
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    for label in ("cat", "dog"):
        (root / "images" / label).mkdir(parents=True)
        for index in range(6):
            Image.fromarray(pixels + index).save(root / "images" / label / f"{index}.png")
    assert Place(root).run("prepare", dataset(root)) == 0
    for name, preconditioning in (("tiny", EDMPreconditioning()), ("levels", IDDPMPreconditioning())):
        spec = ModelSpec(
            network=MLP(), preconditioning=preconditioning, sigma_data=0.5, resolution=8, channels=1, num_classes=2
        )
        torch.manual_seed(0)
        weights = spec.network.build(8, 1, 2).state_dict()
        meta = {"settings": {}, "dataset": {"name": "pets", "digest": "0" * 32}}
        commit_snapshot(Store(root / "store"), f"{name}-00000000", 1000, spec, {"ema-1": weights, "raw": weights}, meta)
    return root


@pytest.fixture
def place(original: Path, tmp_path: Path) -> Place:
    shutil.copytree(original, tmp_path / "place")
    return Place(tmp_path / "place")


def dataset(root: Path, **changes: Any) -> dict[str, Any]:
    source = {"kind": "folder", "path": str(root / "images")}
    return {"store": str(root / "store"), "name": "pets", "source": source, **changes}


def training(root: Path, **changes: Any) -> dict[str, Any]:
    run = {"batch_size": 4, "duration_kimg": 0.01}
    model = {"network": {"kind": "mlp"}}
    workers = {"num_workers": 0}
    base = {
        "store": str(root / "store"),
        "name": "tiny",
        "dataset": "pets",
        "model": model,
        "training": run,
        "workers": workers,
    }
    return {**base, **changes}


def generation(root: Path, **changes: Any) -> dict[str, Any]:
    base = {
        "store": str(root / "store"),
        "checkpoint": {"training": "tiny"},
        "seeds": {"count": 4},
        "actors": {"num_actors": 0},
    }
    return {**base, "execution": {"batch_size": 4, "chunk_size": 4}, **changes}


def evaluation(root: Path, **changes: Any) -> dict[str, Any]:
    return {
        **generation(root),
        "metrics": {"extractors": [{"kind": "classifier", "epochs": 1, "width": 8, "batch_size": 4}]},
        **changes,
    }


# Each mistake: the job, its settings (of the folder), and what the sentence must hold.
Mistake = tuple[str, Callable[[Path], Any], list[str]]

SETTINGS: dict[str, Mistake] = {
    "a misspelt key": (
        "train",
        lambda p: training(p, trainning={}),
        ["train.yaml: trainning", "did you mean 'training'?"],
    ),
    "a wrong union member": (
        "generate",
        lambda p: generation(p, sampler={"solver": {"kind": "hein"}}),
        ["sampler.solver: unknown kind 'hein'", "'heun'"],
    ),
    "a key of another union member": (
        "generate",
        lambda p: generation(p, sampler={"solver": {"kind": "heun", "alpha": 1}}),
        ["sampler.solver.alpha: unknown key"],
    ),
    "sigma_min above sigma_max": (
        "generate",
        lambda p: generation(p, sampler={"timesteps": {"kind": "edm", "sigma_min": 90}}),
        ["sampler.timesteps.sigma_min", "less than sigma_max (got 90.0 and 80.0)"],
    ),
    "zero steps": (
        "generate",
        lambda p: generation(p, sampler={"timesteps": {"kind": "edm", "num_steps": 0}}),
        ["sampler.timesteps.num_steps: must be at least 1 (got 0)"],
    ),
    "S_min above S_max": (
        "generate",
        lambda p: generation(p, sampler={"stochasticity": {"kind": "churn", "S_min": 2, "S_max": 1}}),
        ["sampler.stochasticity.S_min", "(got 2.0 and 1.0)"],
    ),
    "a duplicate key": (
        "train",
        lambda p: f"store: {p}/store\nname: a\nname: b\ndataset: pets\n",
        ["line 3", "'name' stands twice"],
    ),
    "a file that is no YAML": ("train", lambda p: "a: [1, 2\n", ["train.yaml: line 2", "expected ',' or ']'"]),
    "a list in place of settings": ("train", lambda p: "- a\n", ["must hold keys and values (got a list)"]),
    "a missing key": ("train", lambda p: {"store": str(p / "store"), "name": "x"}, ["train.yaml: dataset: is missing"]),
    "a negative learning rate": (
        "train",
        lambda p: training(p, training={"optimizer": {"lr": -1}}),
        ["training.optimizer.lr", "greater than 0 (got -1)"],
    ),
    "an unknown precision": (
        "train",
        lambda p: training(p, training={"precision": "fp8"}),
        ["training.precision", "(got 'fp8')"],
    ),
    "a name with a slash": ("train", lambda p: training(p, name="a/b"), ["name", "(got 'a/b')"]),
    "an environment variable that is not set": (
        "prepare",
        lambda p: dataset(p, source={"kind": "folder", "path": "${NOT_SET_ANYWHERE}/x"}),
        ["source: path", "NOT_SET_ANYWHERE is not set"],
    ),
    "a sweep over what is no setting of a sampler": (
        "generate",
        lambda p: generation(p, sweep={"seeds.count": [1, 2]}),
        ["sweep", "seeds.count cannot be swept"],
    ),
    "a sweep with one bad point": (
        "generate",
        lambda p: generation(p, sweep={"sampler.timesteps.num_steps": [4, 0]}),
        ["sweep point (num_steps=0)", "must be at least 1 (got 0)"],
    ),
    "a sweep without values": (
        "generate",
        lambda p: generation(p, sweep={"sampler.solver": []}),
        ["sampler.solver has no values"],
    ),
    "guidance without its guide": (
        "generate",
        lambda p: generation(p, sampler={"guidance": {"kind": "autoguidance"}}),
        ["generate.yaml: guide: is missing: autoguidance needs a second checkpoint, such as guide: {training: NAME}"],
    ),
    "one point of a sweep without its guide": (
        "generate",
        lambda p: generation(p, sweep={"sampler.guidance": [{"kind": "none"}, {"kind": "autoguidance"}]}),
        ["sweep point (autoguidance): guide: is missing"],
    ),
    "a guide that nobody asks": (
        "generate",
        lambda p: generation(p, guide={"ema": "raw"}, sampler={"guidance": {"kind": "cfg"}}),
        ["generate.yaml: guide: is given and never asked: sampler.guidance is cfg"],
    ),
    "an interval upside down": (
        "generate",
        lambda p: generation(p, sampler={"guidance": {"kind": "cfg", "sigma_lo": 3, "sigma_hi": 2}}),
        ["sampler.guidance.sigma_lo: must be 0 or more and less than sigma_hi (got 3.0 and 2.0)"],
    ),
    "guidance by labels that are not there": (
        "generate",
        lambda p: generation(p, sampler={"guidance": {"kind": "cfg"}}, labels={"kind": "none"}),
        ["sampler.guidance: cfg guides by a label, and these samples have none"],
    ),
    "no images": ("generate", lambda p: generation(p, seeds={"count": 0}), ["seeds.count", "greater than 0 (got 0)"]),
    "a batch that does not divide the chunk": (
        "generate",
        lambda p: generation(p, execution={"batch_size": 3, "chunk_size": 4}),
        ["batch_size", "chunk_size", "3"],
    ),
    "more steps than the network has levels": (
        "generate",
        lambda p: generation(
            p, checkpoint={"training": "levels"}, sampler={"timesteps": {"kind": "edm", "num_steps": 900}}
        ),
        ["num_steps", "use fewer steps"],
    ),
    "a class the network does not have": (
        "generate",
        lambda p: generation(p, labels={"kind": "fixed", "label": 7}),
        ["label", "2 classes (got 7)"],
    ),
    "a GPU where there is none": (
        "train",
        lambda p: training(p, workers={"num_workers": 0, "device": "cuda"}),
        ["workers.device", "cuda needs 1 GPUs and there are 0"],
    ),
    "seeds of selection that are reported": (
        "evaluate",
        lambda p: evaluation(p, select={"first": 2, "count": 4}),
        ["select", "2-5 and 0-3 overlap"],
    ),
    "an extractor's file without its digest": (
        "evaluate",
        lambda p: evaluation(p, metrics={"extractors": [{"kind": "file", "path": "x.pt"}]}),
        ["sha256: is missing"],
    ),
    "no extractor": ("evaluate", lambda p: evaluation(p, metrics={"extractors": []}), ["metrics.extractors"]),
}

DATA: dict[str, Mistake] = {
    "a data set that was never prepared": (
        "train",
        lambda p: training(p, dataset="birds"),
        ["birds", "pets", "jobs.prepare"],
    ),
    "a folder that is not there": (
        "prepare",
        lambda p: dataset(p, name="new", source={"kind": "folder", "path": str(p / "none")}),
        ["none"],
    ),
    "another data set under a name that is taken": ("prepare", lambda p: dataset(p, size=4), ["pets", "another name"]),
    "a part that is no share": ("prepare", lambda p: dataset(p, part=[0.7, 0.2]), ["part", "[0.7, 0.2]"]),
    "an unknown training": (
        "generate",
        lambda p: generation(p, checkpoint={"training": "big"}),
        ["big", "tiny-00000000"],
    ),
    "a moment that has no snapshot": (
        "generate",
        lambda p: generation(p, checkpoint={"training": "tiny", "at": 5}),
        ["no snapshot at 5 images (it has 1000)"],
    ),
    "weights that were not kept": (
        "generate",
        lambda p: generation(p, checkpoint={"training": "tiny", "ema": "ema-9"}),
        ["no weights 'ema-9' (it has ema-1, raw)"],
    ),
    "a guide whose weights were not kept": (
        "generate",
        lambda p: generation(p, guide={"ema": "ema-9"}, sampler={"guidance": {"kind": "autoguidance"}}),
        ["no weights 'ema-9' (it has ema-1, raw)"],
    ),
    "a reference file that is not there": (
        "evaluate",
        lambda p: evaluation(
            p,
            metrics={
                "extractors": [{"kind": "classifier", "epochs": 1, "width": 8, "batch_size": 4}],
                "reference_npz": str(p / "no.npz"),
            },
        ),
        ["no.npz"],
    ),
    "an extractor's file that is not there": (
        "evaluate",
        lambda p: evaluation(
            p, metrics={"extractors": [{"kind": "file", "path": str(p / "no.pt"), "sha256": "0" * 64}]}
        ),
        ["no.pt"],
    ),
}


@pytest.mark.parametrize("mistake", [*SETTINGS, *DATA])
def test_a_mistake_is_one_sentence_and_nothing_is_written(
    place: Place, mistake: str, capsys: pytest.CaptureFixture[str]
) -> None:
    job, content, words = {**SETTINGS, **DATA}[mistake]
    before = place.files()
    assert place.run(job, content(place.root)) == 2
    assert_sentence(capsys, words)
    assert place.files() == before


def damaged_png(root: Path) -> None:
    path = root / "images" / "cat" / "3.png"
    path.write_bytes(path.read_bytes()[:40])


def mixed_sizes(root: Path) -> None:
    Image.new("L", (9, 8)).save(root / "images" / "dog" / "7.png")


def no_images(root: Path) -> None:
    shutil.rmtree(root / "images")
    (root / "images").mkdir()


def text_for_an_image(root: Path) -> None:
    (root / "images" / "cat" / "9.png").write_text("this is no picture")


DAMAGED_SOURCES: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "a truncated image": (damaged_png, ["3.png"]),
    "images of several sizes": (mixed_sizes, ["7.png", "size"]),
    "an empty folder": (no_images, ["images", "no image"]),
    "a text for an image": (text_for_an_image, ["9.png"]),
}


@pytest.mark.parametrize("damage", DAMAGED_SOURCES)
def test_a_damaged_source_is_named_and_nothing_is_written(
    place: Place, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, words = DAMAGED_SOURCES[damage]
    spoil(place.root)
    before = place.files()
    assert place.run("prepare", dataset(place.root, name="new")) == 2
    assert_sentence(capsys, words)
    assert place.files() == before


def truncated_parquet(root: Path) -> dict[str, Any]:
    (root / "data").mkdir()
    (root / "data" / "train.parquet").write_bytes(b"PAR1" + bytes(100))
    return {"kind": "parquet", "path": str(root / "data" / "train.parquet")}


def idx_of_another_magic(root: Path) -> dict[str, Any]:
    (root / "data").mkdir()
    (root / "data" / "images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x0D03, 1, 8, 8) + bytes(64))
    return {"kind": "idx", "images": str(root / "data" / "images-idx3-ubyte")}


def truncated_idx(root: Path) -> dict[str, Any]:
    (root / "data").mkdir()
    (root / "data" / "images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x0803, 2, 8, 8) + bytes(64))
    return {"kind": "idx", "images": str(root / "data" / "images-idx3-ubyte")}


def pickle_that_calls(root: Path) -> dict[str, Any]:
    (root / "data").mkdir()
    (root / "data" / "data_batch_1").write_bytes(b"cos\nsystem\n(S'touch " + str(root).encode() + b"/data/owned'\ntR.")
    return {"kind": "cifar_python", "path": str(root / "data")}


SOURCES = [truncated_parquet, idx_of_another_magic, truncated_idx, pickle_that_calls]


@pytest.mark.parametrize("make", SOURCES, ids=lambda make: make.__name__)
def test_a_file_that_is_not_what_it_should_be_is_named(
    place: Place, make: Callable[[Path], dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    source = make(place.root)
    before = place.files()
    assert place.run("prepare", dataset(place.root, name="new", source=source)) == 2
    assert_sentence(capsys, [str(place.root / "data")])
    assert place.files() == before


@pytest.mark.parametrize("damage", ["flipped bit", "truncated", "missing", "manifest"])
def test_a_damaged_checkpoint_is_found_before_anything_is_generated(
    place: Place, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = place.store / "checkpoints" / "tiny-00000000" / "snapshots"
    [path] = folder.glob("*.json") if damage == "manifest" else folder.glob("*-ema-1.safetensors")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(data[:100] if damage == "truncated" else data)
    before = place.files()
    assert place.run("generate", generation(place.root)) == 2
    assert_sentence(capsys, ["tiny-00000000", "damaged"])
    assert place.files() == before


@pytest.mark.parametrize("job", ["generate", "evaluate"])
def test_a_new_store_stays_empty_where_the_checkpoint_is_not_there(
    place: Place, job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content = {"generate": generation, "evaluate": evaluation}[job](place.root, store=str(place.root / "new"))
    assert place.run(job, content) == 2
    assert_sentence(capsys, ["no such training in", "there are: none"])
    assert list((place.root / "new").iterdir()) == []


def test_a_store_that_cannot_be_written_is_named_first(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    (place.root / "images" / "file").write_text("in the way")
    assert place.run("prepare", dataset(place.root, name="new", store=str(place.root / "images" / "file"))) == 2
    assert_sentence(capsys, ["file", "cannot be read or written"])


@pytest.mark.parametrize(
    ("override", "words"),
    [("training.seed", ["must be KEY=VALUE", "'training.seed'"]), ("training.seed.x=1", ["training.seed"])],
)
def test_a_wrong_override_is_named(
    place: Place, override: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    content = training(place.root)
    content["training"]["seed"] = 1
    assert place.run("train", content, [override]) == 2
    assert_sentence(capsys, words)


def test_a_settings_file_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(TrainJob, train.main, None, argv=["nowhere/train.yaml"]) == 2
    assert_sentence(capsys, ["nowhere/train.yaml: there is no such file"])


def assert_sentence(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    """What a person saw last: one line on standard error that holds the words, and no traceback."""
    told = capsys.readouterr().err
    assert "Traceback" not in told
    lines = [line for line in told.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, told
    assert all(word in lines[0] for word in words), lines[0]
