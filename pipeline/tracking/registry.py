"""MLflow's model registry: a checkpoint is registered once, and found by `models:/name/3`, `@alias` or the name alone.

A version's tags say where its checkpoint lies and what digests it must have; its files (safetensors and JSON) lie among
the artifacts of the run that made it.
"""

import difflib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.errors import CheckpointError
from pipeline.tracking import links, names
from pipeline.tracking.client import TrackingClient, verdict
from pipeline.tracking.versions import ModelAddress, Registrable, Version, version_of

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

Result = TypeVar("Result")

TRIES = 5  # of a request whose reply was lost; each may be repeated without harm
FIRST_WAIT_SECONDS = 0.3  # between tries, doubled each time
UPLOAD_TIMEOUT_SECONDS = 600  # that a server may be silent while it stores a file


class Registry:
    """The registered models of one tracking server.

    Args:
        tracking_uri: of a server (http, https) or a database (sqlite).

    Raises:
        UserError: the address names plain files.
    """

    def __init__(self, tracking_uri: str) -> None:
        self.tracking_uri = links.absolute_uri(tracking_uri)

    # -- finding ---------------------------------------------------------------------------------------------------

    def resolve(self, address: str) -> Version:
        """The version that an address names.

        Raises:
            SettingsError: it is no such address.
            CheckpointError: there is no such model, version or alias; it is none of ours; or the server is away.
        """
        wanted = ModelAddress.parse(address)
        if wanted.alias is None and wanted.version is None:
            return self.newest(wanted.name)
        number = wanted.version
        if wanted.alias is not None:
            aliases = self.aliases(wanted.name)
            if wanted.alias not in aliases:
                there = ", ".join(f"@{alias}" for alias in sorted(aliases)) or "none"
                raise CheckpointError(address, f"the model {wanted.name} has no such alias (it has: {there})")
            number = aliases[wanted.alias]
        numbers = {int(version.version): version for version in self._all(wanted.name)}
        if number not in numbers:
            there = ", ".join(map(str, sorted(numbers))) or "none"
            raise CheckpointError(address, f"the model {wanted.name} has no version {number} (it has: {there})")
        return version_of(numbers[number])

    def newest(self, name: str) -> Version:
        """The version of the highest number.

        Raises:
            CheckpointError: there is no such model, or it has no versions; or the server is away.
        """
        found = self._all(name)
        if not found:
            raise CheckpointError(f"models:/{name}", "the model has no versions")
        return version_of(found[-1])

    def versions(self, name: str) -> list[Version]:
        """Those of our making, ascending.

        Raises:
            CheckpointError: there is no such model, or the server is away.
        """
        ours = [found for found in self._all(name) if names.CHECKPOINT_DIGEST in found.tags]
        return [version_of(found) for found in ours]

    def aliases(self, name: str) -> dict[str, int]:
        """The numbers of the versions that aliases stand for.

        Raises:
            CheckpointError: there is no such model, or the server is away.
        """
        return {alias: int(version) for alias, version in self._model(name).aliases.items()}

    def models(self) -> list[str]:
        """The names of all registered models, sorted."""
        with self._asking(self.tracking_uri):
            return sorted(model.name for model in _pages(self._client.search_registered_models))

    # -- changing --------------------------------------------------------------------------------------------------

    def register(
        self, name: str, checkpoint: Registrable, run_id: str, files: Path, description: str = "",
        tags: Mapping[str, str] | None = None,
    ) -> Version:  # fmt: skip
        """Makes a checkpoint a version of a model; one that is a version of it already stays that version.

        Neither a lost reply nor two processes at once make two versions: the version of a digest is searched for, else
        created, and searched for again; of several the first is kept. Files go first, so a version is whole.

        Args:
            name: of the model; made where it is missing.
            run_id: of the run that made the checkpoint, whose artifacts the files become.
            files: a folder; see `pipeline.tracking.model_files`.
            tags: beside those that name the checkpoint.

        Raises:
            CheckpointError: the server is away, or refuses.
        """
        where = f"models:/{name}"
        with self._asking(where):
            found = self._patiently(lambda: self._of(name, checkpoint.digest)) if self._is_there(name) else []
            if not found:
                self._upload(run_id, files, checkpoint.folder)
                self._patiently(lambda: self._create_model(name))
                source = (
                    f"{self._patiently(lambda: self._client.get_run(run_id)).info.artifact_uri}/{checkpoint.folder}"
                )
                whole = {**(tags or {}), **checkpoint.tags()}
                found = [self._patiently(lambda: self._once(name, checkpoint, source, run_id, whole, description))]
        return version_of(found[0])

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Has an alias stand for a version from now on.

        Raises:
            CheckpointError: there is no such model or version, or the server is away.
        """
        if version not in {int(found.version) for found in self._all(name)}:
            raise CheckpointError(f"models:/{name}/{version}", "there is no such version")
        with self._asking(f"models:/{name}@{alias}"):
            self._patiently(lambda: self._client.set_registered_model_alias(name, alias, str(version)))

    def download(self, version: Version, folder: Path) -> Path:
        """Copies the files of a version into a folder that is there, and returns where they lie in it.

        Raises:
            CheckpointError: they are not there, or the server is away.
        """
        with self._asking(version.address):
            return Path(self._client.download_artifacts(version.run_id, version.folder, str(folder)))

    # -- within ----------------------------------------------------------------------------------------------------

    @cached_property
    def _client(self) -> "MlflowClient":
        return TrackingClient(self.tracking_uri, "").mlflow

    def _model(self, name: str) -> Any:
        address = f"models:/{name}"
        self._check_database(address)
        with self._asking(address):
            found = self._patiently(lambda: _or_none(lambda: self._client.get_registered_model(name)))
        if found is None:
            known = self.models()
            close = difflib.get_close_matches(name, known, n=1)
            mend = f"did you mean {close[0]}?" if close else f"there are: {', '.join(known[:20]) or 'none'}"
            raise CheckpointError(address, f"no such model is registered at {self._title}; {mend}")
        return found

    def _all(self, name: str) -> list[Any]:
        """MLflow's versions of a model, ascending."""
        self._model(name)
        with self._asking(f"models:/{name}"):
            return self._patiently(lambda: self._search(f"name = '{name}'"))

    def _is_there(self, name: str) -> bool:
        return self._patiently(lambda: _or_none(lambda: self._client.get_registered_model(name))) is not None

    def _of(self, name: str, digest: str) -> list[Any]:
        return self._search(f"name = '{name}' and tags.`{names.CHECKPOINT_DIGEST}` = '{digest}'")

    def _search(self, wanted: str) -> list[Any]:
        found = _pages(lambda **page: self._client.search_model_versions(wanted, **page))
        return sorted(found, key=lambda version: int(version.version))

    def _create_model(self, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _once(
        self, name: str, checkpoint: Registrable, source: str, run_id: str, tags: Mapping[str, str], description: str
    ) -> Any:  # fmt: skip
        found = self._of(name, checkpoint.digest)
        if not found:
            self._client.create_model_version(name, source, run_id, dict(tags), None, description, await_creation_for=0)
            found = self._of(name, checkpoint.digest)
        for twin in found[1:]:
            _or_none(lambda number=twin.version: self._client.delete_model_version(name, number))
        return found[0]

    def _upload(self, run_id: str, files: Path, folder: str) -> None:
        """Each file under its own name, so that one sent again replaces itself."""
        with _environment(MLFLOW_HTTP_REQUEST_TIMEOUT=str(UPLOAD_TIMEOUT_SECONDS)):
            for path in sorted(path for path in files.rglob("*") if path.is_file()):
                parent = f"{folder}/{path.parent.relative_to(files)}".removesuffix("/.")
                self._patiently(lambda path=path, parent=parent: self._client.log_artifact(run_id, str(path), parent))

    def _patiently(self, request: Callable[[], Result]) -> Result:
        """The answer to a request that may be repeated; a reply that is lost costs a moment."""
        wait = FIRST_WAIT_SECONDS
        for _ in range(TRIES - 1):
            try:
                return request()
            except Exception as error:
                if verdict(error) != "unreachable" or _is_denied(error):
                    raise
            time.sleep(wait)
            wait *= 2
        return request()

    def _check_database(self, address: str) -> None:
        """Looking into a sqlite database that is not there would make it."""
        path = links.database_path(self.tracking_uri)
        if path is not None and not path.exists():
            raise CheckpointError(address, f"no model is registered: {self._title} is not there; set tracking_uri")

    @property
    def _title(self) -> str:
        return links.readable(self.tracking_uri)

    @contextmanager
    def _asking(self, where: str) -> Iterator[None]:
        """Every trouble with the server as one sentence."""
        try:
            yield
        except CheckpointError:
            raise
        except Exception as error:
            line = links.redacted(str(error).strip() or type(error).__name__, self.tracking_uri).splitlines()[0][:200]
            if _is_denied(error):
                mend = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to a user who may"
                raise CheckpointError(where, f"{self._title} refuses: {mend} ({line})") from error
            if verdict(error) == "unreachable":
                raise CheckpointError(
                    where, f"{self._title} cannot be reached: start it, or set tracking_uri ({line})"
                ) from error
            raise CheckpointError(where, f"{self._title} refuses ({line})") from error


def _pages(search: Callable[..., Any]) -> list[Any]:
    """All that a search finds."""
    found = search(max_results=1000)
    everything = list(found)
    while found.token:
        found = search(max_results=1000, page_token=found.token)
        everything.extend(found)
    return everything


def _or_none(request: Callable[[], Result]) -> Result | None:
    """The answer, or None where what was asked for is not there."""
    try:
        return request()
    except Exception as error:
        if verdict(error) != "gone":
            raise
        return None


def _is_denied(error: Exception) -> bool:
    return getattr(error, "error_code", "") in ("PERMISSION_DENIED", "UNAUTHENTICATED")


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Within it, variables have other values."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                with suppress(KeyError):
                    del os.environ[name]
            else:
                os.environ[name] = value
