"""Design aids: noise levels that data suggest, and a network's loss by level: `python -m jobs.suggest CONFIG.yaml`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from jobs import cli
from jobs.checkpoints import with_checkpoints
from jobs.context import open_store, tracked
from pipeline.config.suggest import SuggestJob
from pipeline.data.dataset import Dataset
from pipeline.data.dry_store import DryStore
from pipeline.digests import digest
from pipeline.engine.loss_curve import LossPoint, loss_by_noise
from pipeline.errors import SettingsError, StoreError
from pipeline.reporting import Reporter
from pipeline.tracking.figures import pixels
from pipeline.tracking.noise_figure import loss_against_noise
from pipeline.training.snapshot import Snapshot, find_snapshot
from pipeline.training.suggestion import Suggestion, suggestions


def main(settings: SuggestJob) -> None:
    store = open_store(settings)
    settings = with_checkpoints(store, settings)
    snapshot = None if settings.checkpoint is None else find_snapshot(store, settings.checkpoint.ref())
    dataset = Dataset.open(store, settings.dataset or trained_on(snapshot))
    found = suggestions(dataset)
    for item in found:
        print(f"{item.key}: {item.value:.4g}  # {item.reason}")
    if snapshot is not None:
        points = loss_by_noise(store, snapshot, dataset, settings.sigmas(), settings.images, settings.execution)
        print(f"\n{loss_table(points)}")
        with tracked(settings) as reporter:
            tell(settings, reporter, snapshot, dataset, found, points)


def trained_on(snapshot: Snapshot | None) -> str:
    """Raises:
    SettingsError: nobody knows.
    """
    name = None if snapshot is None else snapshot.dataset.get("name")
    if not name:
        raise SettingsError("dataset", "must be given: nothing says what the checkpoint was trained on")
    return str(name)


def tell(
    settings: SuggestJob, reporter: Reporter, snapshot: Snapshot, dataset: Dataset, found: Sequence[Suggestion],
    points: Sequence[LossPoint],
) -> None:  # fmt: skip
    """One run: the table, the figure, and the loss at every level; the same in a folder."""
    values = {item.key.rpartition(".")[2]: item.value for item in found}
    sigmas, losses = [point.sigma for point in points], [point.loss for point in points]
    errors = [point.standard_error for point in points]
    title = f"{snapshot.title} on {dataset.info.name}: loss by noise level"
    figure = loss_against_noise(sigmas, losses, errors, title, values["P_mean"], values["P_std"])
    csv = "".join(f"{line}\n" for line in ["sigma,loss,standard_error", *map(_csv_line, points)])
    key = digest({"losses": snapshot.weights_sha256, "dataset": dataset.info.digest, "settings": settings})
    tags = {"kind": "losses", "checkpoint": snapshot.title, "dataset": dataset.info.name}
    with reporter.run(key, f"losses of {snapshot.title}", tags) as run:
        run.params({item.key: item.value for item in found})
        run.metrics({f"loss_sigma_{point.sigma:.3g}": point.loss for point in points})
        run.text(csv, "losses.csv")
        run.text(cli.resolved_yaml(settings), "settings.yaml")
        run.image("loss_by_noise", pixels(figure))
    if settings.out:
        folder = Path(settings.out)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "losses.csv").write_text(csv, encoding="utf-8")
            (folder / "loss_by_noise.png").write_bytes(figure)
        except OSError as error:
            raise StoreError(folder, f"cannot be written ({error.strerror or error})") from error


def loss_table(points: Sequence[LossPoint]) -> str:
    """Markdown, aligned as plain text."""
    lines = [f"| {point.sigma:8.3g} | {point.loss:7.4f} ± {2 * point.standard_error:.4f} |" for point in points]
    return "\n".join(["|    sigma | loss, ± 2 errors |", "|---------:|-----------------:|", *lines])


def _csv_line(point: LossPoint) -> str:
    return f"{point.sigma!r},{point.loss!r},{point.standard_error!r}"


def dry_run(settings: SuggestJob) -> list[str]:
    store = DryStore(settings.store)
    settings = with_checkpoints(store, settings)
    if settings.checkpoint is None:
        return [f"{item.key}: {item.value:.4g}" for item in suggestions(Dataset.open(store, settings.dataset or ""))]
    snapshot = find_snapshot(store, settings.checkpoint.ref())
    return [f"{settings.images * settings.levels:,} network evaluations of {snapshot.title}"]


if __name__ == "__main__":
    sys.exit(cli.run(SuggestJob, main, __doc__, dry_run))
