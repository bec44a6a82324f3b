"""What a report shows, put together of records that the store has, and the images that they name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.data.store import Store
from pipeline.report import words
from pipeline.report.parts import Figure, Line, Strip
from pipeline.report.pictures import class_strips, front_figure, strip, tried_figure
from pipeline.report.tables import against, cells, columns, per_class


@dataclass(frozen=True)
class Content:
    """All that stands in a report; see the template for where."""

    title: str
    subtitle: str
    facts: tuple[tuple[str, str], ...]
    figures: tuple[Figure, ...]
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    against: tuple[tuple[str, ...], tuple[Line, ...]]
    strips: tuple[Strip, ...]
    seeds: str
    classes: tuple[Strip, ...]
    classes_of: str
    per_class: tuple[tuple[str, tuple[str, ...], tuple[Line, ...]], ...]
    protocol: tuple[tuple[str, str], ...]
    compared: tuple[tuple[str, str], ...]
    cost: tuple[tuple[str, str], ...]
    search: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    again: str


def content_of(store: Store, record: Mapping[str, Any], search: Mapping[str, Any] | None = None) -> Content:
    """The content of a report.

    Args:
        store: where the images are; those that were given up to free space are left out.
        record: of a benchmark (`pipeline.engine.benchmark_record`).
        search: of the search that it ended, if it is of one.
    """
    rows = list(record.get("rows", ()))
    figures = [*([front_figure(record, rows)] if rows else []), *([tried_figure(search)] if search else [])]
    classes_of, classes = class_strips(store, record, rows)
    name = str(record["name"])
    return Content(
        title=name,
        subtitle=words.subtitle(rows, search),
        facts=words.facts(record, rows, search),
        figures=tuple(figures),
        columns=columns(record, rows),
        lines=tuple(Line(cells(record, rows, row), bool(row["pareto"])) for row in rows),
        against=against(record) if rows else ((), ()),
        strips=tuple(found for row in rows if (found := strip(store, record, row)) is not None),
        seeds=words.seeds(record) if rows else "",
        classes=classes,
        classes_of=classes_of,
        per_class=per_class(record) if rows else (),
        protocol=words.protocol(record) if rows else (),
        compared=words.compared(record, rows),
        cost=words.cost(record, rows, search),
        search=tuple(search["summary"]) if search else (),
        pairs=tuple((str(pair["name"]), str(pair["told"])) for pair in search["pairs"]) if search else (),
        notes=tuple(line.removeprefix("- ") for note in record.get("notes", ()) for line in str(note).splitlines()),
        again=f"python -m jobs.report CONFIG.yaml --set name={name}",
    )
