"""What a slot benchmarks, and what its result says beside the slots before."""

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from pipeline.data.store import Store
from pipeline.engine.alarm import Margin, better_beyond_doubt, judge
from pipeline.engine.firing import Found
from pipeline.engine.slot_history import last_good, measured_at
from pipeline.engine.slot_result import Measured, to_blobs
from pipeline.engine.slots import Slot

CHAMPION = "champion"


class ModelVersion(Protocol):
    """One version of a registered model, which is weights in the store."""

    @property
    def version(self) -> int: ...

    @property
    def training(self) -> str: ...

    @property
    def num_images(self) -> int: ...

    @property
    def weights(self) -> str: ...


class Models(Protocol):
    """A registry of models; `pipeline.tracking.registry` is one."""

    def newest(self, name: str) -> ModelVersion: ...

    def aliases(self, name: str) -> Mapping[str, int]: ...

    def set_alias(self, name: str, alias: str, version: int) -> None: ...


@dataclass(frozen=True)
class Champion:
    """Whom a new version must beat.

    Args:
        version: the one that has the alias; None where none has.
    """

    version: int | None


def result_of(
    store: Store, slot: Slot, measured: Sequence[Measured], pinned: Mapping[str, Any], margin: Margin,
    champion: Champion | None,
) -> Found:  # fmt: skip
    """Compares a slot with the last good one before it, and with the champion's.

    Args:
        pinned: what the slot benchmarked, as `begin_slot` set it.
        champion: None where no registered model is benchmarked.
    """
    before = last_good(store, slot.schedule, slot.instant)
    old = [] if before is None else measured_at(store, slot.schedule, before)
    judgement = judge(measured, old, margin)
    new_champion = None
    if champion is not None and judgement.verdict in ("first", "good"):
        new_champion = _new_champion(store, slot, measured, pinned, margin, champion)
    content = {
        "verdict": judgement.verdict,
        "why": judgement.why,
        "changes": [change.as_json() for change in judgement.changes],
        "baseline": None if before is None else before.isoformat(),
        "champion": new_champion,
        "settings": [setting.numbers() for setting in measured],
        **{name: pinned[name] for name in ("model", "version", "checkpoint", "seeds", "code")},
    }
    return Found(content, to_blobs(measured))


def _new_champion(
    store: Store, slot: Slot, measured: Sequence[Measured], pinned: Mapping[str, Any], margin: Margin,
    champion: Champion,
) -> int | None:  # fmt: skip
    """The version that the alias is to move to; None where it stays."""
    mine = int(pinned["version"])
    if champion.version is None:
        return mine
    if champion.version == mine:
        return None
    his = last_good(store, slot.schedule, slot.instant, str(champion.version))
    if his is None:  # somebody gave the alias to a version that no slot has measured
        return None
    is_better = better_beyond_doubt(measured, measured_at(store, slot.schedule, his), margin.level)
    return mine if is_better else None


def code_version() -> str:
    """Which code computes: the commit of a checkout, with a plus where files differ from it; else the package's."""
    here = Path(__file__).resolve().parent
    commit = _git(here, "rev-parse", "--short=12", "HEAD")
    if commit:
        return f"{commit}{'+' if _git(here, 'status', '--porcelain', '--untracked-files=no') else ''}"
    try:
        return version("sigmasweep")
    except PackageNotFoundError:
        return "unknown"


def _git(folder: Path, *arguments: str) -> str:
    """What git says; an empty text where it is not there, or this is no checkout."""
    try:
        found = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()
