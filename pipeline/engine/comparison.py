"""Every setting of a benchmark against its best one, or a named one, on the same seeds: a small table of its own."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.engine.evaluation import Evaluation, ranked
from pipeline.engine.generation import Point
from pipeline.engine.table import ABSENT, Column, markdown
from pipeline.errors import SettingsError
from pipeline.metrics.paired import Comparison, compare
from pipeline.metrics.proportions import paired_shares
from pipeline.metrics.uncertainty import Interval

NOTHING = "no setting has an interval (too few images for the features, or features that were not kept)"


@dataclass(frozen=True)
class Compared:
    """One setting.

    Args:
        name: of the setting.
        baseline: whom it is compared with; its own name for the baseline itself.
        distance: the mean distance of so many images, with its interval; None where it has none.
        limit: the same of infinitely many images.
        comparison: of the mean distances, the setting's less the baseline's; None for the baseline itself, and where
            one of the two has no influences.
        accuracy: the difference of the accuracies, where there are any.
    """

    name: str
    baseline: str
    distance: Interval | None
    limit: Interval | None
    comparison: Comparison | None
    accuracy: Interval | None

    def metrics(self, title: str) -> dict[str, float]:
        """For the setting's run; `title` is what its distance is called there."""
        values: dict[str, float] = {}
        if self.limit is not None:
            values |= _named(f"{title}_limit", self.limit)
        if self.comparison is not None:
            values |= _named("difference", self.comparison.difference)
            values |= {"p_better": self.comparison.p_better, "images_to_tell": self.comparison.images}
        if self.accuracy is not None:
            values |= _named("accuracy_difference", self.accuracy)
        return values


def against(evaluations: Sequence[Evaluation], baseline: str | None = None) -> tuple[Compared, ...]:
    """Compares each with the one that has the least distance, or the one that is named.

    Args:
        evaluations: by one extractor, at least one.
        baseline: a name among them.

    Raises:
        SettingsError: there is none of that name, or two were measured in ways that cannot be compared.
    """
    best = ranked(evaluations)[0] if baseline is None else _named_one(evaluations, baseline)
    ranked(evaluations)  # refuses unlike protocols
    return tuple(_compared(evaluation, best) for evaluation in evaluations)


def chosen(evaluations: Sequence[Evaluation]) -> Evaluation:
    """The one that has the least distance."""
    return ranked(evaluations)[0]


def of_setting(points: Sequence[Point], name: str, where: str) -> Point:
    """Raises:
    SettingsError: no point has this name.
    """
    for point in points:
        if point.name == name:
            return point
    known = ", ".join(point.name for point in points)
    raise SettingsError(where, f"has no setting {name}; it has: {known}")


def compare_two(first: Evaluation, second: Evaluation, legacy: bool = False) -> tuple[Compared, Compared]:
    """The first against the second, which stands below it.

    Args:
        legacy: whatever their protocols; somebody asked for that by name. Of other seeds there is no comparison.

    Raises:
        SettingsError: they are the same images, were measured in ways that cannot be compared, or have no interval.
    """
    ranked([first, second], legacy)
    if first.samples_digest == second.samples_digest:
        raise SettingsError("second", f"is the same setting as the first, {first.name}: name another one")
    for evaluation in (first, second):
        if evaluation.uncertainty is None:
            raise SettingsError(
                "seeds.count",
                f"must be more than the number of features, and features or what was learnt of them be kept: "
                f"{evaluation.name} has no interval (got {evaluation.protocol.num_images} images)",
            )
    return _compared(first, second), _compared(second, second)


def _named_one(evaluations: Sequence[Evaluation], name: str) -> Evaluation:
    for evaluation in evaluations:
        if evaluation.name == name:
            return evaluation
    known = ", ".join(evaluation.name for evaluation in evaluations)
    raise SettingsError("baseline", f"there is no setting {name}; there are: {known}")


def _compared(evaluation: Evaluation, best: Evaluation) -> Compared:
    sure, other = evaluation.uncertainty, best.uncertainty
    comparison, accuracy = None, None
    if evaluation is not best and _seeds(evaluation) == _seeds(best):
        if sure is not None and other is not None:
            strata = sure.strata if other.strata is not None else None
            comparison = compare(evaluation.distance, best.distance, sure.influences, other.influences, strata)
        if evaluation.recognised is not None and best.recognised is not None:
            accuracy = paired_shares(evaluation.recognised, best.recognised)
    interval, limit = (None, None) if sure is None else (sure.interval, sure.limit)
    return Compared(evaluation.name, best.name, interval, limit, comparison, accuracy)


def _seeds(evaluation: Evaluation) -> tuple[int, int]:
    return evaluation.protocol.first_seed, evaluation.protocol.num_images


def comparison_table(compared: Sequence[Compared], title: str, chosen: bool = True) -> str:
    """A Markdown table, best first, with lines below it that say what is what.

    Args:
        title: what the distance is called.
        chosen: the baseline is the best of them, not one that somebody named.
    """
    rows = sorted(compared, key=lambda row: math.inf if row.distance is None else row.distance.value)
    columns = [
        Column("setting", tuple(row.name for row in rows), is_text=True),
        Column(f"{title}, 95 %", tuple(_with_interval(row.distance) for row in rows)),
        Column("of infinitely many images", tuple(_with_interval(row.limit) for row in rows)),
    ]
    if any(row.comparison is not None for row in rows):
        columns += [
            Column("difference, 95 %", tuple(_difference(row) for row in rows)),
            Column("P(better)", tuple(_probability(row) for row in rows)),
            Column("images to tell apart", tuple(_images(row) for row in rows)),
        ]
    if any(row.accuracy is not None for row in rows):
        columns.append(Column("accuracy difference", tuple(_percent(row.accuracy) for row in rows)))
    return "\n".join([markdown(columns), "", *_notes(rows, title, chosen)])


def comparison_json(compared: Sequence[Compared]) -> list[dict[str, Any]]:
    return [asdict(row) for row in compared]


def _notes(rows: Sequence[Compared], title: str, chosen: bool) -> list[str]:
    if all(row.distance is None for row in rows):
        return [f"- {NOTHING}"]
    notes = [
        f"- {title}, 95 %: of the mean {title} of so many images; of infinitely many images: without the bias of few "
        "images. The reference counts as it is in both"
    ]
    if any(row.comparison is not None for row in rows):
        who = f"{rows[0].baseline}, the best here" if chosen else rows[0].baseline
        flattered = ". It was chosen by these images, so its lead looks a little larger than it is" if chosen else ""
        notes.append(f"- difference: to {who}, on the same seeds{flattered}")
        notes.append("- P(better): how sure it is that the setting beats it; images to tell apart: at 5 %, in 8 of 10")
    return notes


def _named(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _with_interval(interval: Interval | None) -> str:
    if interval is None:
        return ABSENT
    digits = _digits(interval)
    return f"{interval.value:.{digits}f} ({interval.low:.{digits}f} to {interval.high:.{digits}f})"


def _digits(interval: Interval) -> int:
    """So many that half the interval has two."""
    half = interval.half_width
    return max(1 - math.floor(math.log10(half)), 0) if 0 < half < math.inf else 4


def _difference(row: Compared) -> str:
    if row.comparison is None:
        return ABSENT
    difference = row.comparison.difference
    digits = _digits(difference)
    return f"{difference.value:+.{digits}f} ({difference.low:+.{digits}f} to {difference.high:+.{digits}f})"


def _probability(row: Compared) -> str:
    if row.comparison is None:
        return ABSENT
    p = row.comparison.p_better
    return "< 0.001" if p < 0.001 else "> 0.999" if p > 0.999 else f"{p:.3f}"


def _images(row: Compared) -> str:
    if row.comparison is None or not math.isfinite(row.comparison.images):
        return ABSENT
    return f"{row.comparison.images:,.0f}"


def _percent(interval: Interval | None) -> str:
    if interval is None:
        return ABSENT
    return f"{interval.value:+.1%} ({interval.low:+.1%} to {interval.high:+.1%})"
