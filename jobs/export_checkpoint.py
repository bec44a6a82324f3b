"""A checkpoint as a folder to give away: `python -m jobs.export_checkpoint CONFIG.yaml`."""

import sys

from jobs import cli
from jobs.checkpoints import with_checkpoints
from pipeline.config.transfer import ExportCheckpointJob
from pipeline.data.dry_store import DryStore
from pipeline.data.store import Store
from pipeline.training.importing import export_folder
from pipeline.training.snapshot import find_snapshot


def main(settings: ExportCheckpointJob) -> None:
    store = Store(settings.store)
    settings = with_checkpoints(store, settings)
    names = export_folder(store, settings.checkpoint.ref(), settings.folder, settings.licence)
    print(f"exported {', '.join(names)} to {settings.folder}; jobs.import_checkpoint reads it")


def dry_run(settings: ExportCheckpointJob) -> list[str]:
    store = DryStore(settings.store)
    settings = with_checkpoints(store, settings)
    snapshot = find_snapshot(store, settings.checkpoint.ref())
    return [f"exports {snapshot.title} to {settings.folder}"]


if __name__ == "__main__":
    sys.exit(cli.run(ExportCheckpointJob, main, __doc__, dry_run))
