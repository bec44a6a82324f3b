"""Which snapshot of a training, and which average of its weights, is best: chosen by seeds that are not reported."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.data.samples import Execution
from pipeline.data.store import Store
from pipeline.diffusion.labels import Labels
from pipeline.diffusion.sampling import Sampler
from pipeline.engine.evaluation import Evaluation, evaluate, ranked
from pipeline.engine.generation import Seeds, generate
from pipeline.engine.measures import Measure
from pipeline.engine.work import Actors, Point
from pipeline.errors import SettingsError
from pipeline.training.snapshot import LATEST, CheckpointRef, find_snapshot, find_training, snapshot_moments


@dataclass(frozen=True)
class Selection:
    """The best snapshot.

    Args:
        best: names it.
        candidates: all that were compared, each with its evaluation on the seeds of the choice, the best first.
        reported: the best one's evaluation on other seeds: the number to tell.
    """

    best: CheckpointRef
    candidates: tuple[tuple[CheckpointRef, Evaluation], ...]
    reported: Evaluation


def snapshot_refs(store: Store, training: str) -> list[CheckpointRef]:
    """Every snapshot of a training with every EMA that it has; with the weights as they are where it has none.

    Raises:
        CheckpointError: there is no such training, or it has no snapshots yet.
    """
    folder = find_training(store, training)
    moments: list[int | str] = [*snapshot_moments(store, folder)]
    refs: list[CheckpointRef] = []
    for at in moments or [LATEST]:  # without any, `find_snapshot` says so
        weights = find_snapshot(store, CheckpointRef(folder, at)).manifest.meta["weights"]
        averages = [name for name in weights if name != "raw"]
        refs.extend(CheckpointRef(folder, at, name) for name in averages or weights)
    return refs


def evaluate_snapshots(
    store: Store, refs: Sequence[CheckpointRef], sampler: Sampler, labels: Labels, seeds: Seeds, measure: Measure,
    execution: Execution, actors: Actors, progress: bool = True, guide: CheckpointRef | None = None,
) -> list[tuple[CheckpointRef, Evaluation]]:  # fmt: skip
    """Samples every snapshot in the same way and evaluates it; in the order of the refs."""
    points = [Point(f"{ref.training}@{ref.at}/{ref.ema or 'default'}", ref, sampler, labels, guide) for ref in refs]
    results = generate(store, points, seeds, execution, actors, [measure.plan], progress=progress)
    return list(zip(refs, evaluate(store, results, seeds, measure.plan, measure.reference), strict=True))


def best_snapshot(
    store: Store, training: str, sampler: Sampler, labels: Labels, select: Seeds, report: Seeds, measure: Measure,
    execution: Execution, actors: Actors, progress: bool = True, guide: CheckpointRef | None = None,
) -> Selection:  # fmt: skip
    """Chooses the snapshot and EMA of least distance on the seeds `select`, and evaluates it on the seeds `report`.

    The least of many distances is too small a number for the one it belongs to, so other images are reported.

    Args:
        guide: of all of them, where the sampler's guidance needs one.

    Raises:
        SettingsError: the two ranges of seeds have a seed in common.
        CheckpointError: there is no such training, or it has no snapshots yet.
    """
    check_disjoint(select, report)
    refs = snapshot_refs(store, training)
    found = evaluate_snapshots(store, refs, sampler, labels, select, measure, execution, actors, progress, guide)
    order = ranked([evaluation for _, evaluation in found])
    candidates = sorted(found, key=lambda pair: order.index(pair[1]))
    best = candidates[0][0]
    [(_, reported)] = evaluate_snapshots(
        store, [best], sampler, labels, report, measure, execution, actors, progress, guide
    )
    return Selection(best, tuple(candidates), reported)


def check_disjoint(select: Seeds, report: Seeds) -> None:
    """Raises:
    SettingsError: the two ranges of seeds have a seed in common.
    """
    if select.first < report.first + report.count and report.first < select.first + select.count:
        one, two = (f"{seeds.first}-{seeds.first + seeds.count - 1}" for seeds in (select, report))
        raise SettingsError(
            "select", f"must be seeds that are not reported: {one} and {two} overlap, so give another `first`"
        )
