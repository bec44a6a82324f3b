"""The cheap metric: every sample against the converged answer of its own seed. The answers are samples like any other.

There is one reference for each network (with its guide), guidance and kind of labels: the same probability flow,
solved by a solver of high order with many steps from the reference's highest noise level to its lowest. So a setting is
charged for all that it does otherwise: its solver, its steps, and where it begins and ends.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.config.settings import TrajectorySettings
from pipeline.data.samples import Execution, read_samples
from pipeline.data.store import Store
from pipeline.data.trajectories import commit_errors, read_errors
from pipeline.diffusion.sampling import Sampler
from pipeline.diffusion.stochasticity import Deterministic
from pipeline.engine.generation import generate
from pipeline.engine.work import Actors, Point, Seeds
from pipeline.metrics.trajectory import FLOOR, TrajectoryError, sample_errors


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
