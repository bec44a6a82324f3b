"""A benchmark's settings as runs of the tracker: each is told as soon as it is measured."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.data.pictures import comparison_picture, image_grid
from pipeline.data.samples import Execution, read_samples
from pipeline.data.store import Store
from pipeline.diffusion.timesteps import steps_of
from pipeline.engine.benchmark_result import distance_metric, run_key
from pipeline.engine.comparison import Compared, against
from pipeline.engine.evaluation import Evaluation, evaluate
from pipeline.engine.generation import PointResult, Seeds
from pipeline.engine.measures import Measure
from pipeline.engine.pareto import pareto_front
from pipeline.engine.point_summary import checkpoint_tags, point_params, point_summary, solver_title
from pipeline.engine.score_telling import ScoreTeller
from pipeline.engine.table import Row, by_cost
from pipeline.engine.timing import Timing
from pipeline.engine.trajectories import Converged, trajectory_metrics
from pipeline.metrics.trajectory import TrajectoryError
from pipeline.reporting import Reporter, Run


@dataclass
class Teller:
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
        return distance_metric(self.evaluations[result.point.name][0].protocol)

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


def _accuracy(found: Sequence[Evaluation]) -> float | None:
    return next((evaluation.accuracy for evaluation in found if evaluation.accuracy is not None), None)
