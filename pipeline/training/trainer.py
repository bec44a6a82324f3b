"""One process's part of a training: the network, its optimizer and averages, and a step of all of them."""

import math
import os
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.data.dataset import Dataset
from pipeline.data.native import load_operators
from pipeline.data.private_folder import private_folder
from pipeline.diffusion.denoiser import Denoiser
from pipeline.errors import CheckpointError, RunFailedError, SettingsError
from pipeline.networks import group_norm, winograd
from pipeline.networks.edm2_layers import normalize_weights
from pipeline.networks.heap import keep_freed_memory
from pipeline.training.batches import Batch, Batches, seed_generators
from pipeline.training.checkpoint import RAW, Checkpoint
from pipeline.training.ema import Averages, as_stored
from pipeline.training.loss import LossMeter, LossSummary, sample_losses
from pipeline.training.place import Place
from pipeline.training.settings import ModelSpec, TrainingSettings
from pipeline.training.uncertainty import Uncertainty, balanced

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
_MOMENTS = ("exp_avg", "exp_avg_sq")  # Adam's, by torch's names
# Of the loss under fp16. Losses are sums over pixels, so the usual 2^16 would waste the first steps; the scale adapts.
_FIRST_SCALE = 2.0**10
_UNCERTAINTY = "uncertainty"  # the name of its tensors in a checkpoint
_LEAST_SCALE = 2.0**-10  # gradients that overflow even here will not recover


class Trainer:
    """A training at its present position.

    Args:
        model: what is trained.
        settings: how.
        dataset: on what.
        place: where this process stands; with several processes all must do the same things in the same order.

    Raises:
        SettingsError: there are fewer images in a step than workers.
    """

    def __init__(self, model: ModelSpec, settings: TrainingSettings, dataset: Dataset, place: Place) -> None:
        if settings.batch_size < place.world_size:
            problem = f"must be at least the number of workers, {place.world_size} (got {settings.batch_size})"
            raise SettingsError("training.batch_size", problem)
        if place.device.type == "cpu":
            keep_freed_memory()
        self.position = 0  # images seen
        self.num_updates = 0  # steps that moved the weights
        self.num_not_finite = 0  # images whose loss was NaN or infinite, as of the last summary
        self.grad_norm = math.nan  # of the last step
        self._settings = settings
        self._place = place
        self._batches = Batches(dataset, settings, place.device)
        self._meter = LossMeter(settings.loss_bins, place)
        self._network = _build(model, settings, place.device)
        self._averages = Averages(settings.ema, self._network) if place.is_first else None
        self._uncertainty = Uncertainty().to(place.device) if settings.uncertainty else None
        self._learned = dict(self._network.named_parameters())
        if self._uncertainty is not None:
            self._learned |= {f"{_UNCERTAINTY}.{name}": p for name, p in self._uncertainty.named_parameters()}
        self._adam = _adam(list(self._learned.values()), settings)
        self._scaler = torch.amp.GradScaler(place.device.type, _FIRST_SCALE, enabled=settings.precision == "fp16")
        self._parallel = _in_parallel(self._network, place)
        self._denoiser = Denoiser(self._parallel or self._network, model.preconditioning, model.sigma_data)
        # Gradients that CUDA graphs make lie in their memory, and the next microbatch would overwrite them.
        self._keeps_gradients = (
            place.device.type == "cuda" and settings.compile == "reduce-overhead" and len(self._spans(0)) > 1
        )
        if self._keeps_gradients:
            for parameter in self._learned.values():
                parameter.grad = torch.zeros_like(parameter)
        self._settle_buckets()

    # -- a step --------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Learns from the next `batch_size` images.

        Raises:
            RunFailedError: the loss is not finite, and the settings say to stop.
        """
        normalize_weights(self._network)
        self._backward()
        self._batches.prepare(*self._spans(self.position + self._settings.batch_size)[0])  # before waiting for this one
        self._update()
        self._adam.zero_grad(set_to_none=not self._keeps_gradients)
        self.position += self._settings.batch_size

    @property
    def lr(self) -> float:
        """The learning rate of the next step: by the images that will have been seen after it."""
        return self._settings.optimizer.lr_at(self.position + self._settings.batch_size)

    def summary(self) -> LossSummary:
        """The losses since the last summary; all processes must ask."""
        summary = self._meter.collect()
        self.num_not_finite += summary.num_not_finite
        return summary

    def _backward(self) -> None:
        """Gradients of the mean loss over the step's images, of all workers, in every worker."""
        batch_size, place = self._settings.batch_size, self._place
        spans = self._spans(self.position)
        for span in spans:
            with self._unshared() if span != spans[-1] else nullcontext():
                batch = self._batches.make(*span)
                losses = self._losses(batch)
                self._meter.add(batch.u, losses)
                # DDP takes the mean over workers; what is wanted is the sum of all losses by the size of the batch.
                minimized = self._balanced(batch, losses).sum() * (place.world_size / batch_size)
                torch.autograd.backward(self._scaler.scale(minimized))
        if self._uncertainty is not None:  # DDP takes care of the network's alone
            for parameter in self._uncertainty.parameters():
                if parameter.grad is not None:
                    place.sum(parameter.grad).div_(place.world_size)

    def _spans(self, position: int) -> list[tuple[int, int]]:
        """This worker's microbatches of the step that begins at a position."""
        return self._batches.spans(*self._place.share_of(position, position + self._settings.batch_size))

    def _balanced(self, batch: Batch, losses: Tensor) -> Tensor:
        if self._uncertainty is None:
            return losses
        return balanced(losses, self._uncertainty(batch.sigma), batch.y[0].numel())

    def _losses(self, batch: Batch) -> Tensor:
        seed_generators(self._settings.seed, batch.position)
        dtype = _AUTOCAST.get(self._settings.precision)
        with torch.autocast(self._place.device.type, dtype, enabled=dtype is not None):
            return sample_losses(self._denoiser, self._settings.weighting, batch)

    def _update(self) -> None:
        """Moves the weights, unless a gradient is not finite. Gradients are shared, so all workers decide alike."""
        self._scaler.unscale_(self._adam)
        gradients = [parameter.grad for parameter in self._learned.values() if parameter.grad is not None]
        self.grad_norm = float(torch.nn.utils.get_total_norm(gradients, foreach=True))
        if math.isfinite(self.grad_norm):
            for group in self._adam.param_groups:
                group["lr"] = self.lr
            self._scaler.step(self._adam)
            self.num_updates += 1
            if self._averages is not None:
                self._averages.update(self._settings.batch_size, self.position)
        elif self._settings.on_nan == "stop" and not self._only_overflowed():
            self._stop()
        self._scaler.update()

    def _only_overflowed(self) -> bool:
        """Whether fp16 gradients overflowed at finite losses, which the next, lower scale mends."""
        may_recover = self._scaler.is_enabled() and self._scaler.get_scale() > _LEAST_SCALE
        return may_recover and not self._meter.any_not_finite()

    def _stop(self) -> None:
        first, last = self.position, self.position + self._settings.batch_size
        mend = "lower optimizer.lr, lengthen optimizer.ramp_up_kimg, take another precision, or set on_nan: skip"
        raise RunFailedError(
            f"step {first // self._settings.batch_size}",
            f"the loss or its gradient is not finite (images {first:,} to {last:,}, precision "
            f"{self._settings.precision}, lr {self.lr:.3g}); what was saved is good: {mend}",
        )

    # -- data-parallel -------------------------------------------------------------------------------------------

    def _settle_buckets(self) -> None:
        """Makes one backward pass whose gradients are thrown away.

        DDP orders its gradient buckets anew after its first backward pass, and in another order sums are rounded
        otherwise. A training that resumes must not make its first step in another order than one that went on, so the
        order is settled before the first step of either.
        """
        if self._parallel is not None:
            torch.autograd.backward(self._losses(self._batches.make(*self._spans(0)[0])).sum())
            self._adam.zero_grad(set_to_none=not self._keeps_gradients)

    def _unshared(self) -> AbstractContextManager[None]:
        """Within it gradients are accumulated without asking the other workers."""
        return nullcontext() if self._parallel is None else self._parallel.no_sync()

    # -- checkpoints ---------------------------------------------------------------------------------------------

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """State dictionaries of the network by name: the averages, then `raw`. Of the first process only."""
        averages = self._averages.state_dicts() if self._averages is not None else {}
        return {**averages, RAW: self._network.state_dict()}

    def snapshot(self) -> dict[str, dict[str, Tensor]]:
        """The same, as a snapshot keeps them."""
        return as_stored(self.weights(), self._settings.ema, self._network)

    def checkpoint(self) -> Checkpoint:
        """All that is needed to go on. Of the first process only."""
        moments = {
            moment: {name: self._adam.state[parameter][moment] for name, parameter in self._learned.items()}
            for moment in _MOMENTS
        }
        counters = {
            "num_updates": self.num_updates,
            "num_not_finite": self.num_not_finite,
            "scaler": self._scaler.state_dict(),
        }
        tensors: dict[str, dict[str, Tensor]] = {**self.weights(), **moments}
        if self._uncertainty is not None:
            tensors[_UNCERTAINTY] = self._uncertainty.state_dict()
        return Checkpoint(self.position, tensors, counters, self._place.world_size)

    def restore(self, checkpoint: Checkpoint | None) -> None:
        """Goes on from a checkpoint. Only the first process need have it, but all must call.

        Raises:
            CheckpointError: its tensors do not fit the model.
        """
        if checkpoint is not None:
            self._load(checkpoint)
        moments = [self._adam.state[p][moment] for p in self._learned.values() for moment in _MOMENTS]
        others = self._uncertainty.state_dict().values() if self._uncertainty is not None else []
        self._place.spread([*self._network.state_dict().values(), *others, *moments])
        self._spread_counters()

    def _load(self, checkpoint: Checkpoint) -> None:
        try:
            self._network.load_state_dict(checkpoint.tensors[RAW])
            if self._uncertainty is not None:
                self._uncertainty.load_state_dict(checkpoint.tensors[_UNCERTAINTY])
            for name, parameter in self._learned.items():
                for moment in _MOMENTS:
                    self._adam.state[parameter][moment].copy_(checkpoint.tensors[moment][name])
            if self._averages is not None:
                self._averages.load(checkpoint.tensors)
            self.position = checkpoint.position
            self.num_updates = checkpoint.counters["num_updates"]
            self.num_not_finite = checkpoint.counters["num_not_finite"]
            if self._scaler.is_enabled():
                self._scaler.load_state_dict(checkpoint.counters["scaler"])
        except (KeyError, RuntimeError) as error:
            raise CheckpointError("checkpoint", f"does not fit the model ({str(error).splitlines()[0]})") from error

    def _spread_counters(self) -> None:
        scaler = self._scaler.state_dict()
        numbers = [self.position, self.num_updates, self.num_not_finite, scaler.get("scale", 1.0)]
        shared = torch.tensor(
            [*numbers, scaler.get("_growth_tracker", 0)], dtype=torch.float64, device=self._place.device
        )
        self._place.spread([shared])
        position, num_updates, num_not_finite, scale, tracker = shared.tolist()
        self.position, self.num_updates, self.num_not_finite = int(position), int(num_updates), int(num_not_finite)
        if scaler:
            self._scaler.load_state_dict({**scaler, "scale": scale, "_growth_tracker": int(tracker)})
        for state in self._adam.state.values():
            state["step"].fill_(self.num_updates)


def _build(model: ModelSpec, settings: TrainingSettings, device: torch.device) -> nn.Module:
    """The network with its first weights, a function of the seed."""
    torch.manual_seed(settings.seed)
    network = model.network.build(model.resolution, model.channels, model.num_classes).to(device).train()
    if settings.channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if settings.convolution == "winograd":
        _check_native("convolution", "winograd", "direct", settings, device)
        load_operators(winograd.KERNEL, "training.convolution")
        winograd.train_with_winograd(network)
    if settings.norm == "native":
        _check_native("norm", "native", "torch", settings, device)
        load_operators(group_norm.KERNEL, "training.norm")
        group_norm.use_native_norms(network, group_norm.TrainedGroupNorm)
    if settings.compile:
        _compile(network, settings)
    return network


def _check_native(name: str, value: str, other: str, settings: TrainingSettings, device: torch.device) -> None:
    if device.type != "cpu" or settings.precision == "fp16":
        here = f"precision {settings.precision} on {device.type}"
        problem = f"{value} is for fp32 and bf16 on a CPU (got {here}); set it to {other}"
        raise SettingsError(f"training.{name}", problem)


def _compile(network: nn.Module, settings: TrainingSettings) -> None:
    """In place, so that parameters keep their names. Compiled code is kept for the next start, where only this user
    can have put it."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(private_folder("inductor")))
    network.compile(mode="reduce-overhead" if settings.compile == "reduce-overhead" else "default")


def _adam(parameters: list[nn.Parameter], settings: TrainingSettings) -> torch.optim.Adam:
    """Adam with its moments in place from the start, so that they can be saved and restored at any moment."""
    choice = settings.optimizer
    adam = torch.optim.Adam(parameters, choice.lr, choice.betas, choice.eps, fused=True)
    for parameter in parameters:
        step = torch.zeros((), dtype=torch.float32, device=parameter.device)
        adam.state[parameter] = {"step": step, **{moment: torch.zeros_like(parameter) for moment in _MOMENTS}}
    return adam


def _in_parallel(network: nn.Module, place: Place) -> DistributedDataParallel | None:
    """The network with gradients averaged over the workers, or None for one that trains alone."""
    if place.is_alone:
        return None
    devices = [place.device] if place.device.type == "cuda" else None
    return DistributedDataParallel(network, devices, forward_sync_buffers=False, gradient_as_bucket_view=True)
