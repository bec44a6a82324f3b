"""Trains a model on Ray, or goes on with one: `python -m jobs.train CONFIG.yaml`."""

import sys

from jobs import cli
from jobs.context import open_reporter, open_store, tracked
from jobs.cost import check_expected, training_cost
from jobs.registration import register
from pipeline.config.trainings import TrainJob, TrainSettings
from pipeline.data.dataset import Dataset
from pipeline.data.dry_store import DryStore
from pipeline.data.store import Store
from pipeline.engine.training import train
from pipeline.reporting import Reporter
from pipeline.training.identity import resolve_model
from pipeline.training.job import TrainingJob, TrainingResult


def main(settings: TrainJob) -> None:
    store = open_store(settings)
    with tracked(settings) as reporter:
        result = run_training(store, settings, reporter)
        print(f"trained {result.training}: {result.num_images:,} images seen, {len(result.snapshots)} snapshots")
        unregistered = register(store, result.training, result.key, settings.register_as, reporter)
    if unregistered is not None:
        raise unregistered


def run_training(store: Store, settings: TrainSettings, reporter: Reporter) -> TrainingResult:
    """Trains until the settings' duration; returns at once where that was reached before.

    Raises:
        DataError: the data set is not there, or not what the settings expect.
    """
    check_expected(settings, Dataset.open(store, settings.dataset).info)
    tags = settings.published.tags() if settings.published else {}
    return train(
        store, settings.dataset, settings.model, settings.training, settings.workers, reporter, settings.name, tags
    )


def dry_run(settings: TrainJob) -> list[str]:
    store = DryStore(settings.store)
    lines = training_cost(store, settings)
    if Dataset.is_there(store, settings.dataset):
        dataset = Dataset.open(store, settings.dataset)
        check_expected(settings, dataset.info)
        model = resolve_model(settings.model, dataset.info)
        job = TrainingJob(settings.name, store, dataset, model, settings.training, open_reporter(settings))
        lines += [f"sigma_data {model.sigma_data:.4f}", f"checkpoints/{job.folder}"]
    return lines


if __name__ == "__main__":
    sys.exit(cli.run(TrainJob, main, __doc__, dry_run))
