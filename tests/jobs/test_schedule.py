"""`jobs.schedule` as a person runs it: real trainings, registry, benchmark, tracker and webhook."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs import schedule
from pipeline.data.store import Store
from pipeline.engine import slots
from pipeline.engine.alarm import spread_margin
from pipeline.engine.session import session
from pipeline.engine.slot_history import history, history_table
from pipeline.engine.slots import Slot
from tests.jobs.scheduled import MODEL, WORSE_KIMG, config, make_data, train_version
from tests.tracking.test_webhook import server


def iso(day: int, month: int = 1) -> str:
    return f"2026-{month:02d}-{day:02d}T02:00:00+00:00"


def fire(path: Path, slot: str, *more: str) -> int:
    return schedule.main(["fire", str(path), "--slot", slot, *more])


def outcome(root: Path, name: str, slot: str) -> dict[str, Any]:
    found = slots.read_outcome(Store(root / "store"), Slot(name, datetime.fromisoformat(slot).astimezone(UTC)))
    assert found is not None
    return found


def slot_runs(root: Path, name: str) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    [experiment] = client.search_experiments(filter_string="name = 'tests'")
    wanted = f"tags.kind = 'slot' and tags.schedule = '{name}'"
    return list(client.search_runs([experiment.experiment_id], wanted, order_by=["tags.slot"]))


def champion(root: Path) -> int:
    from pipeline.tracking.registry import Registry

    return Registry(f"sqlite:///{root}/mlflow.db").aliases(MODEL)["champion"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("schedule")
    make_data(root)
    with session(num_cpus=2):
        yield root


def test_each_slot_benchmarks_the_newest_version_and_a_worse_one_raises_the_alarm(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config(root, alarm={"webhook_from": "HOOK"})
    with server([200]) as (url, got):
        monkeypatch.setenv("HOOK", url)
        train_version(root, 1, 4 * WORSE_KIMG)
        assert fire(path, iso(1)) == 0
        assert (outcome(root, "nightly", iso(1))["verdict"], champion(root)) == ("first", 1)
        train_version(root, 2)
        assert fire(path, iso(2)) == 0
        assert (outcome(root, "nightly", iso(2))["verdict"], champion(root)) == ("good", 2)
        train_version(root, 3, WORSE_KIMG)
        assert fire(path, iso(3)) == 3
        assert fire(path, iso(3)) == 3
        assert champion(root) == 2
    [(_, told)] = got
    assert (told["event"], told["version"], told["slot"]) == ("regression", "3", iso(3))
    assert told["baseline"] == iso(2)
    lines = capsys.readouterr()
    assert "ALARM nightly 2026-01-03T02:00:00+00:00: euler" in lines.err
    runs = slot_runs(root, "nightly")
    assert [run.data.tags["alarm"] for run in runs] == ["none", "none", "regression"]
    assert [run.data.tags["version"] for run in runs] == ["1", "2", "3"]
    everything = lines.out + lines.err + json.dumps([run.data.to_dictionary() for run in runs])
    assert "geheim" not in everything
    for file in (root / "store" / "schedules").rglob("*.json"):
        assert "geheim" not in file.read_text()
    for file in (root / "mlartifacts").rglob("settings.yaml"):
        assert "geheim" not in file.read_text()


def test_after_an_alarm_slots_are_still_compared_with_the_last_good_one(root: Path) -> None:
    path = config(root, alarm={})
    assert fire(path, iso(4)) == 3
    assert outcome(root, "nightly", iso(4))["baseline"] == iso(2)
    train_version(root, 4)
    assert fire(path, iso(5)) == 0


def test_the_history_is_a_table_json_and_a_figure(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    assert schedule.main(["history", str(config(root)), "--out", str(root / "history")]) == 0
    told = capsys.readouterr().out
    assert "5 slots with results, 0 missed, 2 alarms" in told
    assert "asks for a margin of" in told
    entries = json.loads((root / "history" / "history.json").read_text())
    assert [entry["verdict"] for entry in entries] == ["first", "good", "regression", "regression", "good"]
    assert [entry["version"] for entry in entries] == ["1", "2", "3", "3", "4"]
    assert Image.open(root / "history" / "history.png").width > 800


def test_new_code_on_a_fixed_checkpoint_reuses_nothing_and_a_cut_off_slot_goes_on(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from jobs import slot as slot_job

    fixed = {"checkpoint": {"training": "seed-2"}, "reuse": "none"}
    path = config(root, "code", model=None, benchmark=fixed, alarm={"margin": 0.0}, attempts=9)
    assert fire(path, iso(1)) == 0
    before = len(list((root / "store" / "samples").iterdir()))

    class Cut(BaseException):
        """The process is gone when all images are there and nothing is recorded."""

    def cut(*arguments: Any) -> None:
        raise Cut

    with monkeypatch.context() as patched:
        patched.setattr(slot_job, "result_of", cut)
        with pytest.raises(Cut):
            fire(path, iso(2))
    assert len(list((root / "store" / "samples").iterdir())) == before + 1
    capsys.readouterr()
    assert fire(path, iso(2)) == 0
    assert len(list((root / "store" / "samples").iterdir())) == before + 1
    found = outcome(root, "code", iso(2))
    assert found["settings"][0]["samples"] != outcome(root, "code", iso(1))["settings"][0]["samples"]
    assert found["changes"][0]["difference"] == 0  # the same code, and the same seeds: the same images, made anew
    assert found["changes"][0]["paired"]
    assert found["code"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"cron": "0 25 * * *"}, "bad hour in '0 25 * * *'"),
        ({"time_zone": "Mars/Olympus"}, "there is no time zone 'Mars/Olympus'"),
        ({"model": None}, "give either the name of a registered model, or benchmark.checkpoint.training"),
        ({"catch_up": "some"}, "catch_up: input should be 'skip', 'latest' or 'all' (got 'some')"),
        ({"alarm": {"margin": -1}}, "alarm.margin: input should be greater than or equal to 0 (got -1)"),
        ({"alarm": {"webhook_from": "NOT_THERE"}}, "the environment variable NOT_THERE is not set"),
        ({"model": "nobody"}, "no such model is registered"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    root: Path, changes: dict[str, Any], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fire(config(root, "mistaken", **changes), iso(1)) == 2
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error


def test_a_dry_run_tells_the_next_slots_and_settings_that_are_the_same(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config(root, "dry", model=None, benchmark={"checkpoint": {"training": "seed-2"}})
    assert schedule.main(["fire", str(path), "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "# the next slots: 20" in told
    assert "# 1 settings x 1,000 images" in told
    assert yaml.safe_load(told)["cron"] == "0 2 * * *"
    assert not (root / "store" / "schedules" / "dry").exists()


def equal_slots(root: Path) -> tuple[float, list[int], int]:
    """Eight versions tell the margin by what `history` says; twenty-one others of the recipe are slots of a schedule,
    each on seeds of its own, nothing reused; then comes a worse one. Run again, it goes on.

    Returns:
        (the margin, the exit codes of the equal slots, that of the worse one).
    """
    make_data(root)
    anew = {"slot_seeds": "disjoint", "benchmark": {"reuse": "none"}}
    wide = config(root, "calibration", alarm={"margin": 9.0}, **anew)
    for number in range(1, 9):
        train_version(root, 100 + number)
        assert fire(wide, iso(number)) == 0
    store = Store(root / "store")
    margin = spread_margin({entry.version: float(entry.distance or 0) for entry in history(store, "calibration")})
    assert margin is not None
    path = config(root, "equal", alarm={"margin": margin, "unit": "distance"}, **anew)
    codes = []
    for number in range(1, 22):
        train_version(root, 200 + number)
        codes.append(fire(path, iso(number)))
    train_version(root, 300, WORSE_KIMG)
    worse = fire(path, iso(22))
    print(f"margin {margin:.4g}\n{history_table(history(store, 'equal'), 'UTC')}")
    return margin, codes, worse


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_twenty_equal_checkpoints_raise_no_alarm_and_a_worse_one_does(root: Path, tmp_path: Path) -> None:
    _, codes, worse = equal_slots(tmp_path)
    assert codes == [0] * 21
    assert worse == 3
    assert len({outcome(tmp_path, "equal", iso(day))["seeds"]["first"] for day in range(1, 22)}) == 21
