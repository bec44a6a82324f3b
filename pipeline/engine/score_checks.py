"""Whether scores can be had of what is asked for: said before anything is generated."""

from collections.abc import Sequence
from itertools import product

import torch

from pipeline.data.store import Store
from pipeline.engine.measures import Measure
from pipeline.engine.work import Point, Seeds
from pipeline.errors import SettingsError
from pipeline.metrics.scores import Score
from pipeline.training.snapshot import find_snapshot


def check_scores(store: Store, points: Sequence[Point], measures: Sequence[Measure], seeds: Seeds) -> None:
    """Raises:
    SettingsError: a score has too few images, or asks for labels that they do not have.
    """
    for measure in measures:
        for score in measure.scores:
            _check_numbers(score, measure, seeds)
        for point, score in product(points, measure.scores):
            if "labels" in score.needs and not _is_labelled(store, point):
                raise SettingsError(
                    f"metrics.scores.{score.kind}",
                    f"needs labels, and the images of {point.name!r} have none (labels: {point.labels.kind}): leave it "
                    "out, or choose other labels",
                )


def _check_numbers(score: Score, measure: Measure, seeds: Seeds) -> None:
    sets = {"images (seeds.count)": seeds.count}
    if measure.features is not None and "reference" in score.needs:
        sets[f"images of the reference {measure.reference.title}"] = len(measure.features)
    for what, count in sets.items():
        if count < score.least:
            raise SettingsError(
                f"metrics.scores.{score.kind}", f"needs at least {score.least:,} {what} (got {count:,})"
            )


def _is_labelled(store: Store, point: Point) -> bool:
    num_classes = find_snapshot(store, point.checkpoint).model.num_classes
    return bool(point.labels.of(torch.zeros(1, dtype=torch.int64), num_classes)[0] >= 0)
