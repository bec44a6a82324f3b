"""The settings of a training: the model, what it is trained on and how. Each part is chosen independently."""

import math
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.config import JsonDict

from pipeline.diffusion.noise import EDMWeighting, LogNormal, TrainingNoise, Weighting
from pipeline.diffusion.preconditioning import EDMPreconditioning, Preconditioning
from pipeline.digests import SINCE
from pipeline.networks import DDPMpp, Network
from pipeline.training.power_ema import check_std, power_name

Precision = Literal["fp32", "bf16", "fp16"]

# Marks a setting that came after trainings had been named without it (`pipeline.digests.plain`).
LATER: JsonDict = {SINCE: 2}


class Frozen(BaseModel):
    """Settings: unknown keys are refused, and nothing changes after it was read."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=True)


class ModelSettings(Frozen):
    """What is trained.

    Args:
        sigma_data: the one source of it. Empty: the standard deviation in the data set's manifest.
        conditional: whether the network is told the classes of the images, where they have any.
    """

    network: Annotated[Network, Field(discriminator="kind")] = DDPMpp()
    preconditioning: Annotated[Preconditioning, Field(discriminator="kind")] = EDMPreconditioning()
    sigma_data: float | None = Field(default=0.5, gt=0)
    conditional: bool = True


class ModelSpec(Frozen):
    """A model whole: enough to build it again without the data. Written into every checkpoint."""

    network: Annotated[Network, Field(discriminator="kind")]
    preconditioning: Annotated[Preconditioning, Field(discriminator="kind")]
    sigma_data: float = Field(gt=0)
    resolution: int = Field(gt=0)
    channels: int = Field(gt=0)
    num_classes: int = Field(ge=0)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one image: (C, H, W)."""
        return (self.channels, self.resolution, self.resolution)


class Optimizer(Frozen):
    """Adam (Kingma and Ba 2014) with a linear ramp-up of the learning rate over `ramp_up_kimg` thousand images.

    Args:
        decay_kimg: from so many thousands of images on the learning rate falls as one over the root of the images seen
            (EDM2, arXiv 2312.02696); empty: it stays.
    """

    lr: float = Field(default=1e-3, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    ramp_up_kimg: float = Field(default=10_000, ge=0)
    decay_kimg: float | None = Field(default=None, gt=0, json_schema_extra=LATER)

    def lr_at(self, num_images: int) -> float:
        """The learning rate of the step after which so many images will have been seen."""
        lr = self.lr
        if self.ramp_up_kimg:
            lr *= min(num_images / (1000 * self.ramp_up_kimg), 1.0)
        if self.decay_kimg is not None:
            lr /= math.sqrt(max(num_images / (1000 * self.decay_kimg), 1.0))
        return lr


class EMA(Frozen):
    """Averages of the weights, one for each half-life: min(halflife, ramp_up x images seen); and by power functions.

    Args:
        halflife_kimg: half-lives in thousands of images; each gives one set of weights, named `ema-<halflife>`.
        ramp_up: the share of the images seen that bounds the half-life early on; empty for none.
        power_stds: relative widths of averages with a power-function profile, named `power-<std>`. From two of them,
            such as 0.05 and 0.1, an average of any width between can be rebuilt later: `posthoc-<std>`.
        power_precision: in which snapshots keep these; fp16 suffices for networks with normalized weights.
    """

    halflife_kimg: tuple[float, ...] = (500.0,)
    ramp_up: float | None = Field(default=0.05, gt=0)
    power_stds: tuple[float, ...] = Field(default=(), json_schema_extra=LATER)
    power_precision: Literal["fp32", "fp16"] = Field(default="fp32", json_schema_extra=LATER)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if any(not value > 0 for value in self.halflife_kimg) or len(set(self.names)) < len(self.names):
            raise ValueError(f"halflife_kimg: must be positive and different (got {list(self.halflife_kimg)})")
        return self

    @field_validator("power_stds")
    @classmethod
    def _check_stds(cls, stds: tuple[float, ...]) -> tuple[float, ...]:
        for std in stds:
            check_std(std)
        if len(set(stds)) < len(stds):
            raise ValueError(f"must be different (got {list(stds)})")
        return stds

    @property
    def names(self) -> tuple[str, ...]:
        """Of the sets of weights, those by half-life first."""
        powers = (power_name(std) for std in self.power_stds)
        return (*(f"ema-{value:g}" for value in self.halflife_kimg), *powers)


class TrainingSettings(Frozen):
    """How it is trained. What determines the weights is part of the training's identity; how long it goes on, how
    often it is saved and where it runs is not, so a training can be prolonged.

    Args:
        label_dropout: the share of images that are shown without their label, so that the network learns to do without
            one too; classifier-free guidance needs it.
        uncertainty: learn along with the network how large its loss is at each noise level, and divide by that, so that
            all levels count alike (EDM2); the losses that are reported stay those of the weighting.
        batch_size: images a step, over all workers.
        microbatch: images a worker takes at once; the rest of its share is accumulated. Empty: all at once.
        duration_kimg: thousands of images to train on.
        snapshot_kimg: thousands of images between snapshots (weights for sampling, kept for ever).
        checkpoint_kimg: thousands of images between checkpoints (all that a restart needs; the last two are kept).
            Empty: with the snapshots.
        log_kimg: thousands of images between log lines.
        on_nan: what a loss that is not finite does: `stop` the training, or `skip` the step. It is counted either way.
        channels_last: the network's memory layout; faster on CPUs and GPUs.
        compile: compile the network, a minute or two at the start; `reduce-overhead` with CUDA graphs on GPUs.
        convolution: of 3x3 kernels: by the definition, or on a CPU with fewer multiplications (`winograd`); its code is
            compiled once a machine and user.
        norm: group norms by torch, or on a CPU by code of our own (`native`), with the scale, shift and SiLU after them
            in one pass.
        stratified: the noise levels of a step are one from each of `batch_size` equal parts of p_train, instead of
            independent of each other: the same expectation of the loss, with less variance.
        augment: the probability of each change of the non-leaky augmentation (`pipeline.training.augmentation`); 0 for
            none. The network is told of it: set its `augment_dim` to 9.
        loss_bins: the loss is reported by noise level in this many bins, evenly spaced in the quantile of p_train.
    """

    noise: Annotated[TrainingNoise, Field(discriminator="kind")] = LogNormal()
    weighting: Annotated[Weighting, Field(discriminator="kind")] = EDMWeighting()
    optimizer: Optimizer = Optimizer()
    uncertainty: bool = Field(default=False, json_schema_extra=LATER)
    ema: EMA = EMA()
    batch_size: int = Field(default=512, gt=0)
    microbatch: int | None = Field(default=None, gt=0)
    x_flip: bool = False
    label_dropout: float = Field(default=0.0, ge=0, le=1, json_schema_extra=LATER)
    augment: float = Field(default=0.0, ge=0, le=1, json_schema_extra=LATER)
    stratified: bool = Field(default=False, json_schema_extra=LATER)
    seed: int = Field(default=0, ge=0, lt=2**63)
    precision: Precision = "fp32"
    channels_last: bool = True
    compile: Literal[False, True, "reduce-overhead"] = False
    convolution: Literal["direct", "winograd"] = Field(default="direct", json_schema_extra=LATER)
    norm: Literal["torch", "native"] = Field(default="torch", json_schema_extra=LATER)
    duration_kimg: float = Field(default=200_000, gt=0)
    snapshot_kimg: float = Field(default=10_000, gt=0)
    checkpoint_kimg: float | None = Field(default=None, gt=0)
    log_kimg: float = Field(default=50, gt=0)
    on_nan: Literal["stop", "skip"] = "stop"
    loss_bins: int = Field(default=6, ge=1, le=64)


class Workers(Frozen):
    """Where a training runs.

    Args:
        num_workers: data-parallel workers; 0 runs in this process, without Ray.
        device: `auto` takes GPUs where the cluster has them.
        threads: CPU threads of each worker. Fixed by settings, so that results do not depend on the machine's load.
        max_failures: how often in a row, without a new checkpoint in between, a failed worker group is started again.
        timeout_s: how long a worker may wait for another one, which may have stopped without an error, before all
            start again from the last checkpoint. Longer than any pause of a healthy worker, such as saving.
    """

    num_workers: int = Field(default=1, ge=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(default=1, gt=0)
    max_failures: int = Field(default=3, ge=0)
    timeout_s: float = Field(default=300, gt=0)
