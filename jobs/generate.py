"""Images from checkpoints under many sampler settings: `python -m jobs.generate CONFIG.yaml`."""

import sys
from pathlib import Path

from jobs import cli
from jobs.context import cost, engine_actors, engine_points, engine_seeds, namespace, open_store
from pipeline.config.settings import GenerateJob
from pipeline.data.samples import export_png
from pipeline.data.store import Store
from pipeline.engine.generation import generate
from pipeline.engine.session import session


def main(settings: GenerateJob) -> None:
    store, seeds = open_store(settings), engine_seeds(settings.seeds)
    with session():
        results = generate(
            store,
            engine_points(settings),
            seeds,
            settings.execution,
            engine_actors(settings),
            namespace=namespace(settings),
        )
    for result in results:
        print(
            f"{result.point.name}: {result.generated:,} images generated, {result.reused:,} were there; "
            f"NFE {result.nfe:g}; samples/{result.samples_digest}"
        )
        if settings.export:
            folder = Path(settings.export) / result.point.name.replace(", ", "_").replace("/", "_").replace(" ", "-")
            export_png(store, result.samples_digest, seeds.first, seeds.count, folder)
            print(f"  written to {folder}")


def dry_run(settings: GenerateJob) -> list[str]:
    return cost(Store(settings.store), settings, engine_points(settings))


if __name__ == "__main__":
    sys.exit(cli.run(GenerateJob, main, __doc__, dry_run))
