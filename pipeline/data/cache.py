"""What is dear to compute and small to keep is computed once a store."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pipeline.data.store import Store
from pipeline.errors import StoreError

logger = logging.getLogger("pipeline.data")


class Kept(NamedTuple):
    """One file of a commit, and what its writer said of it."""

    data: bytes
    meta: Mapping[str, Any]


def kept(store: Store, key: str, name: str, make: Callable[[], Kept]) -> Kept:
    """The file `name` of the commit `key`: the one that is there, or else what `make` gives, which is then kept.

    A damaged one is set aside and made again.
    """
    found = _find(store, key, name)
    if found is None:
        found = make()
        store.commit(key, {name: found.data}, found.meta)
    return found


def _find(store: Store, key: str, name: str) -> Kept | None:
    try:
        manifest = store.find(key)
        return None if manifest is None else Kept(store.blob(manifest, name), manifest.meta)
    except StoreError as error:
        logger.warning("%s; it is set aside and made again", error)
        store.set_aside(key)
        return None
