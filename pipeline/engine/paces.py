"""How fast runs were: `paces/<digest>`, for those who ask how long another will take.

The pace of a run is the time of its workers for an evaluation of the network, with all that went with it, under the
conditions of that run: how many workers there were, and what they took features with.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from pipeline.data.store import Store
from pipeline.digests import digest, plain
from pipeline.engine.work import Setting, WorkerSettings
from pipeline.errors import NewerFormatError, StoreError
from pipeline.metrics.extractors import ExtractorSettings

ROOT = "paces"
REVISION = 1  # of what is kept
_UNKNOWN_NFE = 50.0  # evaluations of an image whose steps adapt themselves
_ESSENTIAL = ("models", "execution", "family")  # a run that differs in these tells nothing
_HELPFUL = ("device", "extractors", "workers")  # the more of these are equal, the better


@dataclass(frozen=True)
class Pace:
    """Seconds of one worker.

    Args:
        per_evaluation: of one image by the network.
        start: from nothing to the first worker that is ready.
    """

    per_evaluation: float
    start: float


@dataclass(frozen=True)
class Conditions:
    """What a pace depends on, beside the network and its execution.

    Args:
        family: of the devices.
        device: what they are called.
        workers: how many at once.
        extractors: of the run.
    """

    family: Mapping[str, str]
    device: str
    workers: int
    extractors: Sequence[ExtractorSettings] = ()

    def about(self, setting: Setting) -> dict[str, Any]:
        """What names a pace of a setting under these conditions."""
        execution, networks = setting.key["execution"], setting.key["networks"]
        found: dict[str, Any] = plain(
            {
                "revision": REVISION,
                "models": {name: network["model"] for name, network in networks.items()},
                "execution": {name: value for name, value in execution.items() if name != "chunk_size"},
                "family": self.family,
                "device": self.device,
                "extractors": [digest(extractor) for extractor in self.extractors],
                "workers": self.workers,
            }
        )
        return found


def remember(
    work: WorkerSettings, conditions: Conditions, start: float, taken: Mapping[Setting, tuple[float, int]]
) -> None:
    """Keeps the pace of a run, one for each model; a later run under the same conditions takes its place.

    Args:
        start: seconds until the first worker was ready.
        taken: of each setting, the seconds that its chunks took, added up, and how many these were.
    """
    found: dict[str, tuple[Any, float, float]] = {}
    for setting, (seconds, chunks) in taken.items():
        nfe = setting.count_nfe()
        if nfe is not None:
            about = conditions.about(setting)
            _, before, evaluations = found.get(digest(about), (about, 0.0, 0.0))
            more = chunks * work.execution.chunk_size * nfe
            found[digest(about)] = about, before + seconds, evaluations + more
    for name, (about, seconds, evaluations) in found.items():
        pace = {"per_evaluation": seconds / evaluations, "start": start, "evaluations": evaluations}
        with suppress(StoreError, NewerFormatError):  # the run itself is done
            work.store.commit(f"{ROOT}/{name}", {}, {"about": about, "pace": pace})


def nfe_of(setting: Setting) -> float:
    """Evaluations an image, as far as they are known before."""
    nfe = setting.count_nfe()
    return _UNKNOWN_NFE if nfe is None else float(nfe)


class Paces:
    """The paces that a store has."""

    def __init__(self, store: Store) -> None:
        self._there = _read(store)

    @property
    def start(self) -> float:
        """Seconds until the first worker is ready, whatever it does; 0 where nothing is known."""
        return fmean(meta["pace"]["start"] for meta in self._there) if self._there else 0.0

    def find(self, setting: Setting, conditions: Conditions) -> tuple[Pace, int] | None:
        """The mean of the runs that are most like this one, and how many these are."""
        wanted = conditions.about(setting)
        alike = [meta for meta in self._there if all(meta["about"][name] == wanted[name] for name in _ESSENTIAL)]
        if not alike:
            return None
        likeness = [sum(meta["about"][name] == wanted[name] for name in _HELPFUL) for meta in alike]
        best = [meta["pace"] for meta, like in zip(alike, likeness, strict=True) if like == max(likeness)]
        return Pace(*(fmean(one[name] for one in best) for name in ("per_evaluation", "start"))), len(best)


def _read(store: Store) -> list[Mapping[str, Any]]:
    """What cannot be read is passed over."""
    found = []
    for key in store.committed(ROOT):
        with suppress(StoreError):
            meta = store.manifest(key).meta
            found += [meta] if meta["about"]["revision"] == REVISION else []
    return found
