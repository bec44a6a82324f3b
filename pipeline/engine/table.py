"""What a benchmark tells: one row a setting, as a table for people, and as JSON and CSV for documents."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any

from pipeline.engine.scoring import Heading
from pipeline.metrics.scores import ClassRow, Estimate
from pipeline.metrics.trajectory import TrajectoryError, quantile_names

MARK = "*"
TOO_FEW = "~"
ABSENT = "-"
WITHIN = "±"
BETTER = {"less": " ↓", "more": " ↑", "neither": ""}


@dataclass(frozen=True)
class Row:
    """One setting on one checkpoint.

    Args:
        name: of the setting.
        checkpoint: whose weights.
        solver: its kind, and what is unusual beside it; a line in a figure.
        num_steps: of the time grid; None where every sample finds its own.
        nfe: network evaluations an image, counted, mean over the images.
        distance: the first of `distances`, by which rows are ranked.
        distances: by the name of the extractor.
        half_widths: half the 95 % interval of each distance, by the same names; None where it has none.
        rank_deficient: the names of those that were measured on too few images for their number of features.
        accuracy: the share of images recognised as their labels, where a classifier was asked.
        seconds_per_1000: by a separate warm timing, if there was one.
        pareto: nothing else has both a distance and an NFE that are as good, and one that is better.
        samples_digest: where the images lie.
        protocol: how `distance` was measured, in one short line.
        protocols: how each of `distances` was, in full, by the same names.
        guide: whose weights guide it, or an empty text.
        scores: what is told beside the distances, with its interval, by its key.
        trajectory: the distance to the converged trajectories, where it was asked for and there are such.
    """

    name: str
    checkpoint: str
    solver: str
    num_steps: int | None
    nfe: float
    distance: float
    distances: Mapping[str, float]
    half_widths: Mapping[str, float | None]
    rank_deficient: tuple[str, ...]
    accuracy: float | None
    seconds_per_1000: float | None
    pareto: bool
    samples_digest: str
    protocol: str
    guide: str = ""
    protocols: Mapping[str, str] = field(default_factory=dict)
    scores: Mapping[str, Estimate] = field(default_factory=dict)
    trajectory: TrajectoryError | None = None

    @property
    def interval(self) -> tuple[float | None, float | None]:
        """The ends of the interval of `distance`."""
        half = next(iter(self.half_widths.values()), None)
        return (None, None) if half is None else (max(self.distance - half, 0.0), self.distance + half)


@dataclass(frozen=True)
class Column:
    """A title, and what each row shows under it; numbers are set to the right."""

    title: str
    cells: tuple[str, ...]
    is_text: bool = False


def markdown(columns: Sequence[Column]) -> str:
    """The columns as a Markdown table that is aligned as plain text too."""
    widths = [max(map(len, (column.title, *column.cells))) for column in columns]
    rules = [
        "-" * (width - 1) + ("-" if column.is_text else ":") for column, width in zip(columns, widths, strict=True)
    ]
    lines = [[column.title for column in columns], rules, *zip(*(column.cells for column in columns), strict=True)]
    pads = [str.ljust if column.is_text else str.rjust for column in columns]
    return "\n".join(
        "| " + " | ".join(pad(cell, width) for pad, cell, width in zip(pads, line, widths, strict=True)) + " |"
        for line in lines
    )


def by_cost(rows: Sequence[Row]) -> list[Row]:
    """By NFE, then by distance."""
    return sorted(rows, key=lambda row: (row.nfe, row.distance, row.name))


def benchmark_table(rows: Sequence[Row], titles: Mapping[str, str], headings: Sequence[Heading] = ()) -> str:
    """The table of a benchmark, by rising NFE, with a line below it for every mark that it uses.

    Args:
        rows: at least one.
        titles: what the distance of each extractor is called, by the name of the extractor.
        headings: of the scores; those that no row has are left out.
    """
    rows = by_cost(rows)
    headings = [heading for heading in headings if any(heading.key in row.scores for row in rows)]
    columns = [Column("setting", tuple(row.name for row in rows), is_text=True)]
    if len({row.checkpoint for row in rows}) > 1:
        columns.append(Column("checkpoint", tuple(row.checkpoint for row in rows), is_text=True))
    if len({row.guide for row in rows} - {""}) > 1:
        columns.append(Column("guide", tuple(row.guide or ABSENT for row in rows), is_text=True))
    columns.append(Column("NFE", tuple(f"{row.nfe:g}" for row in rows)))
    for name, title in titles.items():
        columns.append(Column(title, tuple(_distance(row, name) for row in rows)))
    columns += [
        Column(heading.title + BETTER[heading.better], tuple(_score(row, heading.key) for row in rows))
        for heading in headings
    ]
    if any(row.accuracy is not None for row in rows):
        columns.append(
            Column("accuracy", tuple(ABSENT if row.accuracy is None else f"{row.accuracy:.1%}" for row in rows))
        )
    if any(row.trajectory is not None for row in rows):
        columns.append(Column("trajectory RMSE", tuple(_trajectory(row) for row in rows)))
    if any(row.seconds_per_1000 is not None for row in rows):
        seconds = (ABSENT if row.seconds_per_1000 is None else _number(row.seconds_per_1000) for row in rows)
        columns.append(Column("s / 1,000 images", tuple(seconds)))
    columns.append(Column("best", tuple(MARK if row.pareto else "" for row in rows), is_text=True))
    return "\n".join([markdown(columns), "", *_notes(rows, next(iter(titles.values()))), *_about_scores(headings)])


def rows_json(rows: Sequence[Row], **about: Any) -> str:
    """The rows and what is to be said of them all, as JSON. Numbers that are not finite become null."""
    content = {**about, "rows": [asdict(row) for row in by_cost(rows)]}
    return json.dumps(_finite(content), indent=1, allow_nan=False)


def rows_csv(rows: Sequence[Row]) -> str:
    """The rows as CSV, two columns for every extractor: its distance, and half that distance's interval."""
    lines = []
    for row in by_cost(rows):
        line = asdict(row)
        distances, half_widths, scores = line.pop("distances"), line.pop("half_widths"), line.pop("scores")
        protocols = line.pop("protocols")
        line["rank_deficient"] = " ".join(row.rank_deficient)
        del line["trajectory"]
        lines.append(
            line
            | {f"distance_{name}": value for name, value in distances.items()}
            | {f"half_width_{name}": half_widths.get(name) for name in distances}
            | {f"protocol_{name}": sentence for name, sentence in protocols.items()}
            | {name: value for key, score in scores.items() for name, value in _ends(key, score).items()}
            | trajectory_numbers(row.trajectory)
        )
    return _csv(lines)


def classes_csv(classes: Mapping[str, Sequence[ClassRow]]) -> str:
    """Settings class by class as CSV; an empty text where there are none."""
    lines: list[dict[str, Any]] = []
    for name, rows in classes.items():
        for row in rows:
            line = {"setting": name, "label": row.label, "num_images": row.num_images}
            for key, estimate in (("accuracy", row.accuracy), ("distance", row.distance)):
                line |= _ends(key, asdict(estimate or Estimate(math.nan)))
            lines.append({key: None if value != value else value for key, value in line.items()})
    return _csv(lines) if lines else ""


def _ends(key: str, estimate: Mapping[str, float | None]) -> dict[str, float | None]:
    return {key: estimate["value"], f"{key}_low": estimate["low"], f"{key}_high": estimate["high"]}


def _csv(lines: Sequence[Mapping[str, Any]]) -> str:
    """Lines may lack what others have."""
    text = io.StringIO()
    names = dict.fromkeys(name for line in lines for name in line)
    writer = csv.DictWriter(text, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def trajectory_numbers(error: TrajectoryError | None) -> dict[str, float | None]:
    """`rmse`, half its interval, and the quantiles, as documents name them; all None where there are none."""
    names = [f"trajectory_{name}" for name in ("rmse", "half_width", *quantile_names())]
    if error is None:
        return dict.fromkeys(names)
    return dict(zip(names, (error.rmse, error.half_width, *error.quantiles), strict=True))


def _notes(rows: Sequence[Row], title: str) -> list[str]:
    notes = [f"- `{MARK}` nothing is better in NFE or in {title} without being worse in the other"]
    if any(half is not None for row in rows for half in row.half_widths.values()):
        notes.append(f"- `{WITHIN}` half the 95 % interval of the mean distance of so many images from this network")
    if any(row.rank_deficient for row in rows):
        notes.append(f"- `{TOO_FEW}` no more images than features: compare such a distance with nothing else")
    protocols = (protocol for row in rows for protocol in (row.protocols.values() or [row.protocol]))
    return notes + [f"- {protocol}" for protocol in dict.fromkeys(protocols)]


def _about_scores(headings: Sequence[Heading]) -> list[str]:
    """A line for each score: of whose features it is, and what its interval is of."""
    told = []
    for heading in headings:
        interval = f"95 % interval of {heading.estimand}" if heading.estimand else f"no interval: {heading.why_none}"
        told.append(f"- {heading.title}, by the features of {heading.extractor!r}; {interval}")
    return told


def _score(row: Row, key: str) -> str:
    estimate = row.scores.get(key)
    if estimate is None:
        return ABSENT
    if estimate.low is None or estimate.high is None:
        return _number(estimate.value)
    half = max(estimate.high - estimate.value, estimate.value - estimate.low)  # an interval need not be symmetric
    return _within(estimate.value, half)


def _distance(row: Row, name: str) -> str:
    return with_interval(row.distances[name], row.half_widths.get(name), TOO_FEW if name in row.rank_deficient else "")


def _trajectory(row: Row) -> str:
    return ABSENT if row.trajectory is None else with_interval(row.trajectory.rmse, row.trajectory.half_width)


def with_interval(value: float, half: float | None, mark: str = "") -> str:
    """`1.23 ± 0.45`; where there is no interval the number alone, with a mark."""
    if half is None or not 0 < half < float("inf"):
        return _number(value) + mark
    return _within(value, half)


def _within(value: float, half: float) -> str:
    if not 0 < half < float("inf"):
        return _number(value)
    digits = max(1 - math.floor(math.log10(half)), 0)  # two of the interval's, and as far those of the distance
    return f"{value:.{digits}f} {WITHIN} {half:.{digits}f}"


def _number(value: float) -> str:
    """Four digits, or all before the point."""
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def _finite(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _finite(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value
