"""Two settings on the same seeds, is one better: `python -m jobs.compare CONFIG.yaml`. Images are generated only where
they are missing."""

import sys
from dataclasses import dataclass

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
from jobs.places import check_store
from jobs.screen import print_addresses
from pipeline.config.benchmarks import BenchmarkJob, ComparedSettings, CompareJob
from pipeline.config.load import load, read
from pipeline.config.measuring import EvaluateJob
from pipeline.data.dry_store import DryStore
from pipeline.data.store import Store
from pipeline.digests import digest
from pipeline.engine.comparison import Compared, chosen, compare_two, comparison_table, of_setting
from pipeline.engine.evaluation import Evaluation, evaluate
from pipeline.engine.generation import generate
from pipeline.engine.session import shared_session
from pipeline.engine.work import Point
from pipeline.metrics.protocol import check_comparable
from pipeline.metrics.published_protocols import LEGACY
from pipeline.tracking.views import comparison_view


def main(settings: CompareJob) -> None:
    with shared_session():
        sides = [_side(side) for side in (settings.first, settings.second)]
        with tracked(settings) as reporter, alone(sides[0].store, "comparison", settings):
            one, two = map(_measured, sides)
            legacy = any(side.job.metrics.protocol == LEGACY for side in sides)
            found = compare_two(one, two, legacy)
            unlike = check_comparable([(one.name, one.protocol), (two.name, two.protocol)], legacy)
            name = f"{_title(settings.first, one)} against {_title(settings.second, two)}"
            tags = {"kind": "comparison", "protocol": one.protocol.label(), "compared_with": two.name}
            tags |= {"protocol_name": LEGACY} if unlike else {}
            key = digest({"samples": [one.samples_digest, two.samples_digest], "protocol": one.protocol.digest})
            title, notes = one.protocol.distance, [f"- {one.protocol.label()}", *([f"- {unlike}"] if unlike else [])]
            table, view = "\n".join([comparison_table(found, title, chosen=False), *notes]), comparison_view()
            with reporter.run(key, name, tags) as run:
                run.view(view)
                run.note(f"{table}\n\n{_sentence(found[0], title)}")
                run.text(cli.resolved_yaml(settings), "settings.yaml")
                run.text(table, "comparison.md")
                run.metrics(found[0].metrics("fid" if title == "FID" else "fd"))
    print(f"\n{table}\n\n{_sentence(found[0], title)}")
    print_addresses(reporter, reporter.addresses(view))


def _settings(side: ComparedSettings) -> EvaluateJob | BenchmarkJob:
    """Of the file, which is a benchmark's or an evaluation's."""
    own = set(BenchmarkJob.model_fields) - set(EvaluateJob.model_fields)
    model: type[EvaluateJob | BenchmarkJob] = BenchmarkJob if own & set(read(side.config)) else EvaluateJob
    job = load(model, side.config)
    check_store(job, side.config)
    return job


@dataclass(frozen=True)
class _Side:
    """What is compared: the job that measures it, and its settings, or the one that is meant."""

    job: EvaluateJob | BenchmarkJob
    store: Store
    points: list[Point]


def _side(side: ComparedSettings) -> _Side:
    job = _settings(side)
    store = open_store(job)
    job = with_checkpoints(store, job)
    points = checked_points(store, job)
    return _Side(job, store, points if side.setting is None else [of_setting(points, side.setting, side.config)])


def _measured(side: _Side) -> Evaluation:
    """The setting that is meant, by the first extractor."""
    job, store, points, seeds = side.job, side.store, side.points, engine_seeds(side.job.seeds)
    measure = measures_of(store, job, job.metrics, points)[0]
    results = generate(
        store, points, seeds, job.execution, engine_actors(job), [measure.plan], namespace(job), pictures=0
    )
    return chosen([evaluate(store, [found], seeds, measure.plan, measure.reference)[0] for found in results])


def _title(side: ComparedSettings, evaluation: Evaluation) -> str:
    return f"{evaluation.name} ({side.config.rpartition('/')[2].removesuffix('.yaml')})"


def _sentence(row: Compared, title: str) -> str:
    if row.comparison is None:
        return "They are of other seeds, so there is no comparison image by image."
    better = row.comparison.difference.value < 0
    word, sure = ("smaller", row.comparison.p_better) if better else ("larger", 1 - row.comparison.p_better)
    settled = row.comparison.difference.low > 0 or row.comparison.difference.high < 0
    verdict = "the interval excludes 0" if settled else "the interval holds 0: these images do not tell them apart"
    return f"{row.name} has the {word} {title} (confidence {sure:.1%}); {verdict}."


def dry_run(settings: CompareJob) -> list[str]:
    jobs = [_settings(side) for side in (settings.first, settings.second)]
    stores = [DryStore(job.store) for job in jobs]
    found = [(store, with_checkpoints(store, job)) for store, job in zip(stores, jobs, strict=True)]
    return [line for store, job in found for line in cost(store, job)]


if __name__ == "__main__":
    sys.exit(cli.run(CompareJob, main, __doc__, dry_run))
