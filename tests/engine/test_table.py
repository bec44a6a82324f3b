"""The table, its JSON and its CSV say what the rows say."""

import csv
import io
import json
import math
from dataclasses import replace

from pipeline.engine.table import Row, benchmark_table, rows_csv, rows_json

HEUN = Row(
    name="heun, 18 steps",
    checkpoint="digits-1234abcd@2000/ema-500",
    solver="heun",
    num_steps=18,
    nfe=35.0,
    distance=2.345678,
    distances={"classifier": 2.345678, "lite": 12345.6},
    half_widths={"classifier": 0.1234, "lite": None},
    rank_deficient=("lite",),
    accuracy=0.9876,
    seconds_per_1000=12.3456,
    pareto=True,
    samples_digest="0" * 32,
    protocol="FD, classifier; 1,000 images, seeds 0-999; reference abc (5,000 images)",
)
EULER = replace(HEUN, name="euler", solver="euler", num_steps=9, nfe=9.0, distance=30.0, rank_deficient=(),
                distances={"classifier": 30.0, "lite": 500.0}, half_widths={"classifier": None, "lite": 34.5},
                accuracy=None, seconds_per_1000=1234.5)  # fmt: skip
TITLES = {"classifier": "FD, classifier", "lite": "FD, lite"}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_is_aligned_and_sorted_by_cost() -> None:
    lines = benchmark_table([HEUN, EULER], TITLES).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len({len(line) for line in table}) == 1
    assert len({tuple(i for i, sign in enumerate(line) if sign == "|") for line in table}) == 1
    titles = ["setting", "NFE", "FD, classifier", "FD, lite", "accuracy", "s / 1,000 images", "best"]
    assert cells(table[0]) == titles
    assert cells(table[2]) == ["euler", "9", "30", "500 ± 34", "-", "1234", "*"]
    assert cells(table[3]) == ["heun, 18 steps", "35", "2.35 ± 0.12", "12346~", "98.8%", "12.35", "*"]


def test_columns_that_say_nothing_are_left_out() -> None:
    row = replace(HEUN, accuracy=None, seconds_per_1000=None, rank_deficient=(), pareto=False)
    table = benchmark_table([row], {"classifier": "FD, classifier"})
    assert cells(table.splitlines()[0]) == ["setting", "NFE", "FD, classifier", "best"]
    assert "~" not in table


def test_a_comparison_of_checkpoints_names_them() -> None:
    other = replace(EULER, checkpoint="digits-1234abcd@4000/ema-500")
    assert "digits-1234abcd@4000/ema-500" in benchmark_table([HEUN, other], TITLES)
    assert "digits-1234abcd" not in benchmark_table([HEUN, EULER], TITLES)


def test_a_comparison_of_guides_names_them() -> None:
    one, other = (replace(HEUN, name=name, guide=f"small@{name}/raw") for name in ("1000", "2000"))
    lines = benchmark_table([one, other, EULER], TITLES).splitlines()
    assert cells(lines[0])[:3] == ["setting", "guide", "NFE"]
    assert [cells(line)[1] for line in lines[2:5]] == ["-", "small@1000/raw", "small@2000/raw"]
    assert "guide" not in cells(benchmark_table([one, EULER], TITLES).splitlines()[0])


def test_every_protocol_is_told_once_below_the_table() -> None:
    assert benchmark_table([HEUN, EULER, HEUN], TITLES).count(HEUN.protocol) == 1


def test_json_and_csv_hold_every_number() -> None:
    told = json.loads(rows_json([HEUN, EULER], benchmark="b"))
    assert told["benchmark"] == "b"
    assert [row["name"] for row in told["rows"]] == ["euler", "heun, 18 steps"]
    assert told["rows"][1]["distances"] == HEUN.distances
    lines = list(csv.DictReader(io.StringIO(rows_csv([HEUN, EULER]))))
    assert float(lines[1]["distance_lite"]) == 12345.6
    assert float(lines[0]["nfe"]) == 9.0


def test_a_number_that_is_none_is_still_json() -> None:
    told = json.loads(rows_json([replace(HEUN, distance=math.nan)]))
    assert told["rows"][0]["distance"] is None
