"""What this machine has verified of a store, so that a run over thousands of chunks does not read them all again.

A commit is vouched for while all its files have the size and the time of writing that a listing told when they were
last verified, and for a week at most: then they are read again, in case a disk has lost bits of what nobody touched.
Whoever reads a file for its content verifies it in any case; one that is found damaged ends all trust in that store.
"""

import json
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.data.private_folder import private_folder
from pipeline.data.whole_files import replace_file
from pipeline.digests import sha256
from pipeline.errors import StoreError

if TYPE_CHECKING:
    from pipeline.data.store import File, Store

FORMAT = 1
TRUSTED_FOR_S = 7 * 24 * 3600.0
_FILE = re.compile(r"(?P<key>.+?)(?:\.json|-[0-9a-f]{12}-[^/]+)")  # of a commit: see `Store.commit`


class Verified:
    """The commits under a folder of a store, and what was learnt of each when it was last verified.

    Args:
        store: the store.
        prefix: the folder, listed once.
    """

    def __init__(self, store: "Store", prefix: str) -> None:
        self._files = _by_commit(store.files(prefix))
        folder = _folder(store.uri)
        self._path = None if folder is None else folder / f"{sha256(prefix.encode())[:32]}.json"
        self._vouched = {} if self._path is None else _read(self._path)
        self._is_new = False

    def commits(self) -> list[str]:
        """The keys of those that are there."""
        return [key for key, files in self._files.items() if any(name == f"{key}.json" for name, _, _ in files)]

    def find(self, key: str) -> Any:
        """What was learnt of a commit, if nothing has happened to it since; else None."""
        entry = self._vouched.get(key)
        if entry is None or entry["files"] != self._files.get(key) or time.time() - entry["at"] > TRUSTED_FOR_S:
            return None
        return entry["learnt"]

    def add(self, key: str, learnt: Any) -> None:
        """A commit was read and is whole.

        Args:
            learnt: JSON, not None.
        """
        self._vouched[key] = {"files": self._files[key], "at": time.time(), "learnt": learnt}
        self._is_new = True

    def save(self) -> None:
        """Keeps it for the next run. Where that cannot be, the next run reads more."""
        if self._is_new and self._path is not None:
            there = {key: entry for key, entry in self._vouched.items() if key in self._files}
            with suppress(OSError):
                replace_file(self._path, json.dumps({"format": FORMAT, "commits": there}).encode())


def distrust(uri: str) -> None:
    """Forgets all that was verified of a store."""
    folder = _folder(uri)
    for path in () if folder is None else folder.glob("*.json"):
        with suppress(OSError):
            path.unlink()


def _folder(uri: str) -> Path | None:
    """None where this user has no place for it."""
    try:
        return private_folder("verified") / sha256(uri.encode())[:32]
    except StoreError:
        return None


def _by_commit(files: "Iterable[File]") -> dict[str, list[list[Any]]]:
    """The name, size and time of each file of a commit, as JSON knows them."""
    found: dict[str, list[list[Any]]] = {}
    for file in files:
        if match := _FILE.fullmatch(file.key):
            found.setdefault(match["key"], []).append([file.key, file.size, file.modified])
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
        return dict(content["commits"]) if content["format"] == FORMAT else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
