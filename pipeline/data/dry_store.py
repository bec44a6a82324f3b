"""A store for dry runs: what is there can be read, and what would be written is not."""

from pathlib import Path

from pipeline.data.manifest import Manifest
from pipeline.data.store import Store


class DryStore(Store):
    """As `Store`, but nothing in it changes: every write, creation and removal counts as done. Manifests that would
    have been written are remembered, so that what else depends on them can be looked at; their blobs are not."""

    def __init__(self, uri: str | Path) -> None:
        super().__init__(uri)
        self._remembered: dict[str, bytes] = {}

    def __reduce__(self) -> tuple[type["DryStore"], tuple[str]]:
        return (DryStore, (self.uri,))

    def write(self, key: str, data: bytes | memoryview) -> None:
        if key.endswith(".json"):
            self._remembered[key] = bytes(data)

    def create_if_absent(self, key: str, data: bytes) -> bool:
        return True

    def delete(self, key: str) -> None:
        pass

    def keys(self, prefix: str) -> list[str]:
        remembered = {key for key in self._remembered if key.startswith(f"{prefix}/")}
        return sorted({*super().keys(prefix), *remembered})

    def find(self, key: str) -> Manifest | None:
        data = self._remembered.get(f"{key}.json")
        return super().find(key) if data is None else Manifest.from_bytes(key, data)
