"""What can go from a store: litter, what was set aside, old snapshots that nothing is made with, and images or features
that need not be kept. What is younger than a safe age stays, for a job that is running may still commit it."""

import re
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config.measuring import Keep
from pipeline.data.store import File, Manifest, Store
from pipeline.engine.retention import Ages, Removal, removals
from pipeline.errors import StoreError
from pipeline.training.snapshot import ROOT as CHECKPOINTS

_ATTEMPT = re.compile(r"(?P<key>.+)-(?P<attempt>[0-9a-f]{12})-(?P<name>[^/]+)")  # a blob: see `Store.commit`
_PARTIAL = re.compile(r"(?:.*/)?\.[^/]+[.-][0-9a-f]{12}")  # a file that was being written, or a probe
_DAMAGED = re.compile(r"damaged/(?P<key>.+)-[0-9a-f]{12}\.json")


@dataclass(frozen=True)
class Retention:
    """What is kept.

    Args:
        older_than_hours: younger things are left alone.
        damaged: what was set aside as damaged goes too.
        snapshots: so many of the last ones of each training stay, and those that samples or rebuilt weights are made
            of; all of them by default.
        keep: of samples.
        pictures: the images of so many of the first seeds stay in any case.
    """

    older_than_hours: float = 24.0
    damaged: bool = True
    snapshots: int | None = None
    keep: Keep = "images"
    pictures: int = 64


def prunable(store: Store, retention: Retention, now: float | None = None) -> Iterator[Removal]:
    """All that can go. Nothing is removed here.

    Args:
        now: seconds since 1970; the time of this machine by default.
    """
    before = (time.time() if now is None else now) - 3600 * retention.older_than_hours
    ages = Ages(store.files(""), before)
    yield from _litter(store, ages, retention.damaged)
    if retention.snapshots is not None:
        yield from _snapshots(store, ages, retention.snapshots)
    yield from removals(store, retention.keep, retention.pictures, ages)


def _litter(store: Store, ages: Ages, damaged: bool) -> Iterator[Removal]:
    """Files of attempts that never became a commit, or were followed by another one."""
    manifests = {file.key.removesuffix(".json") for file in ages.files if file.key.endswith(".json")}
    set_aside = {match["key"] for file in ages.files if (match := _DAMAGED.fullmatch(file.key))}
    attempts: dict[str, dict[str, list[File]]] = defaultdict(lambda: defaultdict(list))
    for file in ages.files:
        if match := _ATTEMPT.fullmatch(file.key):
            attempts[match["key"]][match["attempt"]].append(file)
        elif ages.is_old(file.key) and (_PARTIAL.fullmatch(file.key) or (damaged and _DAMAGED.fullmatch(file.key))):
            what = "damaged" if file.key.startswith("damaged/") else "litter"
            yield Removal(what, file.key, file.size, single_file=True)
    for key, by_attempt in attempts.items():
        if key in set_aside and not damaged:
            continue
        named = _named(store, key) if key in manifests else set[str]()
        if named is None:  # its manifest is damaged: a reader will set it aside first
            continue
        for file in (file for files in by_attempt.values() for file in files):
            if file.key not in named and ages.is_old(file.key):
                yield Removal("damaged" if key in set_aside else "litter", file.key, file.size, single_file=True)


def _named(store: Store, key: str) -> set[str] | None:
    try:
        manifest = store.find(key)
    except StoreError:
        return None
    return set() if manifest is None else {blob.key for blob in manifest.blobs.values()}


def _snapshots(store: Store, ages: Ages, kept: int) -> Iterator[Removal]:
    used = _used_weights(store)
    by_training: dict[str, list[str]] = defaultdict(list)
    for key in store.committed(CHECKPOINTS):
        training, _, rest = key.removeprefix(f"{CHECKPOINTS}/").partition("/")
        if rest.startswith("snapshots/"):
            by_training[training].append(key)
    for keys in by_training.values():
        for key in sorted(keys)[:-kept]:
            manifest = _readable(store, key)
            if manifest is None or not ages.is_old(f"{key}.json"):
                continue
            if used.isdisjoint(blob.sha256 for blob in manifest.blobs.values()):
                yield Removal("snapshots", key, sum(blob.size for blob in manifest.blobs.values()))


def _used_weights(store: Store) -> set[str]:
    """The sha256 of all weights that samples, or weights that were rebuilt of several snapshots, are made of."""
    found: set[str] = set()
    for key in [*store.committed("samples"), *store.committed(CHECKPOINTS)]:
        if key.endswith("/setting") or "/posthoc/" in key:
            manifest = _readable(store, key)
            found |= set() if manifest is None else set(_digests(manifest.meta))
    return found


def _digests(value: Any) -> Iterator[str]:
    """All texts that are a sha256, wherever they stand."""
    if isinstance(value, str):
        if re.fullmatch(r"[0-9a-f]{64}", value):
            yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _digests(item)
    elif isinstance(value, list):
        for item in value:
            yield from _digests(item)


def _readable(store: Store, key: str) -> Manifest | None:
    try:
        return store.find(key)
    except StoreError:
        return None


def summary(found: Sequence[Removal]) -> list[str]:
    """What goes, in lines for people."""
    sums: dict[str, list[int]] = {}
    for removal in found:
        count_and_size = sums.setdefault(removal.what, [0, 0])
        count_and_size[0] += 1
        count_and_size[1] += removal.size
    told = [f"{what}: {count:,} ({size / 1e6:,.1f} MB)" for what, (count, size) in sums.items()]
    return told or ["nothing can go"]
