"""A benchmark: many settings, one measure of each, and what each costs. Every setting is one run of the tracker."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config.benchmarks import TimingSettings
from pipeline.config.measuring import Keep, TrajectorySettings
from pipeline.data.pictures import comparison_picture, image_grid
from pipeline.data.samples import Execution, read_samples
from pipeline.data.store import Store
from pipeline.diffusion.guidance import Guidance, Unguided
from pipeline.diffusion.sampling import Sampler
from pipeline.diffusion.timesteps import steps_of
from pipeline.digests import digest
from pipeline.engine.benchmark_record import commit_record, record_of
from pipeline.engine.comparison import Compared, against, comparison_json, comparison_table
from pipeline.engine.evaluation import Evaluation, check_shape, evaluate
from pipeline.engine.generation import PointResult, Seeds, find_settings, generate
from pipeline.engine.measures import Measure
from pipeline.engine.pareto import pareto_front
from pipeline.engine.placement import place
from pipeline.engine.retention import retain
from pipeline.engine.score_checks import check_scores
from pipeline.engine.score_telling import ScoreTeller
from pipeline.engine.scoring import Heading, headings, kept_names
from pipeline.engine.table import Row, benchmark_table, by_cost, classes_csv, rows_csv, rows_json
from pipeline.engine.timing import Timing, time_points
from pipeline.engine.trajectories import Converged, converge, trajectory_metrics, trajectory_notes
from pipeline.engine.work import Actors, Point
from pipeline.errors import SettingsError
from pipeline.metrics.protocol import FID, EvaluationProtocol
from pipeline.metrics.scores import ClassRow
from pipeline.metrics.trajectory import TrajectoryError
from pipeline.reporting import Reporter, Run
from pipeline.training.snapshot import Snapshot, find_snapshot

MOST_PICTURES = 64  # images of the first seeds that stay, whatever is kept of the others


@dataclass(frozen=True)
class BenchmarkResult:
    """What a benchmark found.

    Args:
        name: of the benchmark.
        rows: one a setting, by rising NFE.
        titles: what the distance of each extractor is called, by the extractor's name; the first one ranks.
        headings: of the scores, in their order.
        classes: by the name of a setting, class by class, where a score goes by class.
        notes: lines that should stand below the numbers.
        picture: the same seeds in the same columns, one row a setting; uint8 (H, W, 3).
        generated: images that were generated for it; all others were in the store.
        link: where a person can compare the runs, or an empty text.
        protocol: of the distance that ranks.
        followed: the published protocol that the settings name, or `legacy`; or an empty text.
        compared: each setting against the baseline, on the same seeds, by the first distance.
        baseline_named: the baseline was named, and is not the best one.
        evaluations: of each setting, in the order of the settings, by the first measure.
    """

    name: str
    rows: tuple[Row, ...]
    titles: Mapping[str, str]
    headings: tuple[Heading, ...]
    classes: Mapping[str, tuple[ClassRow, ...]]
    notes: tuple[str, ...]
    picture: NDArray[np.uint8] = field(repr=False, compare=False)
    generated: int
    link: str
    protocol: EvaluationProtocol
    followed: str = ""
    compared: tuple[Compared, ...] = ()
    baseline_named: bool = False
    evaluations: tuple[Evaluation, ...] = field(default=(), repr=False, compare=False)

    def comparisons(self) -> str:
        """The settings against the baseline, as a Markdown table; an empty text where nothing was compared."""
        title = next(iter(self.titles.values()))
        return comparison_table(self.compared, title, not self.baseline_named) if self.compared else ""

    def table(self) -> str:
        """A Markdown table that is aligned as plain text too."""
        table = benchmark_table(self.rows, self.titles, self.headings)
        return "\n".join([table, *(f"\n{note}" for note in self.notes)])

    def to_json(self) -> str:
        about = {"distances": self.titles, "scores": self.headings, "classes": self.classes, "notes": self.notes}
        about["comparisons"] = comparison_json(self.compared)
        return rows_json(self.rows, benchmark=self.name, **about)

    def to_csv(self) -> str:
        return rows_csv(self.rows)

    def classes_csv(self) -> str:
        """A line for every setting and class; an empty text where no score goes by class."""
        return classes_csv(self.classes)

    @property
    def metric(self) -> str:
        """What the distance that ranks is called in the tracker."""
        return _metric(self.protocol)

    @property
    def run_keys(self) -> tuple[str, ...]:
        """Of the settings' runs in the tracker, the best setting first."""
        return tuple(self.run_key(row) for row in sorted(self.rows, key=lambda row: row.distance))

    def run_key(self, row: Row) -> str:
        """Of a setting's run in the tracker."""
        return run_key(self.name, row.samples_digest, self.protocol)

    @property
    def digest(self) -> str:
        """Names the benchmark and its record: other images or another protocol under the same name are another one."""
        return digest({"benchmark": self.name, "rows": [[row.samples_digest, row.protocol] for row in self.rows]})


def benchmark(
    store: Store, name: str, points: Sequence[Point], seeds: Seeds, measures: Sequence[Measure], execution: Execution,
    actors: Actors, reporter: Reporter, timing: TimingSettings | None = None, picture_seeds: int = 16,
    namespace: str = "", progress: bool = True, keep: Keep = "images", trajectory: TrajectorySettings | None = None,
    baseline: str | None = None,
) -> BenchmarkResult:  # fmt: skip
    """Generates, evaluates and times every point, and reports each as one run as soon as it is known.

    What is in the store already is not computed again, so a benchmark that was interrupted goes on where it was, and
    one that is repeated gives the same numbers. All that it keeps of its own there is what it told: it is a view on
    samples, features, references and timings.

    Args:
        name: of the benchmark: a tag, and part of what makes a run the same run.
        points: the settings, of different names.
        seeds: the images of each setting that are measured.
        measures: at least one; the first one's distance is the one that settings are ranked by.
        timing: how long to time each setting; without, no seconds are told.
        picture_seeds: how many of the first seeds are shown.
        namespace: samples are kept apart from those of other namespaces.
        keep: what stays of the samples when all is told.
        baseline: the setting that the others are compared with; the best one by default.
        trajectory: how to measure the distance to each sample's own converged trajectory; without, it is not.

    Raises:
        UserError: something asked for cannot be done; said before anything is generated, wherever that is possible.
    """
    _check(store, points, measures, baseline)
    check_scores(store, points, measures, seeds)
    pictures, needed = min(picture_seeds, seeds.count), 0
    converged = None
    if trajectory is not None:
        found = find_settings(store, points, execution, place(execution, actors), namespace)
        converged = converge(store, points, trajectory, seeds, execution, actors, namespace, progress)
        needed = converged.images_needed(points, [setting.digest for setting in found])
    teller = _Teller(store, name, seeds, measures, execution, reporter, pictures, keep == "moments", converged)
    plans = [replace(measure.plan, beside=kept_names(measure, seeds)) for measure in measures]
    results = generate(
        store, points, seeds, execution, actors, plans, namespace, progress, teller.tell, pictures=max(pictures, needed)
    )
    timings: list[Timing] | list[None] = [None] * len(points)
    if timing is not None:
        timings = time_points(store, points, execution, actors, timing.images, timing.repeats, progress=progress)
    rows = teller.rows(results, timings)
    compared = teller.compared(results, baseline)
    for row, result, measured in zip(rows, results, timings, strict=True):
        teller.tell_cost(row, result, measured)
    retain(store, [result.samples_digest for result in results], keep, seeds.first, MOST_PICTURES)
    told = BenchmarkResult(
        name=name,
        rows=tuple(by_cost(rows)),
        titles={measure.name: measure.plan.distance_name for measure in measures},
        headings=tuple(heading for measure in measures for heading in headings(measure)),
        classes=teller.scores.classes,
        notes=(
            *(measure.note for measure in measures if measure.note),
            *trajectory_notes(converged, rows),
            *licence_notes(results),
        ),
        picture=teller.comparison(rows),
        generated=sum(result.generated for result in results),
        link=reporter.link({"kind": "sampler", "benchmark": name}),
        protocol=teller.evaluations[points[0].name][0].protocol,
        followed=measures[0].protocol,
        compared=compared,
        baseline_named=baseline is not None,
        evaluations=tuple(teller.evaluations[point.name][0] for point in points),
    )
    params = {result.point.name: point_params(result, seeds, execution) for result in results}
    evaluations = seeds.count * sum(result.nfe for result in results)
    record = record_of(told.to_json(), seeds, pictures, measures, params, evaluations, timings)
    commit_record(store, told.digest, {"name": name, "protocol_digest": told.protocol.digest, **record})
    return told


@dataclass
class _Teller:
    """Evaluates points and tells the tracker; keeps what the rows need."""

    store: Store
    name: str
    seeds: Seeds
    measures: Sequence[Measure]
    execution: Execution
    reporter: Reporter
    picture_seeds: int
    keep_moments: bool = False
    converged: Converged | None = None
    evaluations: dict[str, tuple[Evaluation, ...]] = field(default_factory=dict)
    trajectories: dict[str, TrajectoryError | None] = field(default_factory=dict)
    images: dict[str, NDArray[np.uint8]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.scores = ScoreTeller(self.store, self.measures, self.seeds)

    def tell(self, result: PointResult) -> None:
        """One point whose images and features are in the store."""
        found = tuple(
            evaluate(self.store, [result], self.seeds, measure.plan, measure.reference, self.keep_moments)[0]
            for measure in self.measures
        )
        images = read_samples(self.store, result.samples_digest, self.seeds.first, self.picture_seeds).images
        self.evaluations[result.point.name], self.images[result.point.name] = found, images
        if self.converged is not None:
            self.trajectories[result.point.name] = self.converged.error_of(result.point, result.samples_digest)
        with self._run(result) as run:
            run.params({"point": point_summary(result), **point_params(result, self.seeds, self.execution)})
            reference = self.measures[0].reference
            run.dataset(reference.title, reference.digest, "reference", {"images": reference.count})
            run.metrics(self._metrics(result, found), step=round(result.nfe))
            run.metrics(trajectory_metrics(self.trajectories.get(result.point.name)), step=round(result.nfe))
            run.image("samples", image_grid(images))  # about square, as the cells of the tracker's grid of pictures
            self.scores.tell(result, run)

    def tell_cost(self, row: Row, result: PointResult, timing: Timing | None) -> None:
        """What is known when all points are: its time, and whether it is on the front."""
        with self._run(result) as run:
            run.tags({"pareto": "yes" if row.pareto else "no", "rank_deficient": " ".join(row.rank_deficient)})
            if timing is not None:
                seconds = timing.seconds_per_1000
                metrics = {"seconds": seconds, "images_per_second": 1000 / seconds}
                run.metrics(metrics, step=round(result.nfe))
                run.tags({"timed_on": f"{timing.device}, batch {timing.batch_size}, {timing.threads} threads"})

    def compared(self, results: Sequence[PointResult], baseline: str | None) -> tuple[Compared, ...]:
        """Each point against the baseline, told to the tracker."""
        found = against([self.evaluations[result.point.name][0] for result in results], baseline)
        for result, row in zip(results, found, strict=True):
            with self._run(result) as run:
                run.tags({"compared_with": row.baseline})
                run.metrics(row.metrics(self._title(result)), step=round(result.nfe))
        return found

    def _title(self, result: PointResult) -> str:
        return _metric(self.evaluations[result.point.name][0].protocol)

    def rows(self, results: Sequence[PointResult], timings: Sequence[Timing | None]) -> list[Row]:
        """In the order of the results."""
        nfe = [result.nfe for result in results]
        front = pareto_front(nfe, [self.evaluations[result.point.name][0].distance for result in results])
        return [self._row(*columns) for columns in zip(results, timings, front, strict=True)]

    def comparison(self, rows: Sequence[Row]) -> NDArray[np.uint8]:
        return comparison_picture([(f"{row.name} (NFE {row.nfe:g})", self.images[row.name]) for row in by_cost(rows)])

    def _run(self, result: PointResult) -> Run:
        """The run of a point. Its key holds everything that its numbers depend on, but the time that it takes."""
        protocol = self.evaluations[result.point.name][0].protocol
        tags = {
            "kind": "sampler",
            "benchmark": self.name,
            **checkpoint_tags(result),
            **protocol.tags(),
            **({"protocol_name": self.measures[0].protocol} if self.measures[0].protocol else {}),
            "samples": result.samples_digest,
            "extractor": self.measures[0].plan.distance_name,
            "dataset": self.measures[0].reference.title,
        }
        key = run_key(self.name, result.samples_digest, protocol)
        return self.reporter.run(key, result.point.name, tags)

    def _metrics(self, result: PointResult, found: Sequence[Evaluation]) -> dict[str, float]:
        first = found[0]
        title = self._title(result)
        values = {title: first.distance, "nfe": result.nfe}
        if first.uncertainty is not None:
            values |= {f"{title}_low": first.uncertainty.interval.low, f"{title}_high": first.uncertainty.interval.high}
        elif first.half_width is not None:
            low, high = max(first.distance - first.half_width, 0.0), first.distance + first.half_width
            values |= {f"{title}_low": low, f"{title}_high": high}
        values["num_images"] = self.seeds.count
        if len(found) > 1:
            names = (measure.name for measure in self.measures)
            values |= {f"fd_{name}": evaluation.distance for name, evaluation in zip(names, found, strict=True)}
        accuracy = _accuracy(found)
        return values if accuracy is None else {**values, "accuracy": accuracy}

    def _row(self, result: PointResult, timing: Timing | None, on_front: bool) -> Row:
        found = dict(zip((measure.name for measure in self.measures), self.evaluations[result.point.name], strict=True))
        first = next(iter(found.values()))
        return Row(
            name=result.point.name,
            checkpoint=result.snapshot.title,
            solver=solver_title(result.point.sampler),
            num_steps=steps_of(result.point.sampler.timesteps),
            nfe=result.nfe,
            distance=first.distance,
            distances={name: evaluation.distance for name, evaluation in found.items()},
            half_widths={name: evaluation.half_width for name, evaluation in found.items()},
            rank_deficient=tuple(name for name, evaluation in found.items() if evaluation.rank_deficient),
            accuracy=_accuracy(list(found.values())),
            seconds_per_1000=None if timing is None else timing.seconds_per_1000,
            pareto=on_front,
            samples_digest=result.samples_digest,
            protocol=first.protocol.label(),
            guide="" if result.guide is None else result.guide.title,
            protocols={name: evaluation.protocol.sentence() for name, evaluation in found.items()},
            scores=self.scores.values[result.point.name],
            trajectory=self.trajectories.get(result.point.name),
        )


def _check(store: Store, points: Sequence[Point], measures: Sequence[Measure], baseline: str | None = None) -> None:
    if not points or not measures:
        raise SettingsError("benchmark", f"has {len(points)} settings and {len(measures)} measures: it needs both")
    names = [point.name for point in points]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SettingsError("sweep", f"two settings have the same name ({', '.join(twice)})")
    if baseline is not None and baseline not in names:
        raise SettingsError("baseline", f"there is no setting {baseline}; there are: {', '.join(names)}")
    snapshots = [find_snapshot(store, checkpoint) for checkpoint in {point.checkpoint for point in points}]
    for measure, snapshot in product(measures, snapshots):
        check_shape(measure.reference, snapshot)
    shapes = {snapshot.model.shape for snapshot in snapshots}
    if len(shapes) > 1:
        raise SettingsError("sweep", f"the checkpoints make images of different shapes: {sorted(shapes)}")


def solver_title(sampler: Sampler) -> str:
    """The solver, and what beside it is not as in the EDM column of Table 1: `heun`, `heun + churn`, `euler + vp`."""
    plain = Sampler()
    beside = [
        (_guidance_title(sampler.guidance), _guidance_title(plain.guidance)),
        (sampler.stochasticity.kind, plain.stochasticity.kind),
        (sampler.schedule.kind, plain.schedule.kind),
        (f"{sampler.timesteps.kind} grid", f"{plain.timesteps.kind} grid"),
        (f"{sampler.first_step} first step", f"{plain.first_step} first step"),
    ]
    return " + ".join([sampler.solver.kind, *(kind for kind, usual in beside if kind != usual)])


def _guidance_title(guidance: Guidance) -> str:
    return guidance.kind if isinstance(guidance, Unguided) else f"{guidance.kind} {guidance.weight:g}"


def _accuracy(found: Sequence[Evaluation]) -> float | None:
    return next((evaluation.accuracy for evaluation in found if evaluation.accuracy is not None), None)


def checkpoint_tags(result: PointResult) -> dict[str, str]:
    """Whose weights the images are made with, and under which licence, where they were imported."""
    guide = {} if result.guide is None else {"guide": result.guide.title}
    licences = dict.fromkeys(snapshot.licence for snapshot in _snapshots(result) if snapshot.licence is not None)
    return {"checkpoint": result.snapshot.title, **guide, **({"licence": "; ".join(licences)} if licences else {})}


def licence_notes(results: Sequence[PointResult]) -> list[str]:
    """A line for each checkpoint that was imported."""
    told = {snapshot.title: snapshot.licence for result in results for snapshot in _snapshots(result)}
    return [f"licence of the weights {title}: {licence}" for title, licence in told.items() if licence is not None]


def run_key(benchmark: str, samples: str, protocol: EvaluationProtocol) -> str:
    """What makes the run of a setting the same run: the benchmark's name and everything that its numbers depend on."""
    return digest({"benchmark": benchmark, "samples": samples, "protocol": protocol.digest})


def _metric(protocol: EvaluationProtocol) -> str:
    return "fid" if protocol.distance == FID else "fd"


def _snapshots(result: PointResult) -> tuple[Snapshot, ...]:
    return (result.snapshot,) if result.guide is None else (result.snapshot, result.guide)


def point_summary(result: PointResult) -> dict[str, str]:
    """The setting in three words, for columns and axes."""
    sampler = result.point.sampler
    steps = steps_of(sampler.timesteps)
    return {
        "nfe": f"{result.nfe:g}",
        "solver": solver_title(sampler),
        "steps": "adaptive" if steps is None else str(steps),
    }


def point_params(result: PointResult, seeds: Seeds, execution: Execution) -> dict[str, Any]:
    """What a person may want to sort by; nested, flattened by the tracker."""
    guide = {} if result.guide is None else {"guide": _weights_params(result.guide)}
    return {
        "checkpoint": _weights_params(result.snapshot),
        **guide,
        "sampler": asdict(result.point.sampler),
        "labels": asdict(result.point.labels),
        "seeds": asdict(seeds),
        "execution": asdict(execution),
    }


def _weights_params(snapshot: Snapshot) -> dict[str, Any]:
    licence = {} if snapshot.licence is None else {"licence": snapshot.licence}
    return {"training": snapshot.training, "at": snapshot.num_images, "weights": snapshot.weights, **licence}
