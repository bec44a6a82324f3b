"""Images from checkpoints under many sampler settings: `python -m jobs.generate CONFIG.yaml`."""

import re
import sys
from pathlib import Path

from jobs import cli
from jobs.checkpoints import with_checkpoints
from jobs.context import alone, checked_points, cost, engine_actors, engine_seeds, namespace, open_store, tracked
from pipeline.config.generation import GenerateJob
from pipeline.data.dry_store import DryStore
from pipeline.data.pictures import image_grid
from pipeline.data.samples import export_png, read_samples
from pipeline.data.store import Store
from pipeline.digests import digest
from pipeline.engine.generation import PointResult, generate
from pipeline.engine.point_summary import checkpoint_tags, point_params, point_summary
from pipeline.engine.session import shared_session
from pipeline.reporting import Reporter

PICTURE_SEEDS = 64  # in the picture of a setting


def main(settings: GenerateJob) -> None:
    store, seeds = open_store(settings), engine_seeds(settings.seeds)
    settings = with_checkpoints(store, settings)
    with shared_session():
        points = checked_points(store, settings)
        with tracked(settings) as reporter, alone(store, "generation", settings):
            results = generate(
                store, points, seeds, settings.execution, engine_actors(settings),
                namespace=namespace(settings), on_point=lambda result: _track(store, settings, reporter, result),
            )  # fmt: skip
    for result in results:
        print(
            f"{result.point.name}: {result.generated:,} images generated, {result.reused:,} were there; "
            f"NFE {result.nfe:g}; samples/{result.samples_digest}"
        )
        if result.snapshot.licence is not None:
            print(f"  licence of the weights {result.snapshot.title}: {result.snapshot.licence}")
        if settings.export:
            folder = Path(settings.export) / re.sub(r"[^A-Za-z0-9.=+-]+", "-", result.point.name)
            export_png(store, result.samples_digest, seeds.first, seeds.count, folder)
            print(f"  written to {folder}")


def _track(store: Store, settings: GenerateJob, reporter: Reporter, result: PointResult) -> None:
    """One run a point: its settings, its NFE and its first images."""
    first, count = settings.seeds.first, min(PICTURE_SEEDS, settings.seeds.count)
    tags = {"kind": "samples", "samples": result.samples_digest, **checkpoint_tags(result)}
    with reporter.run(digest({"samples": result.samples_digest}), result.point.name, tags) as run:
        params = point_params(result, engine_seeds(settings.seeds), settings.execution)
        run.params({"point": point_summary(result), **params})
        run.metrics({"nfe": result.nfe}, step=round(result.nfe))
        run.image("samples", image_grid(read_samples(store, result.samples_digest, first, count).images))


def dry_run(settings: GenerateJob) -> list[str]:
    store = DryStore(settings.store)
    return cost(store, with_checkpoints(store, settings))


if __name__ == "__main__":
    sys.exit(cli.run(GenerateJob, main, __doc__, dry_run))
