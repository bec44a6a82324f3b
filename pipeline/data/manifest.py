"""Manifests: what a commit of the store holds, and the digests by which damage to it is found."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.digests import canonical, sha256
from pipeline.errors import StoreError

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
            return cls(body["key"], {name: Blob(**blob) for name, blob in body["blobs"].items()}, body["meta"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise StoreError(f"{key}.json", f"the manifest is damaged ({error})") from error


def checked_places(manifest: Manifest, key: str) -> Manifest:
    """The manifest that was found under a key, if it names nothing but its own files: what it names may be deleted.

    Raises:
        StoreError: it was forged: it is another's, or names another's files, or some outside of the store.
    """
    names = [blob.key.removeprefix(f"{manifest.key}-") for blob in manifest.blobs.values()]
    foreign = [blob.key for blob in manifest.blobs.values() if not blob.key.startswith(f"{manifest.key}-")]
    foreign += [name for name in names if "/" in name or "\\" in name]
    if manifest.key != key and not key.startswith(f"damaged/{manifest.key}-"):
        foreign.append(manifest.key)
    if foreign:
        raise StoreError(f"{key}.json", f"the manifest is damaged (it names {foreign[0]!r}, which is not its own)")
    return manifest
