"""What a benchmark told, kept in the store so that its report can be made again: `benchmarks/<digest>`.

The images, features and timings that its numbers are of lie in the store too; a record names them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from pipeline.data.store import Store
from pipeline.digests import plain
from pipeline.engine.measures import Measure
from pipeline.engine.timing import Timing
from pipeline.engine.work import Seeds
from pipeline.errors import SettingsError, StoreError

ROOT = "benchmarks"
SEARCHES = "searches"
_SEARCH = "told"  # of a search, beside its steps

Record = Mapping[str, Any]


def record_of(
    told: str, seeds: Seeds, pictures: int, measures: Sequence[Measure], params: Mapping[str, Any], evaluations: float,
    timings: Sequence[Timing | None],
) -> dict[str, Any]:  # fmt: skip
    """All that a report is made of, but the images.

    Args:
        told: the rows, as `rows_json` has them.
        pictures: so many of the first seeds are shown.
        params: of each setting, by its name.
        evaluations: of the network, for all images together.
    """
    timed = next((timing for timing in timings if timing is not None), None)
    return {
        **json.loads(told),
        "seeds": asdict(seeds),
        "pictures": pictures,
        "execution": next(iter(params.values()))["execution"],
        "timed_on": "" if timed is None else f"{timed.device}, batch {timed.batch_size}, {timed.threads} threads",
        "measures": [_measure_record(measure) for measure in measures],
        "points": plain(params),
        "evaluations": evaluations,
        "versions": {name: version(name) for name in ("torch", "torchmetrics", "numpy")},
    }


def _measure_record(measure: Measure) -> dict[str, Any]:
    reference = measure.reference
    return {
        "name": measure.name,
        "title": measure.plan.distance_name,
        "extractor": measure.plan.digest,
        "reference": reference.title,
        "reference_digest": reference.digest,
        "reference_count": reference.count,
    }


def commit_record(store: Store, digest: str, record: Record) -> None:
    """Keeps a record. The same benchmark told again takes its place."""
    store.commit(f"{ROOT}/{digest}", {}, record)


def commit_search_record(store: Store, digest: str, record: Record) -> None:
    """The same of a search."""
    store.commit(f"{SEARCHES}/{digest}/{_SEARCH}", {}, record)


def read_record(store: Store, digest: str) -> dict[str, Any]:
    """Raises:
    StoreError: it is not there, or is damaged.
    """
    return dict(store.manifest(f"{ROOT}/{digest}").meta)


def find_record(store: Store, name: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The newest benchmark, or the final stage of the newest search, of a name or a digest.

    Returns:
        (record of the benchmark, record of the search that it ended, if it is of one).

    Raises:
        SettingsError: nothing of this name was told into this store.
    """
    known: list[str] = []
    for key in _newest_first(store):
        found = _readable(store, key)
        if found is None:
            continue
        known.append(str(found.get("name")))
        if name in (found.get("name"), key.split("/")[1]):
            return _with_search(store, key, found)
    near = f"there are {', '.join(sorted(set(known)))}" if known else "there are none"
    raise SettingsError("name", f"no benchmark or search of the name {name!r} was told into this store; {near}")


def _with_search(store: Store, key: str, found: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    if not key.startswith(f"{SEARCHES}/"):
        return found, None
    final = found["final"]
    return (read_record(store, final) if final else {"name": found["name"], "rows": []}), found


def _newest_first(store: Store) -> Sequence[str]:
    """The keys of all records; where two were told at once, that of a search comes first."""
    files = [file for root in (ROOT, SEARCHES) for file in store.files(root) if file.key.endswith(".json")]
    keys = [(file.modified, file.key.startswith(SEARCHES), file.key.removesuffix(".json")) for file in files]
    return [key for _, is_search, key in sorted(keys, reverse=True) if not is_search or key.endswith(f"/{_SEARCH}")]


def _readable(store: Store, key: str) -> dict[str, Any] | None:
    try:
        return dict(store.manifest(key).meta)
    except StoreError:
        return None
