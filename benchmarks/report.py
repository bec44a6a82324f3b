"""What all programs here share: `--quick`, `--json FILE`, and rows with a ratio and its target."""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """One thing that was measured.

    Args:
        name: what it is.
        ratio: the measured number, in the unit of the target.
        target: what it should be; None where nothing was promised.
        at_most: the target is a limit from above.
        more: whatever else was measured on the way.
    """

    name: str
    ratio: float
    target: float | None = None
    at_most: bool = False
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        return self.ratio <= self.target if self.at_most else self.ratio >= self.target

    def to_json(self) -> dict[str, Any]:
        own = {"name": self.name, "ratio": self.ratio, "target": self.target, "at_most": self.at_most, "met": self.met}
        return {**self.more, **own}

    def __str__(self) -> str:
        sign = "<=" if self.at_most else ">="
        target = "" if self.target is None else f"  (target {sign} {self.target:g}: {'met' if self.met else 'MISSED'})"
        more = ", ".join(f"{key} {_short(value)}" for key, value in self.more.items())
        return f"{self.name}: {self.ratio:.4g}{target}{f'  [{more}]' if more else ''}"


def seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """Wall time of a call: the median of some, after one that is not counted."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def run(measure: Callable[[bool], Iterable[Row]], about: str | None, argv: Sequence[str] | None = None) -> int:
    """The command line of a program here. Every row is printed as soon as it is known.

    Args:
        measure: makes the rows, one after the other; told whether to be quick.
        about: for --help.

    Returns:
        0, or 1 where a target was missed.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller: minutes on two cores")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here too")
    options = parser.parse_args(argv)
    start = time.perf_counter()
    rows: list[Row] = []
    for row in measure(options.quick):
        print(row, flush=True)
        rows.append(row)
    if options.json:
        report = {
            "machine": machine(),
            "quick": options.quick,
            "seconds": round(time.perf_counter() - start, 1),
            "rows": [row.to_json() for row in rows],
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return int(any(row.met is False for row in rows))


def machine() -> str:
    """The processor in words."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.processor()}, {len(models)} CPUs"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
