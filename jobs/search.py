"""The best sampler settings for a checkpoint, within a budget: `python -m jobs.search CONFIG.yaml`."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from jobs import cli
from jobs.checkpoints import with_checkpoints
from jobs.context import alone, engine_actors, measures_of, open_store, point_of, tracked
from jobs.report import report_folder, summary_key, write_report
from jobs.screen import note, print_addresses, view_of
from pipeline.config.search import SearchJob, SearchSettings
from pipeline.config.space import one_by_one
from pipeline.data.dataset import Dataset
from pipeline.data.dry_store import DryStore
from pipeline.data.store import Store
from pipeline.engine.generation import find_settings
from pipeline.engine.placement import place
from pipeline.engine.search import Search
from pipeline.engine.search_plan import expected_cost
from pipeline.engine.search_result import SearchResult, finish
from pipeline.engine.session import shared_session
from pipeline.engine.work import Point
from pipeline.reporting import Reporter
from pipeline.tracking.figures import Point as Mark
from pipeline.tracking.figures import pixels, quality_against_cost
from pipeline.tracking.mlflow_reporter import MlflowReporter
from pipeline.tracking.views import search_view


def main(settings: SearchJob) -> None:
    store = open_store(settings)
    settings = with_checkpoints(store, settings)
    check(store, settings)
    with tracked(settings) as reporter:
        with shared_session():
            result = run_search(store, settings, reporter)
        tell(store, result, settings, reporter)


def run_search(store: Store, settings: SearchSettings, reporter: Reporter, progress: bool = True) -> SearchResult:
    """Searches until the budget is spent, or goes on with a search that was begun, and measures the front on fresh
    seeds."""
    to_point, actors = point_maker(settings), engine_actors(settings)
    measures = measures_of(store, settings, settings.metrics, check(store, settings))
    with alone(store, "search", settings):
        search = Search(store, settings, to_point, measures, reporter, actors, progress)
        return finish(search, search.run())


def check(store: Store, settings: SearchSettings) -> list[Point]:
    """The first setting of the space, as an example.

    Raises:
        UserError: the checkpoint or a data set is not there, or the setting does not go with it.
    """
    for dataset in filter(None, (settings.metrics.dataset, settings.metrics.classifier_dataset)):
        Dataset.open(store, dataset)
    points = [point_maker(settings)(next(one_by_one(settings.spaces[0])))]
    find_settings(store, points, settings.execution, place(settings.execution, engine_actors(settings)))
    return points


def point_maker(settings: SearchSettings) -> Callable[[Mapping[str, Any]], Point]:
    def to_point(chosen: Mapping[str, Any]) -> Point:
        return point_of(*settings.point(chosen))

    return to_point


def tell(store: Store, result: SearchResult, settings: SearchJob, reporter: MlflowReporter) -> None:
    """Table, figure, picture and report: printed, logged as a run of the search's own, and written to a folder."""
    text = f"{result.table()}\n\n" + "\n".join(f"- {line}" for line in result.summary())
    figure = search_figure(result)
    report = write_report(store, result.digest, report_folder(settings.store, settings.out, result.name))
    tags, view = {"kind": "search_summary", "search": result.name}, search_view(result.name)
    key = summary_key(result.name, result.digest)
    with reporter.run(key, result.name, tags) as run:
        run.view(view)
        if result.final is not None:
            run.view(view_of(result.final))
        run.note(note(text, reporter.addresses(view, wait=False), "front.md"))
        run.text(cli.resolved_yaml(settings), "settings.yaml")
        run.text(text, "front.md")
        run.text(result.to_json(), "trials.json")
        run.text(report.read_text(encoding="utf-8"), "report.html")
        run.image("search", pixels(figure))
        run.metrics({"evaluations": result.spent, "evaluations_of_the_grid": result.brute_force.evaluations})
        if result.final is not None:
            run.image("comparison", result.final.picture)
    if settings.out:
        folder = Path(settings.out)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "front.md").write_text(text + "\n", encoding="utf-8")
        (folder / "trials.json").write_text(result.to_json() + "\n", encoding="utf-8")
        (folder / "search.png").write_bytes(figure)
        (folder / "settings.yaml").write_text(cli.resolved_yaml(settings), encoding="utf-8")
        if result.final is not None:
            Image.fromarray(result.final.picture).save(folder / "comparison.png")
    print(f"\n{text}\n\nReport: {report}")
    is_sent = reporter.flush()
    addresses = reporter.addresses(view, report=key, wait=is_sent)
    if result.final is not None:
        final = reporter.addresses(view_of(result.final), result.final.run_keys, wait=is_sent)
        addresses |= {f"final {word}": address for word, address in final.items()}
    print_addresses(reporter, addresses)


def search_figure(result: SearchResult) -> bytes:
    """All trials, those measured longer in a series of their own, with rings around the front. A PNG."""
    marks = [Mark(**mark) for mark in result.record()["marks"]]
    y_label = f"{result.title} (less is better), as with {result.ladder[0]:,} images"
    return quality_against_cost(marks, f"{result.name}: what was tried", y_label=y_label, lines=False)


def dry_run(settings: SearchJob) -> list[str]:
    store = DryStore(settings.store)
    settings = with_checkpoints(store, settings)
    return expected_cost(store, settings, point_maker(settings), engine_actors(settings))


if __name__ == "__main__":
    sys.exit(cli.run(SearchJob, main, __doc__, dry_run))
