"""The catalogue of parts: every kind that settings take, with its fields and defaults, as Markdown.

`python -m pipeline.config.catalogue` prints `docs/settings.md`; a test holds the file to it.
"""

import dataclasses
import inspect
import re
from typing import Any, get_args

from pydantic import BaseModel

from pipeline.config.benchmarks import BenchmarkJob, CompareJob
from pipeline.config.datasets import PrepareJob
from pipeline.config.generation import GenerateJob
from pipeline.config.job import Job
from pipeline.config.load import field_types
from pipeline.config.measuring import EvaluateJob
from pipeline.config.optimized_grid import OptimizeGridJob
from pipeline.config.schedule import ScheduleJob
from pipeline.config.search import SearchJob
from pipeline.config.studies import StudyJob
from pipeline.config.suggest import SuggestJob
from pipeline.config.trainings import TrainJob
from pipeline.config.transfer import ExportCheckpointJob, ImportCheckpointJob
from pipeline.config.upkeep import PruneJob, ReportJob
from pipeline.data.samples import Execution
from pipeline.data.sources import Source
from pipeline.diffusion.guidance import Guidance
from pipeline.diffusion.labels import Labels
from pipeline.diffusion.noise import TrainingNoise, Weighting
from pipeline.diffusion.preconditioning import Preconditioning
from pipeline.diffusion.randomness import Beta
from pipeline.diffusion.schedules import Scaling, Schedule
from pipeline.diffusion.solvers import Solver
from pipeline.diffusion.stochasticity import Stochasticity
from pipeline.diffusion.timesteps import Timesteps
from pipeline.metrics.extractors import ExtractorSettings
from pipeline.metrics.scores import Score
from pipeline.networks import Network

PARTS: dict[str, Any] = {
    "Solvers (`sampler.solver`)": Solver,
    "Randomness of the SDE (`sampler.solver.beta`)": Beta,
    "Time grids (`sampler.timesteps`)": Timesteps,
    "Schedules (`sampler.schedule`)": Schedule,
    "Scalings (`sampler.scaling`)": Scaling,
    "Stochasticity (`sampler.stochasticity`)": Stochasticity,
    "Guidance (`sampler.guidance`)": Guidance,
    "Labels (`labels`)": Labels,
    "Networks (`model.network`)": Network,
    "Preconditionings (`model.preconditioning`)": Preconditioning,
    "Training noise (`training.noise`)": TrainingNoise,
    "Loss weightings (`training.weighting`)": Weighting,
    "Extractors (`metrics.extractors`)": ExtractorSettings,
    "Scores (`metrics.scores`)": Score,
    "Image sources (`source`)": Source,
}
HEAD = """# Settings

Made by `python -m pipeline.config.catalogue > docs/settings.md`. Every job takes a YAML file and `--set a.b=c`;
`--dry-run` prints the resolved settings. A part is chosen by its `kind`; fields that are not given have the default
shown. `${NAME}` in a text is filled in from the environment. `base: other.yaml` takes another file (by its path from
this one's folder) and says what differs: keys are joined, while a list, and a part that has a `kind`, replaces what was
there. Where the parts come from and what they cost: [catalogue.md](catalogue.md).
"""
JOBS: tuple[type[Job], ...] = (
    PrepareJob, TrainJob, GenerateJob, EvaluateJob, BenchmarkJob, CompareJob, StudyJob, ImportCheckpointJob,
    ExportCheckpointJob, OptimizeGridJob, SuggestJob, SearchJob, ScheduleJob, ReportJob, PruneJob,
)  # fmt: skip


def catalogue() -> str:
    """The text of `docs/settings.md`."""
    jobs = "\n".join(_model(_module(job), job) for job in JOBS)
    groups = "\n".join(_model(group.__name__, group) for group in _groups())
    parts = "\n".join(_part(title, union) for title, union in PARTS.items())
    return f"{HEAD}\n## Jobs\n\n{jobs}\n## Groups of keys\n\n{groups}\n## Parts\n\n{parts}"


def _module(job: type[Job]) -> str:
    """`ImportCheckpointJob` is `jobs.import_checkpoint`."""
    return "jobs." + re.sub(r"(?<!^)(?=[A-Z])", "_", job.__name__.removesuffix("Job")).lower()


def _groups() -> list[Any]:
    """The models within jobs, in the order of their first use."""
    found: dict[Any, None] = {}
    waiting: list[Any] = list(JOBS)
    while waiting:
        for annotation in field_types(waiting.pop(0)).values():
            for inner in (annotation, *get_args(annotation)):
                is_model = isinstance(inner, type) and issubclass(inner, BaseModel)
                if (is_model or inner is Execution) and inner not in found:
                    found[inner] = None
                    waiting.append(inner)
    return list(found)


def _model(title: str, model: Any) -> str:
    rows = [f"| `{key}` | {_key_default(model, key)} |" for key in field_types(model)]
    about = first_paragraph(model)
    return "\n".join([f"### {title}", "", about, "", "| key | default |", "|---|---|", *rows, ""])


def _key_default(model: Any, key: str) -> str:
    if dataclasses.is_dataclass(model):
        return _default(next(field.default for field in dataclasses.fields(model) if field.name == key))
    field = model.model_fields[key]
    return _default(... if field.is_required() else field.get_default(call_default_factory=True))


def _part(title: str, union: Any) -> str:
    rows = [f"| `{member.kind}` | {fields_told(member)} | {first_paragraph(member)} |" for member in members(union)]
    return "\n".join([f"### {title}", "", "| kind | fields | |", "|---|---|---|", *rows, ""])


def members(union: Any) -> tuple[Any, ...]:
    """The classes of a union; of a union of one, that one."""
    return get_args(union) or (union,)


def fields_told(member: Any) -> str:
    """The fields of a part with their defaults, as Markdown."""
    shown = []
    for field in dataclasses.fields(member):
        if field.name != "kind" and field.name in field_types(member):
            required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
            shown.append(f"`{field.name}`" if required else f"`{field.name}` = {_default(default)}")
    return ", ".join(shown)


def first_paragraph(member: Any) -> str:
    """Of the docstring, as one line of Markdown that may stand in a table."""
    text = " ".join((inspect.getdoc(member) or "").split("\n\n")[0].split())
    return text.replace("|", "\\|")


def _default(value: Any) -> str:
    if value is ...:
        return "required"
    if dataclasses.is_dataclass(value) or hasattr(value, "model_fields_set"):
        kind = getattr(value, "kind", None)
        return f"`{kind}`" if kind else f"[{type(value).__name__}](#{type(value).__name__.lower()})"
    return f"`{value:g}`" if isinstance(value, float) else f"`{'null' if value is None else value}`"


if __name__ == "__main__":
    print(catalogue(), end="")
