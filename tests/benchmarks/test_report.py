"""Rows, targets, and devices in virtual time: what the programs in benchmarks/ stand on."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.report import Row, run
from benchmarks.virtual import Chunk, Cluster


@pytest.mark.parametrize(
    ("row", "met"),
    [
        (Row("speed", 1.3, 1.2), True),
        (Row("speed", 1.1, 1.2), False),
        (Row("seconds", 2.0, 3.0, at_most=True), True),
        (Row("seconds", 4.0, 3.0, at_most=True), False),
        (Row("seconds", 4.0), None),
    ],
)
def test_a_target_is_met_from_its_side(row: Row, met: bool | None) -> None:
    assert row.met is met


def test_rows_are_printed_and_written_and_a_missed_target_is_an_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(quick: bool) -> Iterator[Row]:
        yield Row("speed", 1.25 if quick else 1.0, 1.2, more={"images_per_s": 12.3456})

    file = tmp_path / "rows.json"
    assert run(measure, "", ["--quick", "--json", str(file)]) == 0
    assert capsys.readouterr().out == "speed: 1.25  (target >= 1.2: met)  [images_per_s 12.35]\n"
    report = json.loads(file.read_text())
    assert report["rows"] == [
        {"name": "speed", "ratio": 1.25, "target": 1.2, "at_most": False, "met": True, "images_per_s": 12.3456}
    ]
    assert run(measure, "", []) == 1


def test_the_bound_is_that_of_devices_that_never_wait() -> None:
    cluster = Cluster([Chunk("a", i, 10.0) for i in range(12)], round_trip=0.0)
    for device, speed in enumerate((1.0, 2.0)):
        cluster.join(0.0, device, speed)
    cluster.join(20.0, 2, 3.0)
    cluster.leave(30.0, 1)
    end = cluster.run()
    assert cluster.bound() == 30.0  # 3 x 20 s, then 6 x 10 s
    assert 30.0 <= end <= 30.0 + 10.0 + 10.0
    assert sum(cluster.done.values()) == 12
