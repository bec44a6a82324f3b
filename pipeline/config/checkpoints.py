"""How settings name weights: as a store calls them, or by an address at which they are first looked up."""

import re
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from pipeline.training.settings import Frozen
from pipeline.training.snapshot import LATEST, CheckpointRef

_WORD = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_TITLE = re.compile(rf"(?P<training>{_WORD})@(?P<at>\d+)(?:/(?P<ema>{_WORD}))?")


def is_address(name: str) -> bool:
    """Whether weights of this name are not simply in the store: `models:/...`, `runs:/...`, a path, or another store's
    address. Names of trainings, and titles such as `digits-1a2b3c4d@100000/ema-500`, are none."""
    return ("/" in name or ":" in name) and not _TITLE.fullmatch(name)


class CheckpointSettings(Frozen):
    """Names the weights to sample from: a training, a title as tables have it (`digits-1a2b3c4d@100000/ema-500`), or an
    address: `models:/NAME/VERSION`, `models:/NAME@ALIAS`, `models:/NAME` (its newest version), `runs:/RUN`, a folder
    that `jobs.export_checkpoint` wrote, or `STORE/checkpoints/TRAINING` of another store. A text alone is `training`.

    Args:
        training: the training's name, its folder where several share the name, a title, or an address.
        at: images seen, or `latest`.
        ema: the set of weights. Empty: the training's first one, or the one that the title or address names.
    """

    training: str
    at: int | Literal["latest"] = "latest"
    ema: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, content: Any) -> Any:
        return {"training": content} if isinstance(content, str) else content

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_moment(self.training, self.at)
        return self

    def ref(self) -> CheckpointRef:
        return _ref(self.training, self.at, self.ema)


class GuideSettings(Frozen):
    """Names the weights of a guidance's second network, as `checkpoint` does. Without a `training` it is that of the
    checkpoint it guides; where this is named by its title or an address, also its moment."""

    training: str | None = None
    at: int | Literal["latest"] = "latest"
    ema: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, content: Any) -> Any:
        return {"training": content} if isinstance(content, str) else content

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_moment(self.training or "", self.at)
        return self

    def ref(self, guided: CheckpointSettings) -> CheckpointRef:
        if self.training:
            return _ref(self.training, self.at, self.ema)
        of_guided = _ref(guided.training, LATEST, None)
        return CheckpointRef(of_guided.training, of_guided.at if self.at == LATEST else self.at, self.ema)


class RegisterSettings(Frozen):
    """The registered model of which a checkpoint becomes a version; a text alone is its `name`.

    Args:
        name: of the model in MLflow's registry; made where it is missing.
        ema: the set of weights. Empty: the first one.
        alias: that stands for the new version from then on, such as `champion`.
    """

    name: str = Field(pattern=rf"^{_WORD}$", max_length=200)
    ema: str | None = None
    alias: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$", max_length=200)

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, content: Any) -> Any:
        return {"name": content} if isinstance(content, str) else content

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.alias is not None and re.fullmatch(r"latest|[vV]\d+", self.alias, re.IGNORECASE):
            raise ValueError(f"alias: must be another word: MLflow keeps {self.alias} for itself")
        return self


def _check_moment(training: str, at: int | str) -> None:
    if at != LATEST and (_TITLE.fullmatch(training) or training.startswith("models:")):
        raise ValueError(f"at: must not be given, as {training} is of one moment (got {at})")


def _ref(training: str, at: int | str, ema: str | None) -> CheckpointRef:
    match = _TITLE.fullmatch(training)
    return (
        CheckpointRef(match["training"], int(match["at"]), ema or match["ema"])
        if match
        else CheckpointRef(training, at, ema)
    )
