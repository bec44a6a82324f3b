"""Folders that belong to this user alone: what lies there may be run as native code."""

import os
import stat
from pathlib import Path

from pipeline.errors import StoreError


def private_folder(name: str) -> Path:
    """`sigmasweep/<name>` in the user's cache (XDG_CACHE_HOME, or else `~/.cache`), of mode 0700.

    Raises:
        StoreError: it cannot be made, or somebody else could have written into it.
    """
    cache = os.environ.get("XDG_CACHE_HOME")
    path = (Path(cache) if cache else Path.home() / ".cache") / "sigmasweep" / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        mend = "set XDG_CACHE_HOME to a folder of your own"
        raise StoreError(path, f"cannot be made ({error.strerror or error}): {mend}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise StoreError(path, "must be a folder of this user, since compiled code is run from it: remove it")
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise StoreError(
            path, "is open to other users, and compiled code is run from it: empty it, then `chmod 700` it"
        )
    return path
