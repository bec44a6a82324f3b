"""The settings of every job: one frozen model each, composed of the dataclasses of the layers below."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, field_validator, model_validator

from pipeline.config.checkpoints import CheckpointSettings, GuideSettings, RegisterSettings
from pipeline.config.grid_file import read_grid
from pipeline.config.load import shortened, validate
from pipeline.config.places import Written
from pipeline.config.published import Expected, Published
from pipeline.config.sweep import expand_grid
from pipeline.config.unions import NestedKinds
from pipeline.data.samples import Execution
from pipeline.data.sources import Source
from pipeline.diffusion.guidance import Guidance, Unguided
from pipeline.diffusion.labels import Balanced, Labels
from pipeline.diffusion.sampling import Sampler
from pipeline.diffusion.schedules import Linear, Scaling, Schedule, Unscaled
from pipeline.diffusion.solvers import DormandPrince, Heun, Solver
from pipeline.diffusion.stochasticity import Deterministic, Stochasticity
from pipeline.diffusion.timesteps import AdaptiveSteps, EDMSteps, FixedTimesteps, Timesteps
from pipeline.errors import SettingsError
from pipeline.metrics.extractors import ExtractorSettings
from pipeline.metrics.published_protocols import LEGACY, PROTOCOLS, UNLIKE
from pipeline.metrics.scores import Score
from pipeline.training.settings import Frozen, ModelSettings, TrainingSettings, Workers


class Job(Frozen):
    """What all jobs share: where things lie and where they are told.

    Args:
        store: a folder, or an address such as s3://bucket/prefix.
        experiment: the MLflow experiment.
        tracking_uri: of MLflow. Empty: MLFLOW_TRACKING_URI, or else a database beside the store.
    """

    store: Annotated[str, Written()] = "store"
    experiment: str = "sigmasweep"
    tracking_uri: Annotated[str | None, Written()] = None


class DatasetSettings(Frozen):
    """A data set to be prepared: from a source, in one shape.

    Args:
        name: under which the store keeps it.
        source: where the images come from.
        size: side of the square that images are resized and cropped to; empty keeps them as they are.
        channels: 1 (grey) or 3 (RGB); empty keeps what they have.
        pad_to: side that images are padded to, with zeros.
        part: the share of the images to take, of a fixed shuffle: [0, 0.7] and [0.7, 1] have no image in common.
        max_images: at most so many.
        on_broken: whether an image that cannot be read stops the job or is skipped; it is named either way.
    """

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    source: Annotated[Source, Field(discriminator="kind")]
    size: int | None = Field(default=None, gt=0)
    channels: Literal[1, 3] | None = None
    pad_to: int | None = Field(default=None, gt=0)
    part: tuple[float, float] = (0.0, 1.0)
    max_images: int | None = Field(default=None, gt=0)
    on_broken: Literal["stop", "skip"] = "stop"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not 0 <= self.part[0] < self.part[1] <= 1:
            raise ValueError(f"part: must be two shares between 0 and 1, the first one less (got {list(self.part)})")
        return self


class PrepareJob(Job, DatasetSettings):
    """`jobs.prepare`: images into the training format."""


class TrainSettings(Frozen):
    """What is trained, on what, how and where.

    Args:
        name: of the training; its folder in the store is this and a digest of all that determines the weights.
        dataset: the name of a prepared data set.
        expects: what its images must be like. Empty: anything.
        published: what was reported of such a training, if anything was; a tag of the run.
        register_as: the registered model of which the trained checkpoint becomes a version. Empty: none.
    """

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    dataset: str
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    workers: Workers = Workers()
    expects: Expected | None = None
    published: Published | None = None
    register_as: RegisterSettings | None = None


class TrainJob(Job, TrainSettings):
    """`jobs.train`."""


class SamplerSettings(Frozen):
    """A `Sampler`, field by field. `timesteps: {kind: file, path: ...}` reads the noise levels of an `optimized` grid
    from a file; what counts is what stands in it."""

    timesteps: Annotated[Timesteps, Field(discriminator="kind")] = EDMSteps()
    solver: Annotated[Solver, Field(discriminator="kind"), NestedKinds()] = Heun()
    schedule: Annotated[Schedule, Field(discriminator="kind")] = Linear()
    scaling: Annotated[Scaling, Field(discriminator="kind")] = Unscaled()
    stochasticity: Annotated[Stochasticity, Field(discriminator="kind")] = Deterministic()
    guidance: Annotated[Guidance, Field(discriminator="kind")] = Unguided()
    first_step: Literal["network", "analytic"] = Field(default="network", json_schema_extra={"since": 2})

    @field_validator("timesteps", mode="before")
    @classmethod
    def _from_file(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and value.get("kind") == "file":
            return read_grid(value)
        return value

    def build(self) -> Sampler:
        return Sampler(**{name: getattr(self, name) for name in type(self).model_fields})


class PointSettings(Frozen):
    """One setting on one checkpoint: what a sweep may vary."""

    checkpoint: CheckpointSettings
    guide: GuideSettings | None = None
    sampler: SamplerSettings = SamplerSettings()
    labels: Annotated[Labels, Field(discriminator="kind")] = Balanced()

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Here and not with the sampler: what a sweep varies may be what mends it."""
        if self.needs_guide and self.guide is None:
            kind = self.sampler.guidance.kind
            raise ValueError(f"guide: is missing: {kind} needs a second checkpoint, such as guide: {{training: NAME}}")
        try:
            self.sampler.build()
        except ValueError as error:
            raise ValueError(f"sampler.{error}") from None
        return self

    @property
    def needs_guide(self) -> bool:
        return self.sampler.guidance.needs_guide


class SeedSettings(Frozen):
    """A range of seeds: one image each."""

    first: int = Field(default=0, ge=0)
    count: int = Field(default=1000, gt=0)


class ActorSettings(Frozen):
    """Who generates. Nothing here changes a bit of an image.

    Args:
        num_actors: empty is one actor a GPU, or one for every `execution.threads` CPUs; 0 is this process.
        hang_after_s: an actor that makes no progress for so many seconds, not one evaluation of its network, is ended,
            and its chunks go to others; a first evaluation includes compiling.
    """

    num_actors: int | None = Field(default=None, ge=0)
    hang_after_s: float = Field(default=600, ge=1)


SweepGrid = dict[str, list[Any]]


class GenerateSettings(Frozen):
    """Points and how to compute them.

    Args:
        guide: the second network, for guidance that needs one; points of a sweep whose guidance needs none ignore it.
        sweep: a grid, or several, over the keys of checkpoint, guide, sampler and labels.
        reuse: `store` takes images that were generated before, `none` computes all anew, in a namespace of its own.
    """

    checkpoint: CheckpointSettings
    guide: GuideSettings | None = None
    sampler: SamplerSettings = SamplerSettings()
    labels: Annotated[Labels, Field(discriminator="kind")] = Balanced()
    sweep: SweepGrid | list[SweepGrid] = Field(default_factory=dict)
    seeds: SeedSettings = SeedSettings()
    execution: Execution = Execution()
    actors: ActorSettings = ActorSettings()
    reuse: Literal["store", "none"] = "store"
    _points: list[tuple[str, PointSettings]] = PrivateAttr(default_factory=list)

    @model_validator(mode="after")
    def _expand(self) -> Self:
        grids = [self.sweep] if isinstance(self.sweep, dict) else self.sweep
        for grid in grids:
            for key, values in grid.items():
                if key.split(".")[0] not in PointSettings.model_fields:
                    known = ", ".join(f"{name}." for name in PointSettings.model_fields)
                    raise ValueError(f"sweep: {key} cannot be swept; keys begin with one of {known}")
                if not values:
                    raise ValueError(f"sweep: {key} has no values")
        base = self.model_dump(include=set(PointSettings.model_fields))
        for name, content in expand_grid(base, self.sweep):
            try:
                point = validate(PointSettings, content, f"sweep point ({shortened(name)})" if name else "")
            except SettingsError as error:
                raise ValueError(str(error).removeprefix(": ")) from None
            self._points.append((name, point))
        guided = [point for _, point in self._points if point.guide is not None]
        if guided and not any(point.needs_guide for point in guided):
            kinds = ", ".join(sorted({point.sampler.guidance.kind for point in guided}))
            raise ValueError(
                f"guide: is given and never asked: sampler.guidance is {kinds}; drop one or change the other"
            )
        return self

    @property
    def points(self) -> list[tuple[str, PointSettings]]:
        """Every point of the sweep with its name, validated."""
        return list(self._points)


class GenerateJob(Job, GenerateSettings):
    """`jobs.generate`.

    Args:
        export: a folder to write the images to as PNG files, one folder a point.
    """

    export: Annotated[str | None, Written()] = None


Keep = Literal["images", "features", "moments"]


class TrajectorySettings(Frozen):
    """The cheap metric: the distance of each sample to the converged answer of its own seed. Only settings that add no
    noise have one.

    Args:
        num_seeds: so many of the first seeds are compared.
        timesteps: of the solver that makes the converged answers; their first and last level, too.
        solver: a deterministic one of high order.
    """

    num_seeds: int = Field(default=500, ge=2)
    timesteps: Annotated[FixedTimesteps, Field(discriminator="kind")] = EDMSteps(num_steps=24)
    solver: Annotated[Solver, Field(discriminator="kind"), NestedKinds()] = DormandPrince()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.solver.stochastic:
            raise ValueError(f"solver: must be deterministic, or nothing converges (got {self.solver.kind})")
        return self


class MetricSettings(Frozen):
    """What images are measured with, and against what.

    Args:
        extractors: the feature networks; the first one's distance is the one that is compared first.
        dataset: the data set whose images are the reference. Empty: the one the checkpoint was trained on.
        reference_npz: a file with `mu` and `sigma` instead, as EDM publishes.
        classifier_dataset: the data set that the classifier learns from. Empty: the reference data set.
        scores: what is told beside the distances. Each is taken of the first extractor that has what it needs.
        protocol: of a publication, to be followed: `edm` (Inception without antialiasing, 50,000 images, the training
            set). `legacy`: numbers of unlike protocols may stand side by side, marked as such.
        held_out: the name of a data set of images like the reference's that are not among them, such as a test set: the
            check for memorization, `nearest`, compares with how near these are.
        trajectory: measure the distance to each sample's own converged trajectory too. Empty: not.
    """

    protocol: str | None = None
    extractors: list[Annotated[ExtractorSettings, Field(discriminator="kind")]] = Field(min_length=1)
    dataset: str | None = None
    reference_npz: str | None = None
    classifier_dataset: str | None = None
    held_out: str | None = None
    trajectory: TrajectorySettings | None = None
    scores: list[Annotated[Score, Field(discriminator="kind")]] = Field(default_factory=list)

    @model_validator(mode="before")
    @classmethod
    def _extractor_of_protocol(cls, content: Any) -> Any:
        """A published protocol brings its own extractor."""
        if isinstance(content, Mapping) and "extractors" not in content and content.get("protocol") in PROTOCOLS:
            return {**content, "extractors": [asdict(PROTOCOLS[content["protocol"]].extractor())]}
        return content

    @field_validator("protocol")
    @classmethod
    def _is_known(cls, protocol: str | None) -> str | None:
        if protocol in UNLIKE:
            raise ValueError(f"{protocol} {UNLIKE[protocol]}")
        known = [*PROTOCOLS, LEGACY]
        if protocol is not None and protocol not in known:
            raise ValueError(f"must be one of {', '.join(known)} (got {protocol})")
        return protocol

    def check_seeds(self, count: int) -> None:
        """Raises:
        ValueError: the protocol asks for another extractor or number of images.
        """
        problem = PROTOCOLS[self.protocol].refuses(self.extractors[0], count) if self.protocol in PROTOCOLS else ""
        if problem:
            raise ValueError(f"metrics.{problem}" if problem.startswith("extractors") else problem)

    @field_validator("scores")
    @classmethod
    def _each_once(cls, scores: list[Score]) -> list[Score]:
        if len(set(scores)) < len(scores):
            raise ValueError("scores: one of them is given twice")
        return scores

    @model_validator(mode="after")
    def _check_held_out(self) -> Self:
        if self.held_out is not None and not any("held_out" in score.uses for score in self.scores):
            raise ValueError(f"held_out: {self.held_out} is named and never looked at: add {{kind: nearest}} to scores")
        return self


class EvaluateJob(Job, GenerateSettings):
    """`jobs.evaluate`: generates what is missing, and measures.

    Args:
        name: of the evaluation, a tag of its runs.
        select: choose the best of a training's snapshots and weights by these seeds, which must be others than those
            reported; the first point's sampler is used. Empty: no selection.
        reference_out: write the reference's `mu` and `sigma` as npz.
        ranges: measure on so many ranges of `seeds.count` seeds, one after another, and tell how the distance spreads.
        keep: what stays in the store when all is measured: the images, or of most of them the features alone, or only
            the moments of these. The first 64 images of each point stay. What is given up can be computed again.
    """

    name: str = Field(default="evaluation", min_length=1)
    metrics: MetricSettings
    select: SeedSettings | None = None
    reference_out: Annotated[str | None, Written()] = None
    ranges: int = Field(default=1, ge=1)
    keep: Keep = "images"

    @model_validator(mode="after")
    def _check_protocol(self) -> Self:
        self.metrics.check_seeds(self.seeds.count)
        return self


class TimingSettings(Frozen):
    """The separate warm timing of each setting: `images` images at a time, `repeats` times after one warm-up."""

    images: int = Field(default=64, gt=0)
    repeats: int = Field(default=3, ge=1)


class BenchmarkSettings(GenerateSettings):
    """A grid of settings, measured and timed.

    Args:
        keep: what stays in the store when all is measured: the images, or of most of them the features alone, or only
            the moments of these. The first 64 images of each point stay. What is given up can be computed again.
        published: what was reported of such a benchmark, if anything was; a tag of its run.
        baseline: the name of the setting that the others are compared with, on the same seeds. Empty: the best one.
    """

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    metrics: MetricSettings
    timing: TimingSettings | None = TimingSettings()
    picture_seeds: int = Field(default=16, ge=1, le=64)
    keep: Keep = "images"
    published: Published | None = None
    baseline: str | None = None

    @model_validator(mode="after")
    def _check_protocol(self) -> Self:
        self.metrics.check_seeds(self.seeds.count)
        return self


class BenchmarkJob(Job, BenchmarkSettings):
    """`jobs.benchmark`."""

    out: Annotated[str | None, Written()] = None  # a folder for the table, the figure and the picture, beside MLflow


class ComparedSettings(Frozen):
    """One side of a comparison.

    Args:
        config: the file of a benchmark or an evaluation.
        setting: the name of one of its settings, as its table has it. Empty: the one that has the least distance there.
    """

    config: str = Field(min_length=1)
    setting: str | None = None


class CompareJob(Job):
    """`jobs.compare`: two settings, of one file or of two, on the same seeds and by the same protocol; images lie in
    the stores that these files name.

    Args:
        first: what is compared.
        second: with what.
    """

    first: ComparedSettings
    second: ComparedSettings


class OptimizeGridJob(Job, PointSettings):
    """`jobs.optimize_grid`: time grids computed from the network itself.

    Args:
        sampler: the fine one whose trajectories are measured, and whose levels the grids are chosen from.
        seeds: of these trajectories; others than a benchmark's, so that it stays fair.
        num_steps: steps of each grid that is wanted.
        coefficient: how much more a later step's error counts, step by step (gamma in arXiv 2405.11326).
        out: a folder for one file a grid, `steps-08.json`, to be used as `timesteps: {kind: file, path: ...}`.
    """

    sampler: SamplerSettings = SamplerSettings(timesteps=EDMSteps(num_steps=60))
    seeds: SeedSettings = SeedSettings(first=1_000_000, count=64)
    num_steps: list[int] = Field(default=[4, 5, 6, 7, 8, 10], min_length=1)
    coefficient: float = Field(default=1.15, gt=0)
    execution: Execution = Execution()
    actors: ActorSettings = ActorSettings()
    out: Annotated[str, Written()]

    @model_validator(mode="after")
    def _check_grids(self) -> Self:
        sampler = self.sampler
        if sampler.schedule != Linear() or sampler.scaling != Unscaled() or sampler.solver.stochastic:
            raise ValueError("sampler: trajectories are measured with a deterministic solver on the linear schedule")
        if sampler.stochasticity != Deterministic() or isinstance(sampler.timesteps, AdaptiveSteps):
            raise ValueError("sampler: trajectories are measured without added noise, on a fixed time grid")
        most = sampler.timesteps.num_steps
        for number in self.num_steps:
            if not 1 <= number <= most:
                raise ValueError(f"num_steps: must be between 1 and the fine grid's {most} (got {number})")
        return self


class ReportJob(Job):
    """`jobs.report`: the page of a benchmark or a search, made again of what the store has.

    Args:
        name: of the benchmark or the search, or its digest; of several of one name it is the newest.
        out: a folder for the page and its figures.
    """

    name: str = Field(min_length=1)
    out: Annotated[str, Written()]


class PruneJob(Job):
    """`jobs.prune`: frees space; `--dry-run` says what would go.

    Args:
        older_than_hours: what is younger is left alone: a job that is running may still commit it.
        damaged: what was set aside as damaged goes too.
        snapshots: so many of the last snapshots of each training stay, and all that samples, or rebuilt weights, are
            made of. Empty: all stay.
        keep: of samples: the images, or the features alone where there are any, or only moments where there are any.
        pictures: the images of so many of the first seeds stay in any case.
    """

    older_than_hours: float = Field(default=24, ge=1)
    damaged: bool = True
    snapshots: int | None = Field(default=None, ge=1)
    keep: Keep = "images"
    pictures: int = Field(default=64, ge=0)


class StudyBenchmark(BenchmarkSettings):
    """A study's benchmark: its checkpoint is the training's, unless the sweep says otherwise."""

    checkpoint: CheckpointSettings = CheckpointSettings(training="")


class StudyJob(Job):
    """`jobs.study`: prepares, trains and benchmarks, each unless it is done."""

    prepare: list[DatasetSettings] = Field(default_factory=list)
    train: TrainSettings
    benchmark: StudyBenchmark
    out: Annotated[str | None, Written()] = None


class ImportCheckpointJob(Job):
    """`jobs.import_checkpoint`: a checkpoint that others made, into the store.

    Args:
        name: under which the store keeps it; it is then named as a training is: `checkpoint: {training: <name>}`.
        path: a network pickle of NVlabs (EDM, EDM2), a folder of diffusers with a UNet2DModel, or a folder that
            `jobs.export_checkpoint` wrote.
        licence: of the weights, such as CC BY-NC-SA 4.0; every run on them shows it. Empty only where the file says it.
        dataset: the name of a prepared data set that it was trained on, if any; evaluations then compare with it.
        num_images: images seen in training. Empty: as the file says, or 0.
        register_as: the registered model of which the checkpoint becomes a version. Empty: none.
    """

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    path: str = Field(min_length=1)
    licence: str | None = Field(default=None, min_length=1, max_length=500)
    dataset: str | None = None
    num_images: int | None = Field(default=None, ge=0, lt=10**12)
    register_as: RegisterSettings | None = None


class ExportCheckpointJob(Job):
    """`jobs.export_checkpoint`: a checkpoint as a folder with config.json and safetensors.

    Args:
        folder: where to; it must not be there.
        licence: of the weights. Empty: the one that they were imported with, if any.
    """

    checkpoint: CheckpointSettings
    folder: Annotated[str, Written()] = Field(min_length=1)
    licence: str | None = Field(default=None, min_length=1, max_length=500)


AnyJob = (
    PrepareJob
    | TrainJob
    | GenerateJob
    | EvaluateJob
    | BenchmarkJob
    | CompareJob
    | StudyJob
    | ImportCheckpointJob
    | ExportCheckpointJob
    | PruneJob
)
