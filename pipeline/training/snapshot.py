"""Snapshots: the weights of a training at one moment, for sampling. They lie under `checkpoints/<training>/snapshots/`.

A snapshot holds the model's settings, the training's settings and the data set's digest, so that nothing of it needs
to be said again to sample from it. Weights are safetensors, one file for each set: `raw`, and one for each EMA.

Weights of the name `posthoc-<std>` are rebuilt from the power-function averages of all snapshots when they are first
asked for, and kept under `checkpoints/<training>/posthoc/`.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor

from pipeline.data.store import Fence, Manifest, Store, unfenced
from pipeline.diffusion.denoiser import Denoiser
from pipeline.digests import digest
from pipeline.errors import CheckpointError, StoreError
from pipeline.training import posthoc
from pipeline.training.settings import ModelSpec

ROOT = "checkpoints"
LATEST = "latest"
COPIED_FROM = "copied_from"  # in the meta of a snapshot that is a copy of one that lies elsewhere
_SUFFIX = ".safetensors"
logger = logging.getLogger("pipeline.training")

_TRAINING = re.compile(r"(?P<name>.+)-[0-9a-f]{8}")


@dataclass(frozen=True)
class CheckpointRef:
    """Names weights: those of a training, at a moment, averaged or not.

    Args:
        training: its name, or its folder (name and digest) where several share the name.
        at: images seen, or `latest`.
        ema: the set of weights, `raw`, `ema-<half-life in kimg>` or `power-<std>`; empty takes the training's first
            EMA. `posthoc-<std>` is an average of any width, rebuilt from the `power-...` of all snapshots.
    """

    training: str
    at: int | str = LATEST
    ema: str | None = None


@dataclass(frozen=True)
class Snapshot:
    """One set of weights, found and not yet loaded."""

    manifest: Manifest
    model: ModelSpec
    training: str  # the folder, name-digest
    num_images: int
    weights: str  # `raw`, `ema-...`, `power-...` or `posthoc-...`

    @property
    def weights_sha256(self) -> str:
        return self.manifest.blobs[blob_name(self.weights)].sha256

    @property
    def model_digest(self) -> str:
        return digest(self.model)

    @property
    def title(self) -> str:
        """For tables and pictures."""
        return f"{self.training}@{self.num_images}/{self.weights}"

    @property
    def dataset(self) -> Mapping[str, Any]:
        """`name` and `digest` of the data it was trained on; empty for weights that were imported without."""
        dataset: Mapping[str, Any] = self.manifest.meta["dataset"]
        return dataset

    @property
    def licence(self) -> str | None:
        """Of the weights, where they were imported: it is shown with all that is made with them."""
        licence: str | None = self.manifest.meta.get("licence")
        return licence


def snapshot_key(training: str, num_images: int) -> str:
    return f"{ROOT}/{training}/snapshots/{num_images:012d}"


def commit_snapshot(
    store: Store, training: str, num_images: int, model: ModelSpec,
    weights: Mapping[str, Mapping[str, Tensor]], meta: Mapping[str, Any], fence: Fence = unfenced,
) -> Manifest:  # fmt: skip
    """Writes a snapshot.

    Args:
        training: the training's folder.
        weights: state dictionaries of the network by name, the preferred one (the first EMA) first.
        meta: `settings` of the training, `dataset` (name and digest), and whatever else is worth telling.
        fence: asked before the snapshot is there.
    """
    blobs = {blob_name(name): weights_bytes(state) for name, state in weights.items()}
    return commit_blobs(store, training, num_images, model, blobs, meta, fence)


def commit_blobs(
    store: Store, training: str, num_images: int, model: ModelSpec, blobs: Mapping[str, bytes], meta: Mapping[str, Any],
    fence: Fence = unfenced,
) -> Manifest:  # fmt: skip
    """As `commit_snapshot`, of the bytes of safetensors files by their names (`blob_name`)."""
    described, weights = model.model_dump(mode="json"), [name.removesuffix(_SUFFIX) for name in blobs]
    whole = {**meta, "kind": "snapshot", "model": described, "num_images": num_images, "weights": weights}
    return store.commit(snapshot_key(training, num_images), blobs, whole, fence)


def weights_bytes(state: Mapping[str, Tensor]) -> bytes:
    """A state dictionary as safetensors; equal weights give equal bytes."""
    data: bytes = safetensors.torch.save({name: value.detach().cpu().contiguous() for name, value in state.items()})
    return data


def find_snapshot(store: Store, ref: CheckpointRef) -> Snapshot:
    """The weights that are named. `posthoc-<std>` are made and committed where they are not there yet.

    Raises:
        CheckpointError: no training, no moment or no weights of that name; the sentence lists what there is.
        StoreError: rebuilt weights cannot be written.
    """
    training = find_training(store, ref.training)
    moments = snapshot_moments(store, training)
    if not moments:
        raise CheckpointError(training, "has no snapshots yet: let it train until its first one")
    if ref.at != LATEST and ref.at not in moments:
        raise CheckpointError(training, f"has no snapshot at {ref.at!r} images (it has {_some(moments)})")
    num_images = moments[-1] if ref.at == LATEST else int(ref.at)
    try:
        std = posthoc.posthoc_std(ref.ema)
    except ValueError as error:
        raise CheckpointError(f"{training}@{num_images}: weights {ref.ema!r}", str(error)) from error
    if std is not None:
        return _find_rebuilt(store, training, moments[: moments.index(num_images) + 1], std)
    manifest, model = _read_manifest(store, training, num_images)
    names: list[str] = manifest.meta["weights"]
    weights = ref.ema or names[0]
    if weights not in names:
        raise CheckpointError(f"{training}@{num_images}", f"has no weights {weights!r} (it has {', '.join(names)})")
    return Snapshot(manifest, model, training, num_images, weights)


def _find_rebuilt(store: Store, training: str, moments: list[int], std: float) -> Snapshot:
    """Weights of any width at the last of these moments, from the snapshots of all of them.

    Later snapshots take no part, so that the result stays the same while the training goes on.
    """
    found = [_read_manifest(store, training, moment) for moment in moments]
    manifests, model = [manifest for manifest, _ in found], found[-1][1]
    num_images, name = moments[-1], posthoc.posthoc_name(std)
    where = f"{training}@{num_images}"
    if COPIED_FROM in manifests[-1].meta:
        problem = f"is a copy of one snapshot, and weights {name!r} are made of all of a training's"
        raise CheckpointError(where, f"{problem}: use the store of the training, or export or register them there")
    recipe = posthoc.Recipe(where, manifests, std)
    made_of = {"revision": posthoc.REVISION, "std": std, "sources": recipe.sources}
    key = f"{ROOT}/{training}/posthoc/{num_images:012d}-{std:g}-{digest(made_of)[:8]}"
    kept = _find_kept(store, key)
    if kept is None:
        try:
            data = weights_bytes(recipe.weights(store))
        except StoreError as error:
            raise CheckpointError(where, f"a snapshot is damaged ({error})") from error
        about = {"kind": "posthoc", "weights": [name], "made_of": made_of}
        meta = {**manifests[-1].meta, **about, "profile_error": recipe.combination.error}
        kept = store.commit(key, {blob_name(name): data}, meta)
    return Snapshot(kept, model, training, num_images, name)


def _find_kept(store: Store, key: str) -> Manifest | None:
    """A commit of rebuilt weights, or None where it is missing or its manifest damaged: it can be made again."""
    try:
        return store.find(key)
    except StoreError as error:
        logger.warning("%s; the weights are rebuilt", error)
        store.set_aside(key)
        return None


def _read_manifest(store: Store, training: str, num_images: int) -> tuple[Manifest, ModelSpec]:
    where = f"{training}@{num_images}"
    try:
        manifest = store.manifest(snapshot_key(training, num_images))
    except StoreError as error:
        raise CheckpointError(where, f"the snapshot is damaged ({error})") from error
    try:
        return manifest, ModelSpec.model_validate(manifest.meta.get("model"))
    except ValidationError as error:
        key, problem = ".".join(map(str, error.errors()[0]["loc"])), error.errors()[0]["msg"]
        unknown = f"its model is none that this version of sigmasweep knows ({key}: {problem})"
        raise CheckpointError(where, f"{unknown}: take the version that trained it, or a later one") from error


def find_training(store: Store, name: str) -> str:
    """The folder of a training, by its name or its folder's name."""
    folders = sorted({key.split("/")[1] for key in store.committed(ROOT) if key.count("/") > 1})
    if name in folders:
        return name
    named = [folder for folder in folders if (match := _TRAINING.fullmatch(folder)) and match["name"] == name]
    if not named:
        raise CheckpointError(name, f"no such training in {store.title} (there are: {', '.join(folders) or 'none'})")
    if len(named) > 1:
        raise CheckpointError(name, f"several trainings have this name, name one of them whole: {', '.join(named)}")
    return named[0]


def snapshot_moments(store: Store, training: str) -> list[int]:
    """Images seen at each snapshot of a training, ascending."""
    return sorted(int(key.rsplit("/", 1)[1]) for key in store.committed(f"{ROOT}/{training}/snapshots"))


def read_weights(store: Store, snapshot: Snapshot) -> bytes:
    """The verified safetensors bytes of a snapshot's weights; rebuilt ones are made again where they are damaged.

    Raises:
        CheckpointError: they are missing or damaged.
    """
    try:
        return store.blob(snapshot.manifest, blob_name(snapshot.weights))
    except StoreError as error:
        if snapshot.manifest.meta.get("kind") == "posthoc":
            return _rebuilt_again(store, snapshot, error)
        raise CheckpointError(snapshot.title, f"the weights are damaged ({error})") from error


def _rebuilt_again(store: Store, snapshot: Snapshot, damage: StoreError) -> bytes:
    """Rebuilt weights whose file is damaged: those that were made again since, or are now.

    Raises:
        CheckpointError: the snapshots that they are made of are damaged too.
    """
    kept = _find_kept(store, snapshot.manifest.key)
    if kept in (None, snapshot.manifest):
        logger.warning("%s; the weights are rebuilt", damage)
        store.set_aside(snapshot.manifest.key)
    found = find_snapshot(store, CheckpointRef(snapshot.training, snapshot.num_images, snapshot.weights))
    if found.weights_sha256 != snapshot.weights_sha256:
        raise CheckpointError(snapshot.title, "the weights are damaged, and their snapshots are not what they were")
    return store.blob(found.manifest, blob_name(found.weights))


def build_denoiser(model: ModelSpec, weights: bytes, dtype: torch.dtype, device: torch.device | str) -> Denoiser:
    """A denoiser ready to sample, in evaluation mode.

    Raises:
        CheckpointError: the weights do not fit the model.
    """
    network = model.network.build(model.resolution, model.channels, model.num_classes)
    try:
        network.load_state_dict(safetensors.torch.load(weights))
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise CheckpointError("weights", f"do not fit the model ({str(error).splitlines()[0]})") from error
    network = network.to(device=device, dtype=dtype).eval().requires_grad_(False)
    return Denoiser(network, model.preconditioning, model.sigma_data)


def blob_name(weights: str) -> str:
    """Of a set of weights, among the files of a snapshot."""
    return f"{weights}{_SUFFIX}"


def _some(moments: list[int]) -> str:
    shown = [str(moment) for moment in moments]
    return ", ".join(shown if len(shown) <= 6 else [*shown[:3], "...", *shown[-2:]])
