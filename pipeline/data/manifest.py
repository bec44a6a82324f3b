"""Manifests: what a commit of the store holds, and the digests by which damage to it is found."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.data.formats import check_format, kind_of
from pipeline.digests import canonical, sha256
from pipeline.errors import StoreError

FORMAT = 1  # of manifests. Whatever comes: `sha256` is that of the rest, and `format` a number


@dataclass(frozen=True)
class Blob:
    """One file of a commit: where it lies in the store, and what it must hold."""

    key: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Manifest:
    """A commit: its key, its files by name, what its writer wants to say of them (JSON), and the format of all that."""

    key: str
    blobs: Mapping[str, Blob]
    meta: Mapping[str, Any] = field(default_factory=dict)
    content_format: int = 1

    def to_bytes(self) -> bytes:
        formats = {"format": FORMAT, "content_format": self.content_format}
        body = {**formats, "key": self.key, "blobs": dict(self.blobs), "meta": self.meta}
        return json.dumps(
            {"sha256": sha256(canonical(body).encode()), **json.loads(canonical(body))}, indent=1
        ).encode()

    @classmethod
    def from_bytes(cls, key: str, data: bytes) -> "Manifest":
        """Raises:
        StoreError: the text is not a manifest, or was changed after it was written.
        NewerFormatError: a later version wrote it.
        """
        try:
            body = json.loads(data)
            if body.pop("sha256") != sha256(canonical(body).encode()):
                raise ValueError("its digest does not match")  # before its format: a flipped bit is no later version
            content_format, kind = body.get("content_format", 1), kind_of(key)
            check_format(f"{key}.json", "a manifest", body["format"], FORMAT)
            check_format(f"{key}.json", kind.name, content_format, kind.format)
            blobs = {name: Blob(**blob) for name, blob in body["blobs"].items()}
            return cls(body["key"], blobs, body["meta"], content_format)
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
