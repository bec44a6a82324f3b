"""The cheap metric: every sample against the converged answer of its own seed. The answers are samples like any other.

There is one reference for each network (with its guide), guidance and kind of labels: the same probability flow,
solved by a solver of high order with many steps from the reference's highest noise level to its lowest. So a setting is
charged for all that it does otherwise: its solver, its steps, and where it begins and ends.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.config.measuring import TrajectorySettings
from pipeline.data.samples import Execution, read_samples
from pipeline.data.store import Store
from pipeline.data.trajectories import commit_errors, read_errors
from pipeline.diffusion.sampling import Sampler
from pipeline.diffusion.stochasticity import Deterministic
from pipeline.engine.generation import generate
from pipeline.engine.table import Row
from pipeline.engine.work import Actors, Point, Seeds
from pipeline.metrics.rank_correlation import rank_correlation
from pipeline.metrics.trajectory import FLOOR, TrajectoryError, quantile_names, sample_errors


@dataclass(frozen=True)
class Converged:
    """The converged answers of a benchmark's points, in the store.

    Args:
        store: where they are.
        seeds: which ones are compared.
        digests: of the samples of each reference, by the point that it is (`reference_point`).
        settings: how they were made.
        evaluations: of the network, that making them takes.
    """

    store: Store
    seeds: Seeds
    digests: dict[Point, str]
    settings: TrajectorySettings
    evaluations: float

    def error_of(self, point: Point, samples_digest: str) -> TrajectoryError | None:
        """The error of a point whose images, or whose errors, are in the store; None where noise is added."""
        reference = self._reference(point)
        if reference is None:
            return None
        seeds = self.seeds.first, self.seeds.count
        errors = read_errors(self.store, samples_digest, reference, *seeds)
        if errors is None:
            images, answers = (read_samples(self.store, name, *seeds).images for name in (samples_digest, reference))
            errors = sample_errors(images, answers)
            commit_errors(self.store, samples_digest, reference, seeds[0], errors)
        return TrajectoryError.of(errors)

    def images_needed(self, points: Sequence[Point], digests: Sequence[str]) -> int:
        """Of how many of the first seeds the images are needed: none where all errors are known."""
        seeds = self.seeds.first, self.seeds.count
        for point, digest in zip(points, digests, strict=True):
            reference = self._reference(point)
            if reference is not None and read_errors(self.store, digest, reference, *seeds) is None:
                return self.seeds.count
        return 0

    @property
    def note(self) -> str:
        """One line that stands below the numbers."""
        solver, steps = self.settings.solver.kind, self.settings.timesteps.num_steps
        first, last = self.seeds.first, self.seeds.first + self.seeds.count - 1
        of = f"to the image that {solver} makes of the same seed in {steps} steps, seeds {first}-{last}"
        floor = f"in the range -1 to 1; 8 bits resolve nothing below about {FLOOR:.4f}"
        return f"- trajectory RMSE: {of}, {floor}; none where noise is added"

    def _reference(self, point: Point) -> str | None:
        return self.digests[reference_point(point, self.settings)] if is_deterministic(point.sampler) else None


def is_deterministic(sampler: Sampler) -> bool:
    """Whether a seed has one trajectory that more steps converge to: nothing adds noise on the way."""
    return not sampler.solver.stochastic and sampler.stochasticity == Deterministic()


def reference_point(point: Point, settings: TrajectorySettings) -> Point:
    """What makes the converged answers of a point."""
    sampler = Sampler(timesteps=settings.timesteps, solver=settings.solver, guidance=point.sampler.guidance)
    return replace(point, name=f"converged, {settings.solver.kind}", sampler=sampler)


def converge(
    store: Store, points: Sequence[Point], settings: TrajectorySettings, seeds: Seeds, execution: Execution,
    actors: Actors, namespace: str = "", progress: bool = True,
) -> Converged:  # fmt: skip
    """Makes sure that the converged answers of all deterministic points are in the store.

    Args:
        seeds: of the benchmark; of the first `settings.num_seeds` of them the errors are taken.

    Raises:
        UserError: the reference does not go with a point's network.
        RunFailedError: chunks failed for good.
    """
    some = Seeds(seeds.first, min(seeds.count, settings.num_seeds))
    deterministic = [point for point in points if is_deterministic(point.sampler)]
    wanted = list(dict.fromkeys(reference_point(point, settings) for point in deterministic))
    results = generate(store, wanted, some, execution, actors, (), namespace, progress) if wanted else []
    digests = {result.point: result.samples_digest for result in results}
    return Converged(store, some, digests, settings, sum(some.count * result.nfe for result in results))


def trajectory_metrics(error: TrajectoryError | None) -> dict[str, float]:
    """As the tracker has them; none where there is no trajectory to be compared with."""
    if error is None:
        return {}
    half, name = error.half_width or 0.0, "trajectory_rmse"
    quantiles = zip(quantile_names(), error.quantiles, strict=True)
    ends = {f"{name}_low": max(error.rmse - half, 0.0), f"{name}_high": error.rmse + half}
    return {name: error.rmse, **ends, **{f"trajectory_{quantile}": value for quantile, value in quantiles}}


def trajectory_notes(converged: Converged | None, rows: Sequence[Row]) -> list[str]:
    """What the trajectory error is, and how it ranks the settings beside the distance."""
    if converged is None:
        return []
    pairs = [(row.trajectory.rmse, row.distance) for row in rows if row.trajectory is not None]
    if len(pairs) < 2:
        return [converged.note]
    found = rank_correlation([rmse for rmse, _ in pairs], [distance for _, distance in pairs])
    return [f"{converged.note}\n- it ranks settings as the distance does to: {found}"]
