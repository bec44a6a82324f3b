"""Every settings file that is shipped is valid, and says the same when it is written out whole."""

from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest
import yaml

from jobs.cli import resolved_yaml
from pipeline.config.benchmarks import BenchmarkJob, CompareJob
from pipeline.config.datasets import PrepareJob
from pipeline.config.generation import GenerateJob
from pipeline.config.job import Job
from pipeline.config.load import load, read
from pipeline.config.measuring import EvaluateJob
from pipeline.config.points import SamplerSettings
from pipeline.config.schedule import ScheduleJob
from pipeline.config.search import SearchJob
from pipeline.config.studies import StudyJob
from pipeline.config.suggest import SuggestJob
from pipeline.config.trainings import TrainJob
from pipeline.config.transfer import ImportCheckpointJob
from pipeline.diffusion.sampling import Sampler
from pipeline.networks import DDPMpp, Network
from pipeline.training.settings import TrainingSettings

ROOT = Path(__file__).parents[2] / "jobs" / "configs"
CONFIGS = sorted(ROOT.rglob("*.yaml"))
KINDS: list[tuple[str, type[Job]]] = [  # the key that only this job has
    ("cron", ScheduleJob), ("space", SearchJob), ("levels", SuggestJob), ("first", CompareJob), ("train", StudyJob),
    ("source", PrepareJob),
    ("path", ImportCheckpointJob),
    ("training", TrainJob), ("name", BenchmarkJob), ("metrics", EvaluateJob), ("checkpoint", GenerateJob),
]  # fmt: skip


def job_of(path: Path) -> type[Job]:
    keys = read(path)
    return next(model for key, model in KINDS if key in keys)


def skip_if_ahead(path: Path) -> None:
    """Skips a file that uses a network or a setting that is not there yet."""
    content = read(path)
    content = content.get("train", content)
    model = content.get("model", {})
    if isinstance(model, str):  # of a schedule: a registered one
        return
    kind = model.get("network", {}).get("kind", DDPMpp.kind)
    missing = {kind} - {network.kind for network in get_args(Network)}
    missing |= {"augment"} & set(content.get("training", {})) - set(TrainingSettings.model_fields)
    if missing:
        pytest.skip(f"there is no {', '.join(sorted(missing))} yet")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_file_is_valid_and_its_resolved_form_is_the_same_job(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_if_ahead(path)
    monkeypatch.setenv("SIGMASWEEP_DATA", "/data")
    settings = load(job_of(path), path)
    again = tmp_path / "resolved.yaml"
    again.write_text(resolved_yaml(settings))
    assert load(job_of(path), again) == settings
    assert yaml.safe_load(resolved_yaml(settings)) == settings.model_dump(mode="json")


def test_a_file_is_shipped_for_each_journey() -> None:
    assert {"demo", "fashion-mnist", "cifar10"} <= {path.stem for path in CONFIGS}


def test_the_settings_of_a_sampler_are_its_fields() -> None:
    assert SamplerSettings().build() == Sampler()
    assert set(SamplerSettings.model_fields) == {field.name for field in fields(Sampler)}
