"""What a benchmark tells: one row a setting, as a table for people, and as JSON and CSV for documents."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.metrics.trajectory import TrajectoryError, quantile_names

MARK = "*"
TOO_FEW = "~"
ABSENT = "-"
WITHIN = "±"


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
        protocol: how `distance` was measured, in one line.
        guide: whose weights guide it, or an empty text.
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


def benchmark_table(rows: Sequence[Row], titles: Mapping[str, str]) -> str:
    """The table of a benchmark, by rising NFE, with a line below it for every mark that it uses.

    Args:
        rows: at least one.
        titles: what the distance of each extractor is called, by the name of the extractor.
    """
    rows = by_cost(rows)
    columns = [Column("setting", tuple(row.name for row in rows), is_text=True)]
    if len({row.checkpoint for row in rows}) > 1:
        columns.append(Column("checkpoint", tuple(row.checkpoint for row in rows), is_text=True))
    if len({row.guide for row in rows} - {""}) > 1:
        columns.append(Column("guide", tuple(row.guide or ABSENT for row in rows), is_text=True))
    columns.append(Column("NFE", tuple(f"{row.nfe:g}" for row in rows)))
    for name, title in titles.items():
        columns.append(Column(title, tuple(_distance(row, name) for row in rows)))
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
    return "\n".join([markdown(columns), "", *_notes(rows, next(iter(titles.values())))])


def rows_json(rows: Sequence[Row], **about: Any) -> str:
    """The rows and what is to be said of them all, as JSON. Numbers that are not finite become null."""
    content = {**about, "rows": [asdict(row) for row in by_cost(rows)]}
    return json.dumps(_finite(content), indent=1, allow_nan=False, default=str)


def rows_csv(rows: Sequence[Row]) -> str:
    """The rows as CSV, two columns for every extractor: its distance, and half that distance's interval."""
    lines = []
    for row in by_cost(rows):
        line = asdict(row)
        distances, half_widths = line.pop("distances"), line.pop("half_widths")
        line["rank_deficient"] = " ".join(row.rank_deficient)
        del line["trajectory"]
        lines.append(
            line
            | {f"distance_{name}": value for name, value in distances.items()}
            | {f"half_width_{name}": half_widths.get(name) for name in distances}
            | trajectory_numbers(row.trajectory)
        )
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
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
    return notes + [f"- {protocol}" for protocol in dict.fromkeys(row.protocol for row in rows)]


def _distance(row: Row, name: str) -> str:
    return with_interval(row.distances[name], row.half_widths.get(name), TOO_FEW if name in row.rank_deficient else "")


def _trajectory(row: Row) -> str:
    return ABSENT if row.trajectory is None else with_interval(row.trajectory.rmse, row.trajectory.half_width)


def with_interval(value: float, half: float | None, mark: str = "") -> str:
    """`1.23 ± 0.45`; where there is no interval the number alone, with a mark."""
    if half is None or not 0 < half < float("inf"):
        return _number(value) + mark
    digits = max(1 - math.floor(math.log10(half)), 0)  # two of the interval's, and as far those of the distance
    return f"{value:.{digits}f} {WITHIN} {half:.{digits}f}"


def _number(value: float) -> str:
    """Four digits, or all before the point."""
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value
