"""Manifests: what a commit of the store holds, and the digests by which damage to it is found."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.digests import canonical, sha256
from pipeline.errors import StoreError

DAMAGED = "damaged"  # the folder of what was set aside
FORMAT = 1  # of manifests; a reader refuses what it does not know


@dataclass(frozen=True)
class Blob:
    """One file of a commit: where it lies in the store, and what it must hold."""

    key: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Manifest:
    """A commit: its key, its files by name, and what its writer wants to say of them (JSON)."""

    key: str
    blobs: Mapping[str, Blob]
    meta: Mapping[str, Any] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        body = {"format": FORMAT, "key": self.key, "blobs": dict(self.blobs), "meta": self.meta}
        return json.dumps(
            {"sha256": sha256(canonical(body).encode()), **json.loads(canonical(body))}, indent=1
        ).encode()

    @classmethod
    def from_bytes(cls, key: str, data: bytes) -> "Manifest":
        """Raises:
        StoreError: the text is not a manifest of this format, or was changed after it was written.
        """
        try:
            body = json.loads(data)
            claimed, known = body.pop("sha256"), body["format"] == FORMAT
            if not known:
                raise StoreError(f"{key}.json", f"format {body['format']!r} is not known to this version ({FORMAT})")
            if claimed != sha256(canonical(body).encode()):
                raise ValueError("its digest does not match")
            found = cls(body["key"], {name: Blob(**blob) for name, blob in body["blobs"].items()}, body["meta"])
            _check_places(found, key)
            return found
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise StoreError(f"{key}.json", f"the manifest is damaged ({error})") from error


def _check_places(manifest: Manifest, key: str) -> None:
    """A forged manifest shall name nothing but its own files: what it names may be deleted.

    Raises:
        ValueError: it names another commit's, or something outside of the store.
    """
    if manifest.key != key and not key.startswith(f"{DAMAGED}/{manifest.key}-"):
        raise ValueError(f"it is that of {manifest.key!r}")
    for blob in manifest.blobs.values():
        name = blob.key.removeprefix(f"{manifest.key}-")
        if name == blob.key or "/" in name or "\\" in name:
            raise ValueError(f"it names a file that is not its own, {blob.key!r}")
