"""The tables of a report: a line a setting, from the rows of a record."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.engine.table import with_interval
from pipeline.report.parts import Line

Row = Mapping[str, Any]


def columns(record: Mapping[str, Any], rows: Sequence[Row]) -> tuple[str, ...]:
    return (
        "setting",
        *(["checkpoint"] if len({row["checkpoint"] for row in rows}) > 1 else []),
        "NFE",
        *map(str, record.get("distances", {}).values()),
        *(["accuracy"] if _any(rows, "accuracy") else []),
        *(["trajectory RMSE"] if _any(rows, "trajectory") else []),
        *(["s / 1,000 images"] if _any(rows, "seconds_per_1000") else []),
    )


def cells(record: Mapping[str, Any], rows: Sequence[Row], row: Row) -> tuple[str, ...]:
    trajectory = row.get("trajectory")
    error = "–" if trajectory is None else with_interval(trajectory["rmse"], trajectory["half_width"])
    seconds, accuracy = row["seconds_per_1000"], row["accuracy"]
    return (
        row["name"],
        *([row["checkpoint"]] if len({other["checkpoint"] for other in rows}) > 1 else []),
        f"{row['nfe']:g}",
        *(distance(row, name) for name in record["distances"]),
        *(["–" if accuracy is None else f"{accuracy:.1%}"] if _any(rows, "accuracy") else []),
        *([error] if _any(rows, "trajectory") else []),
        *(["–" if seconds is None else f"{seconds:.4g}"] if _any(rows, "seconds_per_1000") else []),
    )


def _any(rows: Sequence[Row], name: str) -> bool:
    return any(row.get(name) is not None for row in rows)


def distance(row: Row, name: str | None = None) -> str:
    name = next(iter(row["distances"])) if name is None else name
    value = row["distances"][name]
    if value is None:
        return "not finite"
    mark = " (too few images)" if name in row["rank_deficient"] else ""
    return with_interval(value, row["half_widths"].get(name), mark)


def per_class(
    rows: Sequence[Row],
) -> tuple[tuple[str, tuple[str, ...], tuple[Line, ...]], ...]:
    """A table for each score that rows have by class: `per_class: {score: {class: number}}`."""
    scores = dict.fromkeys(score for row in rows for score in row.get("per_class") or {})
    tables = []
    for score in scores:
        having = [row for row in rows if score in (row.get("per_class") or {})]
        classes = tuple(dict.fromkeys(name for row in having for name in row["per_class"][score]))
        lines = [
            Line((row["name"], *(f"{row['per_class'][score].get(name, float('nan')):.4g}" for name in classes)),
                 bool(row["pareto"]))
            for row in having
        ]  # fmt: skip
        tables.append((score, ("setting", *classes), tuple(lines)))
    return tuple(tables)


def first_title(record: Mapping[str, Any]) -> str:
    """What the distance that ranks is called."""
    return str(next(iter(record["distances"].values())))
