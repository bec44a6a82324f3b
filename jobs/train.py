"""Trains a model on Ray, or goes on with one: `python -m jobs.train CONFIG.yaml`."""

import sys

from jobs import cli
from jobs.context import open_reporter, open_store, tracked
from pipeline.config.settings import TrainJob, TrainSettings
from pipeline.data.dataset import Dataset
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


def run_training(store: Store, settings: TrainSettings, reporter: Reporter) -> TrainingResult:
    """Trains until the settings' duration; returns at once where that was reached before."""
    return train(store, settings.dataset, settings.model, settings.training, settings.workers, reporter, settings.name)


def dry_run(settings: TrainJob) -> list[str]:
    store = Store(settings.store)
    dataset = Dataset.open(store, settings.dataset)
    model = resolve_model(settings.model, dataset.info)
    job = TrainingJob(settings.name, store, dataset, model, settings.training, open_reporter(settings))
    network = model.network.build(model.resolution, model.channels, model.num_classes)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    steps = job.num_images // settings.training.batch_size
    return [
        f"{parameters:,} parameters; {job.num_images:,} images in {steps:,} steps",
        f"sigma_data {model.sigma_data:.4f}",
        f"checkpoints/{job.folder}",
    ]


if __name__ == "__main__":
    sys.exit(cli.run(TrainJob, main, __doc__, dry_run))
