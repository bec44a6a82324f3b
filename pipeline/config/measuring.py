"""Settings of what images are measured with."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from pipeline.config.generation import GenerateSettings, SeedSettings
from pipeline.config.job import Job
from pipeline.config.places import Written
from pipeline.config.unions import NestedKinds
from pipeline.diffusion.solvers import DormandPrince, Solver
from pipeline.diffusion.timesteps import EDMSteps, FixedTimesteps
from pipeline.metrics.extractors import ExtractorSettings
from pipeline.metrics.published_protocols import LEGACY, PROTOCOLS, UNLIKE
from pipeline.metrics.scores import Score
from pipeline.training.settings import Frozen

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
