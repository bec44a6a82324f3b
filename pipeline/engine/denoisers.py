"""The networks that a worker holds, each on its fast path."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch

from pipeline.data.native import load_operators
from pipeline.data.samples import Execution
from pipeline.diffusion.denoiser import Denoiser
from pipeline.digests import sha256
from pipeline.engine.ahead import compiled_ahead
from pipeline.engine.devices import Device, as_dtype, fixed_compiler
from pipeline.engine.pulse import Pulse
from pipeline.engine.work import WorkerSettings
from pipeline.errors import CheckpointError
from pipeline.networks import group_norm
from pipeline.networks.heap import keep_freed_memory
from pipeline.networks.winograd import KERNEL, use_winograd
from pipeline.training.settings import ModelSpec
from pipeline.training.snapshot import Snapshot, build_denoiser

Fetch = Callable[[Snapshot], bytes]  # the safetensors bytes of a snapshot's weights


class Denoisers:
    """The networks that a worker holds: those used last, within a budget.

    Args:
        settings: of the run.
        pulse: beats with every evaluation of a network.
    """

    def __init__(self, settings: WorkerSettings, pulse: Pulse | None = None) -> None:
        self._settings = settings
        self._pulse = pulse or Pulse()
        self._budget = settings.denoiser_memory_gb * 1e9
        # By weights and model: the same weights under another preconditioning are another denoiser.
        self._held: OrderedDict[tuple[str, ModelSpec], tuple[Denoiser, int]] = OrderedDict()
        self.loads = 0

    def get(self, snapshots: Sequence[Snapshot], fetch: Fetch) -> list[Denoiser]:
        """The networks of one setting, in their order. They are kept together, whatever the budget.

        Raises:
            CheckpointError: weights are not those of the snapshot, or do not fit its model.
        """
        names = [(snapshot.weights_sha256, snapshot.model) for snapshot in snapshots]
        for name, snapshot in zip(names, snapshots, strict=True):
            if name not in self._held:
                denoiser = self._load(snapshot, fetch(snapshot))
                self._held[name] = denoiser, sum(p.nbytes for p in denoiser.parameters())
                self.loads += 1
            self._held.move_to_end(name)
        while len(self._held) > len(set(names)) and sum(size for _, size in self._held.values()) > self._budget:
            self._held.popitem(last=False)
        return [self._held[name][0] for name in names]

    def _load(self, snapshot: Snapshot, weights: bytes) -> Denoiser:
        if sha256(weights) != snapshot.weights_sha256:
            raise CheckpointError(snapshot.title, "the weights were damaged on their way to the worker")
        denoiser = load_denoiser(snapshot.model, weights, self._settings.execution, self._settings.device)
        denoiser.register_forward_hook(self._pulse.beat)
        return denoiser


def load_denoiser(model: ModelSpec, weights: bytes, execution: Execution, device: Device) -> Denoiser:
    """A denoiser on its fast path.

    Raises:
        CheckpointError: the weights do not fit the model.
        SettingsError: it is to be compiled, and cannot be.
    """
    if device == "cpu":
        keep_freed_memory()
    denoiser = build_denoiser(model, weights, as_dtype(execution.precision), device)
    if execution.channels_last:
        denoiser.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if execution.convolution == "winograd":
        load_operators(KERNEL, "execution.convolution")
        use_winograd(denoiser.network)
    if execution.norm == "native":
        load_operators(group_norm.KERNEL, "execution.norm")
        group_norm.use_native_norms(denoiser.network)
    if execution.compile:
        fixed_compiler()
    if execution.compile == "ahead":
        denoiser.network = compiled_ahead(denoiser.network, model, execution, device)
    elif execution.compile:
        mode = "reduce-overhead" if execution.compile == "reduce-overhead" else "default"
        denoiser.network.compile(dynamic=False, mode=mode)
    return denoiser
