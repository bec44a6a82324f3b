"""What a version of a registered model is: an address, and a checkpoint that can be found and verified by it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.digests import digest
from pipeline.errors import CheckpointError, SettingsError
from pipeline.tracking import names

NEWEST = "latest"  # MLflow's word, in the place of a version or alias
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
ALIAS = re.compile(r"(?![vV]\d+$)(?!latest$)[A-Za-z][\w-]*", re.ASCII)
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

    @property
    def title(self) -> str:
        """As tables and settings name it."""
        return f"{self.training}@{self.num_images}/{self.weights}"

    @property
    def digest(self) -> str:
        """Equal for equal weights of equal models, wherever they lie: what makes a version the same version."""
        return digest({"weights": self.weights_sha256, "model": self.model_digest})

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
        tags_there: all of its tags.
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
