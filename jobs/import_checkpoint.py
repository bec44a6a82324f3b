"""Other people's checkpoints into the store: `python -m jobs.import_checkpoint CONFIG.yaml`. Nothing in them is run."""

import sys

from jobs import cli
from jobs.context import open_store, tracked
from jobs.registration import register
from pipeline.config.transfer import ImportCheckpointJob
from pipeline.data.dataset import Dataset
from pipeline.data.store import Store
from pipeline.digests import digest
from pipeline.errors import SettingsError
from pipeline.training.importing import Found, commit_import, recognise
from pipeline.training.snapshot import CheckpointRef, find_snapshot


def main(settings: ImportCheckpointJob) -> None:
    found = recognise(settings.path)
    licence = licence_of(settings, found)
    store = open_store(settings)
    dataset = None
    if settings.dataset is not None:
        info = Dataset.open(store, settings.dataset).info
        dataset = {"name": info.name, "digest": info.digest}
    folder = commit_import(store, settings.name, found, licence, dataset, settings.num_images)
    print("\n".join(found.lines()))
    print(f"licence of the weights: {licence}")
    print(f"imported: checkpoints/{folder}; sample from it with `checkpoint: {{training: {settings.name}}}`")
    if settings.register_as is not None:
        _register(store, settings, folder)


def _register(store: Store, settings: ImportCheckpointJob, folder: str) -> None:
    """A version needs a run that its files belong to.

    Raises:
        RunFailedError: the tracker is away; the checkpoint is in the store.
    """
    snapshot, key = find_snapshot(store, CheckpointRef(folder)), digest({"import": folder})
    licence = {} if snapshot.licence is None else {"licence": snapshot.licence}
    with tracked(settings) as reporter:
        with reporter.run(key, folder, {"kind": "import", "checkpoint": snapshot.title, **licence}) as run:
            run.params({"origin": snapshot.manifest.meta["settings"]["origin"], "licence": snapshot.licence})
        unregistered = register(store, folder, key, settings.register_as, reporter)
    if unregistered is not None:
        raise unregistered


def licence_of(settings: ImportCheckpointJob, found: Found) -> str:
    """Raises:
    SettingsError: neither the settings nor the file say it.
    """
    licence = settings.licence or found.licence
    if licence is None:
        usual = f"; such weights are usually under {found.usual_licence}" if found.usual_licence else ""
        raise SettingsError(
            "licence", f"must be given, as every run on these weights shows it{usual}: look where you got them"
        )
    return licence


def dry_run(settings: ImportCheckpointJob) -> list[str]:
    found = recognise(settings.path)
    if settings.dataset is not None:
        Dataset.open(Store(settings.store), settings.dataset)
    return [*found.lines(), f"licence of the weights: {licence_of(settings, found)}"]


if __name__ == "__main__":
    sys.exit(cli.run(ImportCheckpointJob, main, __doc__, dry_run))
