"""What a report says of its numbers: how they were measured, of what, and what it took."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.report.tables import Row, distance, first_title

Pairs = tuple[tuple[str, str], ...]


def subtitle(rows: Sequence[Row], search: Mapping[str, Any] | None) -> str:
    kind = "Search" if search else "Benchmark"
    checkpoints = ", ".join(dict.fromkeys(row["checkpoint"] for row in rows))
    return f"{kind} of samplers on {checkpoints}" if rows else kind


def facts(record: Mapping[str, Any], rows: Sequence[Row], search: Mapping[str, Any] | None) -> Pairs:
    """Numbers that stand at the top."""
    facts = []
    measured = [row for row in rows if row["distance"] is not None]
    if measured:
        best = min(measured, key=lambda row: float(row["distance"]))
        facts.append((f"least {first_title(record)}", distance(best)))
        facts.append(("NFE of it", f"{best['nfe']:g}"))
        facts.append(("images a setting", f"{record['seeds']['count']:,}"))
    facts.append(("settings measured", f"{len(search['marks']) if search else len(rows):,}"))
    if search:
        facts.append(("of brute force", f"{search['spent'] / max(search['brute_force'], 1):.1%}"))
    return tuple(facts)


def protocol(record: Mapping[str, Any]) -> Pairs:
    span, execution = record["seeds"], record["execution"]
    last = span["first"] + span["count"] - 1
    return (
        *((str(measure["title"]), _measure(measure)) for measure in record["measures"]),
        ("images", f"{span['count']:,} a setting, seeds {span['first']} to {last}, 8 bits"),
        ("execution", ", ".join(f"{name} {value}" for name, value in execution.items())),
        ("versions", ", ".join(f"{name} {value}" for name, value in record["versions"].items())),
    )


def _measure(measure: Mapping[str, Any]) -> str:
    count = measure["reference_count"]
    reference = f"{measure['reference']} ({f'{count:,} images' if count else 'published statistics'}"
    return f"extractor {measure['extractor']}; reference {reference}, {measure['reference_digest']})"


def compared(record: Mapping[str, Any], rows: Sequence[Row]) -> Pairs:
    """What stands behind each setting: the weights and the images."""
    lines = []
    for row in rows:
        checkpoint = record["points"].get(row["name"], {}).get("checkpoint", {})
        weights = f"{checkpoint.get('training', row['checkpoint'])} at {checkpoint.get('at', '?')} images, "
        guide = f", guided by {row['guide']}" if row.get("guide") else ""
        lines.append((row["name"], f"{weights}{checkpoint.get('weights', '')}{guide}; samples {row['samples_digest']}"))
    return tuple(lines)


def cost(record: Mapping[str, Any], rows: Sequence[Row], search: Mapping[str, Any] | None) -> Pairs:
    lines: list[tuple[str, str]] = []
    if rows:
        lines.append(("network evaluations of these images", f"{record['evaluations']:,.0f}"))
        timed = record["timed_on"]
        lines.append(("seconds", f"measured warm, by themselves, on {timed}" if timed else "were not measured"))
    if search:
        lines.append(("network evaluations of the search", f"{search['spent']:,.0f}"))
        lines.append(("the full grid with all images would take", f"{search['brute_force']:,.0f}"))
    return tuple(lines)


def seeds(record: Mapping[str, Any]) -> str:
    first = record["seeds"]["first"]
    return f"seeds {first} to {first + record['pictures'] - 1}, the same in the same column"
