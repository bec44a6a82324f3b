"""A grid of sampler settings, measured, timed and compared: `python -m jobs.benchmark CONFIG.yaml`."""

import sys
from dataclasses import replace
from pathlib import Path

from PIL import Image

from jobs import cli
from jobs.checkpoints import with_checkpoints
from jobs.context import (
    alone,
    checked_points,
    cost,
    engine_actors,
    engine_seeds,
    measures_of,
    namespace,
    open_store,
    tracked,
)
from jobs.cost import cost_without_checkpoint
from jobs.report import report_folder, write_report
from jobs.screen import colour_runs, note, print_addresses, view_of
from pipeline.config.benchmarks import BenchmarkJob, BenchmarkSettings
from pipeline.config.job import Job
from pipeline.config.published import Published
from pipeline.data.dry_store import DryStore
from pipeline.data.store import Store
from pipeline.engine.benchmark import benchmark
from pipeline.engine.benchmark_result import BenchmarkResult
from pipeline.engine.session import shared_session
from pipeline.engine.table import Row
from pipeline.errors import CheckpointError
from pipeline.reporting import Reporter
from pipeline.tracking.figures import Point as Mark
from pipeline.tracking.figures import pixels, quality_against_cost
from pipeline.tracking.mlflow_reporter import MlflowReporter


def main(settings: BenchmarkJob) -> None:
    store = open_store(settings)
    settings = with_checkpoints(store, settings)
    with tracked(settings) as reporter:
        with shared_session():
            result = run_benchmark(store, settings, reporter)
        tell(store, result, settings, settings.out, reporter, settings.published)


def run_benchmark(
    store: Store, settings: BenchmarkSettings, reporter: Reporter, own_namespace: str | None = None
) -> BenchmarkResult:
    """Generates, measures and times every point of a sweep.

    Args:
        own_namespace: where `reuse: none` computes; without, in one that nobody used before.

    Raises:
        StoreError: another job is at the same benchmark.
    """
    points = checked_points(store, settings)
    with alone(store, "benchmark", settings):
        measures = measures_of(store, settings, settings.metrics, points)
        result = benchmark(
            store, settings.name, points, engine_seeds(settings.seeds), measures, settings.execution,
            engine_actors(settings), reporter, settings.timing, settings.picture_seeds,
            namespace(settings, own_namespace), keep=settings.keep, trajectory=settings.metrics.trajectory,
            baseline=settings.baseline,
        )  # fmt: skip
    if settings.published is None:
        return result
    return replace(result, notes=(*result.notes, settings.published.beside(result.protocol, result.followed)))


def tell(
    store: Store, result: BenchmarkResult, job: Job, out: str | None, reporter: MlflowReporter,
    published: Published | None = None,
) -> None:  # fmt: skip
    """Table, figure, picture and report: printed, logged as a run of the benchmark's own, and written to a folder."""
    title = next(iter(result.titles.values()))
    marks = [
        Mark(row.solver, row.nfe, row.distance, _steps(row), *row.interval, best=row.pareto) for row in result.rows
    ]
    report = write_report(store, result.digest, report_folder(job.store, out, result.name))
    figure = quality_against_cost(marks, f"{result.name}: quality against NFE", y_label=f"{title} (less is better)")
    tags = {"kind": "benchmark", "benchmark": result.name, **(published.tags() if published else {})}
    view = view_of(result)
    colour_runs(reporter, result)
    with reporter.run(result.digest, result.name, tags) as run:
        run.view(view)
        run.note(note(result.table(), reporter.addresses(view, wait=False), "table.md"))
        run.text(cli.resolved_yaml(job), "settings.yaml")
        run.text(result.table(), "table.md")
        run.text(result.to_csv(), "table.csv")
        run.text(result.to_json(), "table.json")
        if result.classes:
            run.text(result.classes_csv(), "per_class.csv")
        run.text(result.comparisons(), "comparisons.md")
        run.text(report.read_text(encoding="utf-8"), "report.html")
        run.image("quality_against_nfe", pixels(figure))
        run.image("comparison", result.picture)
    if out:
        folder = Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "table.md").write_text(result.table() + "\n", encoding="utf-8")
        (folder / "comparisons.md").write_text(result.comparisons() + "\n", encoding="utf-8")
        (folder / "table.csv").write_text(result.to_csv(), encoding="utf-8")
        (folder / "table.json").write_text(result.to_json() + "\n", encoding="utf-8")
        if result.classes:
            (folder / "per_class.csv").write_text(result.classes_csv(), encoding="utf-8")
        (folder / "quality_against_nfe.png").write_bytes(figure)
        Image.fromarray(result.picture).save(folder / "comparison.png")
        (folder / "settings.yaml").write_text(cli.resolved_yaml(job), encoding="utf-8")
    print(f"\n{result.table()}\n\n{result.comparisons()}\n")
    print(f"{result.generated:,} images were generated; all others were in the store.")
    print(f"Report: {report}")
    if out:
        print(f"Table, figure and picture: {out}")
    is_sent = reporter.flush()
    print_addresses(reporter, reporter.addresses(view, result.run_keys, result.digest, wait=is_sent))


def _steps(row: Row) -> str:
    return "adaptive" if row.num_steps is None else str(row.num_steps)


def dry_run(settings: BenchmarkJob) -> list[str]:
    published = [str(settings.published)] if settings.published else []
    store = DryStore(settings.store)
    try:
        return cost(store, with_checkpoints(store, settings)) + published
    except CheckpointError as error:
        return cost_without_checkpoint(settings, error) + published


if __name__ == "__main__":
    sys.exit(cli.run(BenchmarkJob, main, __doc__, dry_run))
