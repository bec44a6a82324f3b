"""From settings to the points of the engine."""

from typing import Any

from jobs.context import engine_points
from jobs.study import of_training
from pipeline.config.benchmarks import BenchmarkSettings
from pipeline.config.generation import GenerateJob
from pipeline.config.studies import StudyJob
from pipeline.diffusion.guidance import Autoguidance, ClassifierFree, Unguided
from pipeline.training.snapshot import CheckpointRef

AUTO = {"kind": "autoguidance", "weight": 1.5, "sigma_hi": 5}
METRICS = {"extractors": [{"kind": "classifier"}]}


def points(**settings: Any) -> list[Any]:
    return engine_points(GenerateJob.model_validate({"checkpoint": {"training": "big", "ema": "ema-8"}, **settings}))


def test_a_guide_is_of_the_training_of_its_checkpoint_unless_it_names_another() -> None:
    [own] = points(guide={"at": 500, "ema": "raw"}, sampler={"guidance": AUTO})
    assert own.sampler.guidance == Autoguidance(weight=1.5, sigma_hi=5.0)
    assert own.checkpoint == CheckpointRef("big", "latest", "ema-8")
    assert own.guide == CheckpointRef("big", 500, "raw")
    [other] = points(guide={"training": "small"}, sampler={"guidance": AUTO})
    assert other.guide == CheckpointRef("small", "latest", None)


def test_guides_can_be_swept_and_points_that_ask_none_have_none() -> None:
    found = points(
        guide={"training": "small"},
        sweep=[
            {"sampler.guidance": [{"kind": "none"}, {"kind": "cfg"}, AUTO]},
            {"sampler.guidance": [AUTO], "guide.ema": ["raw", "ema-2"]},
        ],
    )
    assert [point.guide for point in found] == [
        None,
        None,
        CheckpointRef("small", "latest", None),
        CheckpointRef("small", "latest", "raw"),
        CheckpointRef("small", "latest", "ema-2"),
    ]
    guidances = [Unguided(), ClassifierFree(), *[Autoguidance(weight=1.5, sigma_hi=5.0)] * 3]
    assert [point.sampler.guidance for point in found] == guidances
    assert len({point.name for point in found}) == 5


def test_a_study_can_guide_its_training_by_an_earlier_snapshot_of_it() -> None:
    sweep = {"sampler.guidance": [AUTO], "guide.at": [1000, 2000]}
    study = StudyJob.model_validate(
        {
            "train": {"name": "digits", "dataset": "digits"},
            "benchmark": {"name": "guides", "metrics": METRICS, "sweep": sweep},
        }
    )
    settings: BenchmarkSettings = of_training(study, "digits-12345678")
    assert [point.guide for point in engine_points(settings)] == [
        CheckpointRef("digits-12345678", at, None) for at in (1000, 2000)
    ]
