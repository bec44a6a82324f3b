"""Where settings name a checkpoint by an address: it is found, verified, and brought into the store, once.

What takes the address's place is the checkpoint's title in this store, so what is computed with it, and what is told of
it, does not depend on how it was named.
"""

import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pipeline.config.checkpoints import CheckpointSettings, is_address
from pipeline.config.job import Job
from pipeline.config.load import validate
from pipeline.data.store import Store
from pipeline.errors import CheckpointError
from pipeline.tracking.links import default_tracking_uri
from pipeline.tracking.registry import Registry
from pipeline.tracking.versions import Version
from pipeline.training.copies import copy_exported, copy_snapshot, find_equal, name_of
from pipeline.training.importing.own_folder import is_own
from pipeline.training.snapshot import LATEST, CheckpointRef, Snapshot, find_snapshot

Settings = TypeVar("Settings", bound=Job)

_KEYS = ("checkpoint", "guide")
_IN_STORE = re.compile(r"(?P<root>[^?]*)/checkpoints/(?P<name>[^?]+?)/?(?P<query>\?.*)?")
_SNAPSHOT = re.compile(r"(?P<training>[^/@]+)/snapshots/0*(?P<at>\d+)(\.json)?")


def with_checkpoints(store: Store, settings: Settings) -> Settings:
    """The settings with titles of checkpoints of the store in the place of addresses, in sweeps and spaces too.

    Args:
        store: gets a copy of what lies elsewhere.
        settings: of a job.

    Raises:
        UserError: an address is wrong, nothing is there, the tracker is away, or a digest is not what it must be.
    """
    finder = Finder(store, settings.tracking_uri or default_tracking_uri(settings.store))
    found = _replaced(settings.model_dump(mode="json"), finder, within=False)
    for part in (found, found.get("benchmark", {})):
        if part.get("baseline"):  # the name of a setting, which may hold an address; a longer one may hold a shorter
            for address in sorted(finder.told, key=len, reverse=True):
                part["baseline"] = part["baseline"].replace(address, finder.told[address])
    return type(settings).model_validate(found) if finder.told else settings


def title_of(store: Store, checkpoint: CheckpointSettings, tracking_uri: str) -> str:
    """What a store calls the weights that settings name; brought into it where they lie elsewhere.

    Raises:
        UserError: as `with_checkpoints`.
    """
    name = checkpoint.training
    if is_address(name):
        found = Finder(store, tracking_uri).name(name, checkpoint.at)
        checkpoint = CheckpointSettings(training=found, ema=checkpoint.ema)
    return name_of(find_snapshot(store, checkpoint.ref()))


def _replaced(value: Any, finder: "Finder", within: bool) -> Any:
    """A copy of nested settings; `within` says that this is under a key that names a checkpoint."""
    if isinstance(value, Mapping):
        if within and is_address(str(value.get("training") or "")):
            return {**value, "training": finder.name(value["training"], value.get("at", LATEST)), "at": LATEST}
        return {key: _replaced(item, finder, within or key.split(".")[0] in _KEYS) for key, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item, finder, within) for item in value]
    return finder.name(value) if within and isinstance(value, str) and is_address(value) else value


class Finder:
    """Finds checkpoints by their addresses, each once.

    Args:
        store: where they must be in the end.
        tracking_uri: of the tracker that is asked for models and runs.
    """

    def __init__(self, store: Store, tracking_uri: str) -> None:
        self.told: dict[str, str] = {}  # by address, what the store calls it
        self._store = store
        self._tracking_uri = tracking_uri
        self._found: dict[tuple[str, int | str], str] = {}

    def name(self, address: str, at: int | str = LATEST) -> str:
        """What the store calls the checkpoint of an address.

        Args:
            at: images seen, where the address is of a training.
        """
        if (address, at) not in self._found:
            name = self._found[address, at] = self.told[address] = name_of(self._find(address, at))
            print(f"{address} is {name}", file=sys.stderr)
        return self._found[address, at]

    def _find(self, address: str, at: int | str) -> Snapshot:
        if address.startswith("models:"):
            return self._of_model(address)
        if address.startswith("runs:"):
            return self._of_run(address, at)
        if "://" not in address and is_own(Path(address).expanduser()):
            return copy_exported(Path(address).expanduser(), self._store)
        return self._of_store(address, at)

    def _of_model(self, address: str) -> Snapshot:
        registry = Registry(self._tracking_uri)
        version = registry.resolve(address)
        found = find_equal(
            self._store, version.training, version.num_images, version.weights_sha256, version.model_digest
        )
        return found or self._downloaded(registry, version)

    def _downloaded(self, registry: Registry, version: Version) -> Snapshot:
        with tempfile.TemporaryDirectory(prefix="sigmasweep-") as folder:
            files = registry.download(version, Path(folder))
            try:
                return copy_exported(
                    files, self._store, version.training, (version.weights_sha256, version.model_digest)
                )
            except CheckpointError as error:
                where = error.where.replace(str(files), version.folder)
                raise CheckpointError(f"{version.address}: {where}", error.problem) from error

    def _of_run(self, address: str, at: int | str) -> Snapshot:
        found = Registry(self._tracking_uri).of_run(address)
        try:
            return find_snapshot(self._store, _ref(address, found.name, at))
        except CheckpointError as error:
            if found.store in ("", self._store.title):
                raise
            mend = f"set store, or write {found.store}/checkpoints/{found.name}"
            raise CheckpointError(address, f"its checkpoint {found.name} lies in {found.store}: {mend}") from error

    def _of_store(self, address: str, at: int | str) -> Snapshot:
        match = _IN_STORE.fullmatch(address)
        if match is None:
            forms = "a folder that jobs.export_checkpoint wrote, or STORE/checkpoints/TRAINING of a store"
            raise CheckpointError(address, f"is no checkpoint: name {forms}; jobs.import_checkpoint reads other files")
        source, inside = Store(match["root"] + (match["query"] or "")), _SNAPSHOT.fullmatch(match["name"])
        ref = CheckpointRef(inside["training"], int(inside["at"])) if inside else _ref(address, match["name"], at)
        return find_snapshot(source, ref) if source.uri == self._store.uri else copy_snapshot(source, ref, self._store)


def _ref(address: str, name: str, at: int | str) -> CheckpointRef:
    """Raises:
    UserError: `at` is given, and the name says it already.
    """
    return validate(CheckpointSettings, {"training": name, "at": at}, address).ref()
