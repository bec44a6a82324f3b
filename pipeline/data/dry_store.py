"""A store for dry runs: what is there can be read, and what would be written is not."""

from pipeline.data.store import Store


class DryStore(Store):
    """As `Store`, but nothing in it changes: every write, creation and removal counts as done."""

    def __reduce__(self) -> tuple[type["DryStore"], tuple[str]]:
        return (DryStore, (self.uri,))

    def write(self, key: str, data: bytes | memoryview) -> None:
        pass

    def create_if_absent(self, key: str, data: bytes) -> bool:
        return True

    def delete(self, key: str) -> None:
        pass
