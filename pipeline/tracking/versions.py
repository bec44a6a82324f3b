"""What a version of a registered model is: an address, and a checkpoint that can be found and verified by it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.data.store import Store
from pipeline.errors import CheckpointError, SettingsError
from pipeline.tracking import names
from pipeline.training.copies import WORD, weights_digest
from pipeline.training.snapshot import Snapshot

NEWEST = "latest"  # MLflow's word, in the place of a version or alias
_RUN = re.compile(r"runs:/+(?P<run>[0-9a-f]{32})/?")
_ADDRESS = re.compile(r"models:/+(?P<name>[^/@:]+)(?:/(?P<version>\d+|latest)|@(?P<alias>[\w-]+))?")


@dataclass(frozen=True)
class Registrable:
    """One set of weights, as a registry describes it.

    Args:
        store: the address of the store that it lies in, without secrets.
        training: its training's folder.
        num_images: images seen.
        weights: the name of the set, such as `ema-500`.
        weights_sha256: of the safetensors file.
        model_digest: of the model's settings, network and preconditioning.
    """

    store: str
    training: str
    num_images: int
    weights: str
    weights_sha256: str
    model_digest: str

    def __post_init__(self) -> None:
        """Whoever may write to the tracker may have written these, and keys of the store are made of them."""
        for text in (self.training, self.weights):
            if not WORD.fullmatch(text):
                raise ValueError(f"{text!r} is no name")

    @classmethod
    def of(cls, store: Store, snapshot: Snapshot) -> "Registrable":
        return cls(
            store=store.title,
            training=snapshot.training,
            num_images=snapshot.num_images,
            weights=snapshot.weights,
            weights_sha256=snapshot.weights_sha256,
            model_digest=snapshot.model_digest,
        )

    @property
    def title(self) -> str:
        """As tables and settings name it."""
        return f"{self.training}@{self.num_images}/{self.weights}"

    @property
    def digest(self) -> str:
        """Equal for equal weights of equal models, wherever they lie: what makes a version the same version."""
        return weights_digest(self.weights_sha256, self.model_digest)

    @property
    def folder(self) -> str:
        """Of its files among the artifacts of its run."""
        return f"{names.MODEL_FOLDER}/{self.num_images:012d}-{self.weights}"

    def tags(self) -> dict[str, str]:
        return {
            names.CHECKPOINT_DIGEST: self.digest,
            names.STORE: self.store,
            names.TRAINING: self.training,
            names.NUM_IMAGES_SEEN: str(self.num_images),
            names.WEIGHTS: self.weights,
            names.WEIGHTS_SHA256: self.weights_sha256,
            names.MODEL_DIGEST: self.model_digest,
        }


@dataclass(frozen=True)
class Version(Registrable):
    """A version of a registered model.

    Args:
        name: of the model.
        version: its number.
        run_id: of the run that made it.
        all_tags: as the tracker has them.
    """

    name: str
    version: int
    run_id: str
    all_tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"models:/{self.name}/{self.version}"


@dataclass(frozen=True)
class ModelAddress:
    """`models:/name/3`, `models:/name@alias`, or without either the newest version."""

    name: str
    version: int | None = None
    alias: str | None = None

    @classmethod
    def parse(cls, text: str) -> "ModelAddress":
        """Raises:
        SettingsError: it is no such address.
        """
        match = _ADDRESS.fullmatch(text)
        if match is None:
            forms = "models:/NAME/VERSION, models:/NAME@ALIAS or models:/NAME (its newest version)"
            raise SettingsError(text, f"is not the address of a registered model: write {forms}")
        version = match["version"]
        return cls(match["name"], None if version in (None, NEWEST) else int(version), match["alias"])

    def __str__(self) -> str:
        end = f"/{self.version}" if self.version is not None else f"@{self.alias}" if self.alias else ""
        return f"models:/{self.name}{end}"


def version_of(found: Any) -> Version:
    """MLflow's model version as ours.

    Raises:
        CheckpointError: somebody else registered it, so nothing says which checkpoint it is.
    """
    address, tags = f"models:/{found.name}/{found.version}", dict(found.tags)
    try:
        version = Version(
            store=tags[names.STORE],
            training=tags[names.TRAINING],
            num_images=int(tags[names.NUM_IMAGES_SEEN]),
            weights=tags[names.WEIGHTS],
            weights_sha256=tags[names.WEIGHTS_SHA256],
            model_digest=tags[names.MODEL_DIGEST],
            name=found.name,
            version=int(found.version),
            run_id=found.run_id or "",
            all_tags=tags,
        )
    except KeyError as error:
        raise CheckpointError(address, f"was not registered by sigmasweep: it has no tag {error.args[0]}") from error
    except ValueError as error:
        raise CheckpointError(address, f"has a tag that was changed by hand ({error})") from error
    if tags.get(names.CHECKPOINT_DIGEST) != version.digest:
        raise CheckpointError(address, f"its tags were changed: {names.CHECKPOINT_DIGEST} is not that of the others")
    return version


@dataclass(frozen=True)
class RunCheckpoint:
    """The checkpoint of a run.

    Args:
        store: the address of the store that it lies in; empty where the run does not say.
        name: of a training, or the title of a checkpoint, as settings have it.
    """

    store: str
    name: str


def parse_run(address: str) -> str:
    """The id in `runs:/<id>`.

    Raises:
        SettingsError: it is no such address.
    """
    match = _RUN.fullmatch(address)
    if match is None:
        raise SettingsError(address, "is not the address of a run: write runs:/ and the id that its page shows")
    return match["run"]


def checkpoint_of_run(address: str, name: str, tags: Mapping[str, str]) -> RunCheckpoint:
    """What a run's tags say.

    Args:
        name: of the run; a training's is its folder.

    Raises:
        CheckpointError: it has no checkpoint.
    """
    kind = tags.get(names.KIND, "")
    found = tags.get(names.TRAINING, name) if kind == "training" else tags.get(names.CHECKPOINT, "")
    if not found:
        what = f"{kind or 'a'} run {name!r}".removeprefix("a ")
        raise CheckpointError(address, f"the {what} has no checkpoint: name a training's run, or that of one setting")
    if not all(WORD.fullmatch(part) for part in re.split("[@/]", found)):
        raise CheckpointError(address, f"its tags were changed by hand: {found[:100]!r} is no checkpoint's name")
    return RunCheckpoint(tags.get(names.STORE, ""), found)
