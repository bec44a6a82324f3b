"""What a benchmark told, kept in the store so that its report can be made again: `benchmarks/<digest>`.

The images, features and timings that its numbers are of lie in the store too; a record names them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.data.store import Store
from pipeline.errors import SettingsError, StoreError

ROOT = "benchmarks"
SEARCHES = "searches"
_SEARCH = "told"  # of a search, beside its steps

Record = Mapping[str, Any]


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
