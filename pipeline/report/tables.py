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
        *(heading["title"] for heading in _scores(record, rows)),
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
        *(_interval(row["scores"].get(heading["key"])) for heading in _scores(record, rows)),
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


def _scores(record: Mapping[str, Any], rows: Sequence[Row]) -> list[Mapping[str, Any]]:
    """What is told beside the distances, of at least one setting."""
    told = {key for row in rows for key in row.get("scores") or {}}
    return [heading for heading in record.get("scores", ()) if heading["key"] in told]


def _interval(estimate: Mapping[str, Any] | None) -> str:
    """`1.23 ± 0.45` of a value with the ends of its interval, or the value alone."""
    if estimate is None or estimate["value"] is None:
        return "–"
    low, high = estimate["low"], estimate["high"]
    return with_interval(estimate["value"], None if low is None or high is None else (high - low) / 2)


def per_class(record: Mapping[str, Any]) -> tuple[tuple[str, tuple[str, ...], tuple[Line, ...]], ...]:
    """A table for each number that is known class by class, of a record's `classes`."""
    settings: Mapping[str, Sequence[Mapping[str, Any]]] = record.get("classes") or {}
    best = {row["name"] for row in record["rows"] if row["pareto"]}
    tables = []
    for key, title in (("accuracy", "accuracy"), ("distance", f"{first_title(record)}, of each class by itself")):
        found = {name: {one["label"]: one[key] for one in rows if one[key]} for name, rows in settings.items()}
        labels = sorted({label for numbers in found.values() for label in numbers})
        lines = tuple(
            Line((name, *(_interval(numbers.get(label)) for label in labels)), name in best)
            for name, numbers in found.items()
        )
        if labels:
            tables.append((title, ("setting", *map(str, labels)), lines))
    return tuple(tables)


def against(record: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[Line, ...]]:
    """Every setting against the baseline, on the same seeds; nothing where none has an interval."""
    compared = [one for one in record.get("comparisons") or () if one["distance"] is not None]
    if not any(one["comparison"] for one in compared):
        return (), ()
    title = first_title(record)
    head = ("setting", f"{title}, 95 %", "of infinitely many images", "difference, 95 %", "P(better)", "images to tell")
    best = {row["name"] for row in record["rows"] if row["pareto"]}
    ordered = sorted(compared, key=lambda one: float(one["distance"]["value"]))
    return head, tuple(Line(_against(one), one["name"] in best) for one in ordered)


def _against(one: Mapping[str, Any]) -> tuple[str, ...]:
    numbers = (one["name"], _interval(one["distance"]), _interval(one["limit"]))
    comparison = one["comparison"]
    if comparison is None:
        return (*numbers, "what the others are compared with" if one["name"] == one["baseline"] else "–", "–", "–")
    images = comparison["images"]
    told = "–" if images is None else f"{images:,.0f}"
    return (*numbers, _interval(comparison["difference"]), f"{comparison['p_better']:.1%}", told)


def first_title(record: Mapping[str, Any]) -> str:
    """What the distance that ranks is called."""
    return str(next(iter(record["distances"].values())))
