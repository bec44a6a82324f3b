"""A checkpoint that was made becomes a version of a registered model, once, whatever the tracker does meanwhile."""

import tempfile
from pathlib import Path

from pipeline.config.checkpoints import RegisterSettings
from pipeline.data.store import Store
from pipeline.errors import CheckpointError, RunFailedError, UserError
from pipeline.tracking import names
from pipeline.tracking.links import readable
from pipeline.tracking.mlflow_reporter import MlflowReporter
from pipeline.tracking.model_files import write_model
from pipeline.tracking.registry import Registry
from pipeline.tracking.versions import Registrable, Version
from pipeline.training.snapshot import CheckpointRef, Snapshot, find_snapshot

FLUSH_SECONDS = 120.0  # that a tracker which answers may take for what was reported


def register(
    store: Store, training: str, key: str, settings: RegisterSettings | None, reporter: MlflowReporter
) -> RunFailedError | None:  # fmt: skip
    """Registers the newest checkpoint of a training, unless that was done before.

    Args:
        training: its folder.
        key: of its run.
        settings: None, and nothing is done.

    Returns:
        What hindered it, such as a tracker that is away: to be raised when all else is done. The checkpoint is in the
        store, and the same command goes on from there.

    Raises:
        CheckpointError: there are no such weights.
    """
    if settings is None:
        return None
    snapshot = find_snapshot(store, CheckpointRef(training, ema=settings.ema))
    try:
        version = _registered(store, snapshot, key, settings, reporter)
    except UserError as error:
        again = f"{snapshot.title} is kept and not registered yet: run the same command again, it goes on from here"
        return RunFailedError(error.where, f"{error.problem}; {again}")
    print(f"registered {snapshot.title} as {version.address}")
    return None


def _registered(
    store: Store, snapshot: Snapshot, key: str, settings: RegisterSettings, reporter: MlflowReporter
) -> Version:  # fmt: skip
    registry, checkpoint = Registry(reporter.tracking_uri), Registrable.of(store, snapshot)
    registry.check()  # a server that is away is told at once; one that answers gets the time it needs
    reporter.flush(FLUSH_SECONDS)  # the run must be there
    version = registry.find(settings.name, checkpoint)
    if version is None:
        run_id = _run_id(registry, snapshot, key, reporter)
        with tempfile.TemporaryDirectory(prefix="sigmasweep-") as folder:
            files = Path(folder) / "model"
            write_model(store, snapshot, files)
            version = registry.register(
                settings.name, checkpoint, run_id, files, _description(snapshot), _tags(snapshot)
            )
    if settings.alias is not None and registry.aliases(settings.name).get(settings.alias, 0) < version.version:
        registry.set_alias(settings.name, settings.alias, version.version)  # never back to an older one
    return version


def _run_id(registry: Registry, snapshot: Snapshot, key: str, reporter: MlflowReporter) -> str:
    """Of the run that the files become artifacts of; made where a training was told to another tracker.

    Raises:
        CheckpointError: it is not at the tracker yet.
    """
    run_id = registry.run_id(reporter.experiment, key)
    if not run_id:
        tags = {names.KIND: "training", names.TRAINING: snapshot.training}
        with reporter.run(key, snapshot.training, tags):
            pass
        reporter.flush(FLUSH_SECONDS)
        run_id = registry.run_id(reporter.experiment, key)
    if not run_id:
        raise CheckpointError(snapshot.training, f"its run is not at {readable(registry.tracking_uri)} yet")
    return run_id


def _description(snapshot: Snapshot) -> str:
    dataset = snapshot.dataset.get("name")
    licence = f"; licence of the weights: {snapshot.licence}" if snapshot.licence else ""
    return f"{snapshot.title}{f', trained on {dataset}' if dataset else ''}{licence}"


def _tags(snapshot: Snapshot) -> dict[str, str]:
    found = {names.DATASET: snapshot.dataset.get("name"), names.LICENCE: snapshot.licence}
    return {key: str(value) for key, value in found.items() if value}
