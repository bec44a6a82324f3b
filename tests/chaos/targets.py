"""What is read from files, each with a way to change the files and to hold what comes out against what was written.

A target's `check` makes one change and reads. It returns `refused` for one sentence of `pipeline.errors`, `whole` where
what is read is what was written, or `another` where a changed file is as good as the first (settings, a user's images).
It raises AssertionError for a silent wrong result; any other exception is one that nobody caught.
"""

import contextlib
import io
import json
import pickle
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import yaml

from jobs import cli
from jobs.context import engine_points
from pipeline.config.generation import GenerateSettings
from pipeline.config.job import Job
from pipeline.config.load import load
from pipeline.config.studies import StudyJob
from pipeline.config.trainings import TrainSettings
from pipeline.data.chunk_file import Chunk, ImageFormat
from pipeline.data.dataset import Dataset
from pipeline.data.features import StoredFeatures, commit_features, read_chunk_features
from pipeline.data.prepare import prepare
from pipeline.data.samples import commit_chunk, read_chunk, read_counts
from pipeline.data.sources import CifarPython, ParquetImages
from pipeline.data.store import Blob, Manifest, Store
from pipeline.digests import digest, sha256
from pipeline.engine.generation import find_settings
from pipeline.engine.placement import place
from pipeline.engine.work import Actors
from pipeline.errors import SigmasweepError
from pipeline.reporting import MemoryReporter
from pipeline.training import checkpoint
from pipeline.training.checkpoint import Checkpoint, states_prefix
from pipeline.training.identity import resolve_model
from pipeline.training.importing import recognise
from pipeline.training.job import TrainingJob
from pipeline.training.settings import ModelSpec
from pipeline.training.snapshot import CheckpointRef, build_denoiser, commit_snapshot, find_snapshot, read_weights
from tests.chaos.mutator import Mutator
from tests.data import files
from tests.engine.tiny import tiny_store
from tests.jobs.test_configs import ROOT as CONFIGS
from tests.jobs.test_configs import job_of
from tests.training import nvlabs
from tests.training.test_importing import NETWORK, SPEC, own, random_network
from tests.training.toys import make_dataset

LONGEST = 2000  # characters of a sentence


class Target(Protocol):
    def check(self, mutator: Mutator) -> str: ...


def refused(error: SigmasweepError) -> str:
    text = str(error)
    assert "\n" not in text.strip(), f"more than one line: {text[:300]!r}"
    assert 0 < len(text) < LONGEST, f"{len(text)} characters: {text[:300]!r}"
    return "refused"


def told(read_it: Callable[[], str]) -> str:
    """What came of reading; an error of ours is an answer."""
    try:
        return read_it()
    except SigmasweepError as error:
        return refused(error)


# -- settings ----------------------------------------------------------------------------------------------------------


class Settings:
    """Shipped settings files, changed as text or as values; then everything that is checked before work begins."""

    NAMES = (
        "benchmark", "demo", "fashion-mnist", "fashion-mnist-configurations", "cifar10", "cifar10-prepare",
        "import-edm", "fashion-mnist-edm2", "presets/cifar10-vp-d", "presets/sampler-ablation-ve",
        "presets/stochastic-cifar10-vp", "presets/imagenet-64-adm",
    )  # fmt: skip

    def __init__(self, root: Path) -> None:
        shutil.copytree(CONFIGS, root / "configs")
        self._files = [root / "configs" / f"{name}.yaml" for name in self.NAMES]
        self._models: dict[Path, type[Job]] = {path: job_of(path) for path in self._files}
        self._store = tiny_store(root / "store", 1)
        self._dataset = make_dataset(self._store)
        self._place = None

    def check(self, mutator: Mutator) -> str:
        path = mutator.choice(self._files)
        changed = path.with_name("changed.yaml")
        if mutator.choice((True, False)):
            changed.write_bytes(mutator.bytes(path.read_bytes()))
        else:
            changed.write_text(yaml.safe_dump(mutator.value(yaml.safe_load(path.read_text())), sort_keys=False))
        said, told_of = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(told_of):
            code = cli.run(self._models[path], self._begin, None, argv=[str(changed)])
            again = cli.run(self._models[path], self._begin, None, argv=[str(changed), "--dry-run"])
        assert code in (0, 2), f"exit code {code}"
        if code == 0:
            assert again == 0, told_of.getvalue()
            self._is_the_same_again(path, said.getvalue())
            return "another"
        text = told_of.getvalue()
        assert text.startswith("error: "), text[:300]
        assert "Traceback" not in text
        assert len(text) < 2 * LONGEST, text[:300]
        assert len(text.splitlines()) == (1 if again == 0 else 2), text[:500]
        return "refused"

    def _is_the_same_again(self, path: Path, resolved: str) -> None:
        again = path.with_name("resolved.yaml")
        again.write_text(resolved)
        said = cli.resolved_yaml(load(self._models[path], again))
        assert said.strip() == "\n".join(line for line in resolved.split("\n") if not line.startswith("# ")).strip()

    def _begin(self, settings: Job) -> None:
        """What a job does before it computes: its points on a checkpoint, its model on a data set."""
        study = isinstance(settings, StudyJob)
        training: Any = settings.train if study else settings  # type: ignore[attr-defined]
        generation: Any = settings.benchmark if study else settings  # type: ignore[attr-defined]
        if isinstance(training, TrainSettings):
            model = resolve_model(training.model, self._dataset.info)
            job = TrainingJob(training.name, self._store, self._dataset, model, training.training, MemoryReporter())
            assert job.folder
            assert job.num_images > 0
        if isinstance(generation, GenerateSettings):
            ref = CheckpointRef("net0")
            points = [replace(point, checkpoint=ref, guide=point.guide and ref) for point in engine_points(generation)]
            execution = replace(generation.execution, device="cpu")
            for found in find_settings(self._store, points, execution, place(execution, Actors(num_actors=0))):
                assert found.digest
                found.count_nfe()


# -- chunks of samples -------------------------------------------------------------------------------------------------


class Chunks:
    """Chunks in the store, damaged at rest, or written of something that was damaged before."""

    def __init__(self, root: Path) -> None:
        self._store = Store(root / "store")
        pixels = np.random.default_rng(0).integers(0, 256, (8, 3, 6, 5), dtype=np.uint8)
        self._chunks: dict[ImageFormat, Chunk] = {}
        self._digests: dict[ImageFormat, str] = {}
        self._manifests: dict[ImageFormat, Manifest] = {}
        formats: Sequence[ImageFormat] = ("png", "raw")
        for image_format in formats:
            images = pixels if image_format == "raw" else pixels[:, :1]
            chunk = Chunk(2, np.arange(16, 24), np.arange(8) % 3, images, np.full(8, 35))
            key = {"execution": {"chunk_size": 8}, "format": image_format}
            self._manifests[image_format] = commit_chunk(self._store, key, chunk, image_format)
            self._chunks[image_format], self._digests[image_format] = chunk, digest(key)

    def check(self, mutator: Mutator) -> str:
        image_format: ImageFormat = mutator.choice(("png", "raw"))
        manifest = self._manifests[image_format]
        return _with_changes(mutator, self._store, manifest, lambda: self._read(image_format))

    def _read(self, image_format: ImageFormat) -> str:
        name, expected = self._digests[image_format], self._chunks[image_format]
        with contextlib.suppress(SigmasweepError):
            assert len(read_counts(self._store, name, 2).nfe) >= 0
        found = read_chunk(self._store, name, 2)
        for column in ("seeds", "labels", "images", "nfe"):
            assert np.array_equal(getattr(found, column), getattr(expected, column)), column
        return "whole"


class Features:
    """Features beside a chunk. A file that fits its manifest is believed, so only what is damaged at rest is tried."""

    def __init__(self, root: Path) -> None:
        self._store = Store(root / "store")
        values = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
        self._expected = StoredFeatures(values, values[:, :3].copy())
        self._manifest = commit_features(self._store, "s", "e", 0, self._expected, "c")

    def check(self, mutator: Mutator) -> str:
        return _with_changes(mutator, self._store, self._manifest, self._read, self._read_forged)

    def _read(self) -> str:
        found = read_chunk_features(self._store, "s", "e", 0)
        assert np.array_equal(found.features, self._expected.features)
        assert found.logits is not None
        assert np.array_equal(found.logits, self._expected.logits)  # type: ignore[arg-type]
        return "whole"

    def _read_forged(self) -> str:
        assert len(read_chunk_features(self._store, "s", "e", 0).features) == 8
        return "another"


# -- data sets ---------------------------------------------------------------------------------------------------------


class Datasets:
    """A memory-mapped Arrow file: opening and reading must not fail in their own way, and `verify` must see it."""

    def __init__(self, root: Path) -> None:
        self._store = Store(root / "store")
        self._images = make_dataset(self._store).images(np.arange(100))
        self._manifest = self._store.manifest("datasets/toy")

    def check(self, mutator: Mutator) -> str:
        return _with_changes(mutator, self._store, self._manifest, self._read, self._read_forged, keep_length=0.7)

    def _read(self) -> str:
        dataset = self._open()
        dataset.verify()
        assert np.array_equal(dataset.images(np.arange(100)), self._images)
        assert np.array_equal(dataset.labels(np.arange(100)), np.arange(100) % 4)
        return "whole"

    def _read_forged(self) -> str:
        self._open().verify()
        return "another"

    def _open(self) -> Dataset:
        dataset = Dataset.open(self._store, "toy")
        everything = np.arange(len(dataset))
        assert dataset.images(everything).dtype == np.uint8
        assert dataset.labels(everything).dtype == np.int64
        return dataset


class ParquetFiles:
    """A user's Parquet file of images."""

    def __init__(self, root: Path) -> None:
        self._root = root
        path = files.parquet(root / "a.parquet", files.noise(6, 3, 5, 5), [0, 1, 2, 0, 1, 2], ["a", "b", "c"])
        self._data = path.read_bytes()

    def check(self, mutator: Mutator) -> str:
        path, store = self._root / "changed.parquet", self._root / "store"
        path.write_bytes(mutator.bytes(self._data))
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                prepare(Store(store), "a", ParquetImages(str(path)), progress=False)
            return "another"
        finally:
            shutil.rmtree(store, ignore_errors=True)


# -- checkpoints -------------------------------------------------------------------------------------------------------


class States:
    """A training's checkpoints: of two, the newer is changed; what is found is the newer, the older, or nothing."""

    def __init__(self, root: Path) -> None:
        self._store = Store(root / "store")
        self._states = {position: self._state(position) for position in (100, 200)}
        for state in self._states.values():
            checkpoint.save(self._store, "t", state, {"settings": {"a": 1}})
        self._manifest = self._store.manifest(f"{states_prefix('t')}/{200:012d}")

    def check(self, mutator: Mutator) -> str:
        try:
            return _with_changes(mutator, self._store, self._manifest, self._read, self._read_forged)
        finally:
            shutil.rmtree(self._store.uri + "/damaged", ignore_errors=True)

    @staticmethod
    def _state(position: int) -> Checkpoint:
        generator = torch.Generator().manual_seed(position)
        sizes = {"w": (3, 4), "b": (5,)}
        tensors = {
            name: {key: torch.randn(size, generator=generator) for key, size in sizes.items()}
            for name in ("raw", "exp_avg")
        }
        return Checkpoint(position, tensors, {"num_updates": position // 10}, 2)

    def _read(self) -> str:
        found = self._newest()
        assert found.position in (100, 200)
        expected = self._states[found.position]
        assert (found.counters, found.world_size) == (expected.counters, expected.world_size)
        assert found.tensors.keys() == expected.tensors.keys()
        for name, tensors in expected.tensors.items():
            assert all(torch.equal(tensor, found.tensors[name][key]) for key, tensor in tensors.items())
        return "whole" if found.position == 200 else "refused"

    def _read_forged(self) -> str:
        return f"{'another' if self._newest().position == 200 else 'refused'}"

    def _newest(self) -> Checkpoint:
        lines: list[str] = []
        found = checkpoint.newest(self._store, "t", lines.append)
        assert found is not None
        assert len(lines) == (found.position == 100)
        return found


class Snapshots:
    """Weights for sampling."""

    def __init__(self, root: Path) -> None:
        self._store = Store(root / "store")
        torch.manual_seed(0)
        network = SPEC.network.build(4, 1, 2)
        self._state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        about = {"settings": {}, "dataset": {"name": "pets", "digest": "0" * 32}}
        self._manifest = commit_snapshot(self._store, "t-00000000", 1000, SPEC, {"raw": self._state}, about)

    def check(self, mutator: Mutator) -> str:
        return _with_changes(mutator, self._store, self._manifest, self._read, self._read_forged)

    def _read(self) -> str:
        model, state = self._load()
        assert model == SPEC
        assert all(torch.equal(tensor, self._state[name]) for name, tensor in state.items())
        return "whole"

    def _read_forged(self) -> str:
        self._load()
        return "another"

    def _load(self) -> tuple[ModelSpec, dict[str, torch.Tensor]]:
        snapshot = find_snapshot(self._store, CheckpointRef("t"))
        denoiser = build_denoiser(snapshot.model, read_weights(self._store, snapshot), torch.float32, "cpu")
        return snapshot.model, denoiser.network.state_dict()


class Folders:
    """An exported checkpoint: config.json and safetensors in a folder."""

    def __init__(self, root: Path) -> None:
        self._folder = own(root)[1]
        self._originals = {path: path.read_bytes() for path in self._folder.iterdir()}
        self._weights = recognise(self._folder).weights

    def check(self, mutator: Mutator) -> str:
        path = mutator.choice(sorted(self._originals))
        if path.suffix == ".json" and mutator.choice((True, True, False)):
            path.write_text(json.dumps(mutator.value(json.loads(self._originals[path]))))
        else:
            path.write_bytes(mutator.bytes(self._originals[path]))
        try:
            found = recognise(self._folder)
        finally:
            path.write_bytes(self._originals[path])
        assert all("\n" not in line for line in found.lines())
        for name, weights in found.weights.items():
            assert all(torch.equal(tensor, self._weights[name][key]) for key, tensor in weights.items())
        return "another"


# -- pickles -----------------------------------------------------------------------------------------------------------


class NetworkPickles:
    """NVlabs' form of a network, of which nothing may be run."""

    def __init__(self, root: Path) -> None:
        from pipeline.diffusion.preconditioning import EDMPreconditioning

        self._path = root / "network.pkl"
        shape = (8, 3, 3)
        made = nvlabs.network(random_network(NETWORK, shape), EDMPreconditioning(), 0.5, shape)
        self._pickles = [nvlabs.file(made), nvlabs.dumps({"ema": made}, protocol=2)]

    def check(self, mutator: Mutator) -> str:
        self._path.write_bytes(mutator.bytes(mutator.choice(self._pickles)))
        recognise(self._path).lines()
        return "another"


class CifarPickles:
    """CIFAR's Python version, a pickle a batch."""

    def __init__(self, root: Path) -> None:
        self._folder = root / "c"
        contents = files.cifar10_python(files.noise(10, 3, 32, 32), [0, 1] * 5)
        self._paths = [files.write(root / name, data) for name, data in contents.items()]
        self._originals = [[path.read_bytes() for path in self._paths]]
        again = files.cifar10_python(files.noise(10, 3, 32, 32), [0, 1] * 5, protocol=4)
        self._originals.append([again[str(path.relative_to(root))] for path in self._paths])
        self._extra = pickle.dumps({"data": [1.5, None, {"a": (1, b"x")}], "labels": {1, 2}}, 3)

    def check(self, mutator: Mutator) -> str:
        originals = mutator.choice(self._originals)
        changed = mutator.choice(range(len(self._paths)))
        for number, path in enumerate(self._paths):
            path.write_bytes(originals[number])
        what = mutator.choice((originals[changed], originals[changed], self._extra))
        self._paths[changed].write_bytes(mutator.bytes(what))
        images = CifarPython(str(self._folder)).open()
        for item in images.read(np.ones(len(images.labels), bool)):
            assert item.image is not None
        return "another"


# -- a commit of the store, changed ------------------------------------------------------------------------------------


def _with_changes(
    mutator: Mutator, store: Store, manifest: Manifest, read_it: Callable[[], str],
    read_forged: Callable[[], str] | None = None, keep_length: float = 0.3,
) -> str:  # fmt: skip
    """Changes one file of a commit, reads, and puts it back.

    Args:
        read_it: holds what it reads against what was written.
        read_forged: reads what fits its manifest and was wrong before it was written: without a failure of its own, and
            whatever it is. Without one, `read_it` does.
        keep_length: how often a file keeps its length.
    """
    name = mutator.choice(sorted(manifest.blobs))
    blob = manifest.blobs[name]
    files = {key: Path(store.uri) / key for key in (f"{manifest.key}.json", blob.key)}
    before = {key: path.read_bytes() for key, path in files.items()}
    change = mutator.same_length if mutator.chance(keep_length) else mutator.bytes
    kind = mutator.choice(("manifest", "blob", "blob", "forged"))
    read_now = read_it
    if kind == "manifest":
        data = before[f"{manifest.key}.json"]
        changed = json.dumps(mutator.value(json.loads(data))).encode() if mutator.chance(0.5) else change(data)
        files[f"{manifest.key}.json"].write_bytes(changed)
    else:
        changed = change(before[blob.key])
        files[blob.key].write_bytes(changed)
        if kind == "forged":
            forged = Blob(blob.key, sha256(changed), len(changed))
            files[f"{manifest.key}.json"].write_bytes(
                Manifest(manifest.key, {**manifest.blobs, name: forged}, manifest.meta).to_bytes()
            )
            read_now = read_forged or read_it
    try:
        return told(read_now)
    finally:
        for key, path in files.items():
            path.write_bytes(before[key])
