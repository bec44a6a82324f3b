"""MLflow's model registry: a checkpoint is registered once, and found by `models:/name/3`, `@alias` or the name alone.

A version's tags say where its checkpoint lies and what digests it must have; its files (safetensors and JSON) lie among
the artifacts of the run that made it.
"""

import difflib
from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import CheckpointError
from pipeline.tracking import links, names
from pipeline.tracking.client import TrackingClient
from pipeline.tracking.patience import asking, environment, or_none, pages, patiently
from pipeline.tracking.versions import (
    ModelAddress,
    Registrable,
    RunCheckpoint,
    Version,
    checkpoint_of_run,
    parse_run,
    version_of,
)

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

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

    def check(self) -> None:
        """Asks a server whether it is there; a database needs none, and may not be made yet.

        Raises:
            CheckpointError: the server is away.
        """
        if links.database_path(self.tracking_uri) is None:
            with asking(self.tracking_uri, self._title):
                patiently(lambda: self._client.search_registered_models(max_results=1))

    def find(self, name: str, checkpoint: Registrable) -> Version | None:
        """The version that a checkpoint is of a model, if it is one.

        Raises:
            CheckpointError: the server is away.
        """
        with asking(self.tracking_uri, f"models:/{name}"):
            found = patiently(lambda: self._of(name, checkpoint.digest))
        return version_of(found[0]) if found else None

    def of_run(self, address: str) -> RunCheckpoint:
        """The checkpoint that a run made or worked with.

        Args:
            address: `runs:/` and the run's id.

        Raises:
            SettingsError: it is no such address.
            CheckpointError: there is no such run, it has no checkpoint, or the server is away.
        """
        run_id = parse_run(address)
        self._check_database(address)
        with asking(self.tracking_uri, address):
            run = patiently(lambda: or_none(lambda: self._client.get_run(run_id)))
        if run is None:
            raise CheckpointError(address, f"there is no such run at {self._title}")
        return checkpoint_of_run(address, run.info.run_name, run.data.tags)

    def run_id(self, experiment: str, key: str) -> str:
        """The id of the run of a key, empty where there is none.

        Raises:
            CheckpointError: the server is away.
        """
        client = TrackingClient(self.tracking_uri, experiment, links.artifact_root(self.tracking_uri))
        with asking(self.tracking_uri, experiment):
            found = patiently(lambda: client.runs_of(names.clean_run_key(key)))
        return str(found[0].info.run_id) if found else ""

    def models(self) -> list[str]:
        """The names of all registered models, sorted."""
        with asking(self.tracking_uri, self._title):
            return sorted(model.name for model in pages(self._client.search_registered_models))

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
        there = self.find(name, checkpoint)
        if there is not None:
            return there
        with asking(self.tracking_uri, f"models:/{name}"):
            self._upload(run_id, files, checkpoint.folder)
            patiently(lambda: self._create_model(name))
            run = patiently(lambda: self._client.get_run(run_id))
            request = {
                "source": f"{run.info.artifact_uri}/{checkpoint.folder}",
                "run_id": run_id,
                "tags": {**(tags or {}), **checkpoint.tags()},
                "description": description,
            }
            found = patiently(lambda: self._once(name, checkpoint.digest, request))
        return version_of(found)

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Has an alias stand for a version from now on.

        Raises:
            CheckpointError: there is no such model or version, or the server is away.
        """
        if version not in {int(found.version) for found in self._all(name)}:
            raise CheckpointError(f"models:/{name}/{version}", "there is no such version")
        with asking(self.tracking_uri, f"models:/{name}@{alias}"):
            patiently(lambda: self._client.set_registered_model_alias(name, alias, str(version)))

    def download(self, version: Version, folder: Path) -> Path:
        """Copies the files of a version into a folder that is there, and returns where they lie in it.

        Raises:
            CheckpointError: they are not there, or the server is away.
        """
        with asking(self.tracking_uri, version.address):
            return Path(self._client.download_artifacts(version.run_id, version.folder, str(folder)))

    # -- within ----------------------------------------------------------------------------------------------------

    @cached_property
    def _client(self) -> "MlflowClient":
        return TrackingClient(self.tracking_uri, "").mlflow

    def _model(self, name: str) -> Any:
        address = f"models:/{name}"
        self._check_database(address)
        with asking(self.tracking_uri, address):
            found = patiently(lambda: or_none(lambda: self._client.get_registered_model(name)))
        if found is None:
            known = self.models()
            close = difflib.get_close_matches(name, known, n=1)
            mend = f"did you mean {close[0]}?" if close else f"there are: {', '.join(known[:20]) or 'none'}"
            raise CheckpointError(address, f"no such model is registered at {self._title}; {mend}")
        return found

    def _all(self, name: str) -> list[Any]:
        """MLflow's versions of a model, ascending."""
        self._model(name)
        with asking(self.tracking_uri, f"models:/{name}"):
            return patiently(lambda: self._search(f"name = '{name}'"))

    def _of(self, name: str, digest: str) -> list[Any]:
        return self._search(f"name = '{name}' and tags.`{names.CHECKPOINT_DIGEST}` = '{digest}'")

    def _search(self, wanted: str) -> list[Any]:
        found = pages(lambda **page: self._client.search_model_versions(wanted, **page))
        return sorted(found, key=lambda version: int(version.version))

    def _create_model(self, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _once(self, name: str, digest: str, request: Mapping[str, Any]) -> Any:
        """The one version of a digest."""
        found = self._of(name, digest)
        if not found:
            self._client.create_model_version(name, **request, await_creation_for=0)
            found = self._of(name, digest)
        for twin in found[1:]:
            or_none(partial(self._client.delete_model_version, name, twin.version))
        return found[0]

    def _upload(self, run_id: str, files: Path, folder: str) -> None:
        """Each file under its own name, so that one sent again replaces itself."""
        with environment(MLFLOW_HTTP_REQUEST_TIMEOUT=str(UPLOAD_TIMEOUT_SECONDS)):
            for path in sorted(path for path in files.rglob("*") if path.is_file()):
                parent = f"{folder}/{path.parent.relative_to(files)}".removesuffix("/.")
                patiently(partial(self._client.log_artifact, run_id, str(path), parent))

    def _check_database(self, address: str) -> None:
        """Looking into a sqlite database that is not there would make it."""
        path = links.database_path(self.tracking_uri)
        if path is not None and not path.exists():
            raise CheckpointError(address, f"no model is registered: {self._title} is not there; set tracking_uri")

    @property
    def _title(self) -> str:
        return links.readable(self.tracking_uri)
