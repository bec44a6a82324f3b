"""Runs over what a later version wrote: refused before anything is computed, and left as it is."""

import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.data.store import Store
from pipeline.engine.generation import PointResult, generate
from pipeline.engine.timing import time_points
from pipeline.engine.work import Actors, Seeds
from pipeline.errors import NewerFormatError
from tests.data.kept import content, with_format
from tests.engine.tiny import EXECUTION, classifier_plan, tiny_points, tiny_store

HERE = Actors(num_actors=0)
POINTS = tiny_points(1, steps=(3,))
PLAN = classifier_plan()


def run(store: Store, count: int = 32, **changes: Any) -> list[PointResult]:
    settings: dict[str, Any] = {"extractors": [PLAN], "progress": False, **changes}
    return generate(store, POINTS, Seeds(0, count), EXECUTION, HERE, **settings)


def the_one(store: Store, pattern: str) -> str:
    return next(key for key in store.committed("") if re.fullmatch(pattern, key))


@pytest.mark.parametrize(
    ("pattern", "kind"),
    [
        (r"samples/\w+/chunk-000001", "chunk of samples"),
        (r"samples/\w+/setting", "setting of samples"),
        (r"features/\w+/\w+/chunk-000000", "features"),
        (r"checkpoints/net0-\w+/snapshots/\d+", "snapshot"),
    ],
)
def test_a_run_over_newer_files_computes_nothing_and_changes_nothing(tmp_path: Path, pattern: str, kind: str) -> None:
    store = tiny_store(tmp_path / "store", 1)
    run(store)
    with_format(store, the_one(store, pattern), "content_format", 2)
    before = content(store.uri)
    with pytest.raises(NewerFormatError, match=rf"newer version of sigmasweep \({kind} of format 2"):
        run(store, count=64)  # two more chunks than there are
    assert content(store.uri) == before


def test_a_newer_pace_is_left_by_a_run_that_is_done(tmp_path: Path) -> None:
    """What it would note of itself has no place there, and the run keeps all that it made."""
    store = tiny_store(tmp_path / "store", 1)
    run(store)
    key = the_one(store, r"paces/\w+")
    with_format(store, key, "content_format", 2)
    before = content(store.uri)
    [result] = run(store, count=64)
    assert result.generated == 32
    after = content(store.uri)
    assert {name: after[name] for name in before} == before


def test_a_newer_timing_is_not_measured_over(tmp_path: Path) -> None:
    store = tiny_store(tmp_path / "store", 1)
    time_points(store, POINTS, EXECUTION, HERE, repeats=1, progress=False)
    with_format(store, the_one(store, r"timings/\w+"), "content_format", 2)
    before = content(store.uri)
    for anew in (False, True):
        with pytest.raises(NewerFormatError, match="timing of format 2"):
            time_points(store, POINTS, EXECUTION, HERE, repeats=1, anew=anew, progress=False)
    assert content(store.uri) == before
