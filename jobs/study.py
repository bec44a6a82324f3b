"""Prepares, trains and benchmarks, each unless it is done already: `python -m jobs.study CONFIG.yaml`."""

import sys

from jobs import cli
from jobs.benchmark import run_benchmark, tell
from jobs.checkpoints import with_checkpoints
from jobs.context import open_store, tracked
from jobs.cost import training_cost
from jobs.prepare import prepare_dataset
from jobs.registration import register
from jobs.train import run_training
from pipeline.config.benchmarks import BenchmarkSettings
from pipeline.config.studies import StudyJob
from pipeline.data.dry_store import DryStore
from pipeline.engine.session import shared_session
from pipeline.errors import DataError


def main(settings: StudyJob) -> None:
    store = open_store(settings)
    for dataset in settings.prepare:
        prepare_dataset(store, dataset)
    with tracked(settings) as reporter:
        with shared_session():
            trained = run_training(store, settings.train, reporter)
            print(f"trained {trained.training}: {trained.num_images:,} images seen")
            unregistered = register(store, trained.training, trained.key, settings.train.register_as, reporter)
            settings = with_checkpoints(store, settings)  # now, as one may be what was just registered
            result = run_benchmark(store, of_training(settings, trained.training), reporter)
        tell(store, result, settings, settings.out, reporter, settings.benchmark.published)
    if unregistered is not None:
        raise unregistered


def of_training(settings: StudyJob, training: str) -> BenchmarkSettings:
    """The study's benchmark with its checkpoint filled in: the training just made."""
    content = settings.benchmark.model_dump()
    if not content["checkpoint"]["training"]:
        content["checkpoint"]["training"] = training
    return BenchmarkSettings.model_validate(content)


def dry_run(settings: StudyJob) -> list[str]:
    count, points = settings.benchmark.seeds.count, len(settings.benchmark.points)
    kimg = settings.train.training.duration_kimg
    try:
        cost = training_cost(DryStore(settings.store), settings.train)
    except DataError:  # the data set is not made yet, and `train.expects` does not tell of it
        cost = []
    return [
        f"prepares {len(settings.prepare)} data sets, trains on {kimg:g} thousand images, "
        f"then {points} settings x {count:,} images",
        *cost,
    ]


if __name__ == "__main__":
    sys.exit(cli.run(StudyJob, main, __doc__, dry_run))
