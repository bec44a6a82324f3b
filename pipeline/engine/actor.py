"""Who does the work: it generates a chunk, commits its images, then its features. Doing a task twice is harmless.

An actor has a thread for its device, and one for each task that it was handed: while a chunk is encoded, hashed and
written, the device is at the next one already. What is computed does not depend on it.
"""

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipeline.data.chunk_file import Chunk
from pipeline.data.features import StoredFeatures, commit_features
from pipeline.data.samples import chunk_key, commit_chunk, read_chunk
from pipeline.diffusion.decoding import quantize
from pipeline.diffusion.denoiser import Denoiser
from pipeline.diffusion.grid_search import StepCosts, mean_costs, step_costs
from pipeline.diffusion.sampling import sample
from pipeline.engine.denoisers import Denoisers, Fetch
from pipeline.engine.devices import device_name, family, fixed_arithmetic
from pipeline.engine.pulse import Pulse
from pipeline.engine.work import Done, ExtractorPlan, Setting, Task, WorkerSettings
from pipeline.errors import ImagesNotKeptError, RunFailedError, SettingsError, StoreError
from pipeline.metrics.extractors import Extractor, ImageShape
from pipeline.training.snapshot import read_weights

Submit = Callable[..., Future[Any]]  # as that of an executor: a call becomes a future


def at_once(function: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """Calls a function here and now; what it gave or raised is in the future."""
    future: Future[Any] = Future()
    try:
        future.set_result(function(*arguments))
    except Exception as error:
        future.set_exception(error)
    return future


class ChunkWorker:
    """Does tasks, one after the other, in this process; `fixed_arithmetic` must hold around it.

    Args:
        settings: of the run.
        plans: the extractors of the run.
        fetch: where weights come from; the store by default.
    """

    def __init__(self, settings: WorkerSettings, plans: Sequence[ExtractorPlan], fetch: Fetch | None = None) -> None:
        self._settings = settings
        self._plans = plans
        self._fetch = fetch or (lambda snapshot: read_weights(settings.store, snapshot))
        self.pulse = Pulse()
        self._denoisers = Denoisers(settings, self.pulse)
        self._extractors: dict[tuple[int, ImageShape], Extractor] = {}

    def work(self, task: Task, fetch: Fetch | None = None, submit: Submit = at_once) -> Done:
        """Commits what is missing of a chunk: images first, then features.

        Args:
            submit: to the thread that owns the device, and computes there; all else is done in this one.

        Raises:
            RunFailedError: an image is not finite.
            SigmasweepError: the weights, the extractor or the store cannot be used.
        """
        stored, damaged = self._stored(task)
        made: Future[Chunk] = Future()
        features = submit(self._compute, task, stored, fetch or self._fetch, made)
        chunk = made.result()
        if stored is None:
            commit_chunk(self._settings.store, task.setting.key, chunk, self._settings.image_format)
        self.pulse.beat()
        for plan, found in features.result():
            name, digest = task.setting.digest, self._plans[plan].digest
            commit_features(self._settings.store, name, digest, task.index, found, chunk.content_digest)
        return Done(chunk.nfe, damaged)

    def seconds(self, setting: Setting, batch_size: int, repeats: int, fetch: Fetch | None = None) -> list[float]:
        """Warm times of one batch of a setting, seconds each, nothing else being done."""
        networks = self._denoisers.get(setting.snapshots, fetch or self._fetch)
        seeds = torch.arange(batch_size)
        self._warm_up(networks, setting, batch_size)
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            self._batch(networks, setting, seeds)  # its end copies to the CPU, so the device has finished
            times.append(time.perf_counter() - start)
        return times

    def step_costs(self, setting: Setting, first_seed: int, count: int, fetch: Fetch | None = None) -> StepCosts:
        """What single steps cost on the trajectories of seeds, see `diffusion.grid_search`.

        Args:
            setting: its sampler is the fine one.
            count: how many seeds; a multiple of the batch size.
        """
        networks = self._denoisers.get(setting.snapshots, fetch or self._fetch)
        seeds = torch.arange(first_seed, first_seed + count)
        model, device, guide = setting.snapshot.model, self._settings.device, (*networks, None)[1]
        parts = []
        with torch.inference_mode():
            for batch in torch.split(seeds, self._settings.execution.batch_size):
                labels = setting.labels.of(batch, model.num_classes)
                parts.append(
                    step_costs(
                        networks[0], setting.levels, setting.sampler, batch.to(device), model.shape, labels, guide
                    )
                )
        return mean_costs(parts)

    # -- within --------------------------------------------------------------------------------------------------

    def _stored(self, task: Task) -> tuple[Chunk | None, str]:
        """The chunk, if the store has it whole: from before, or from an attempt whose worker was lost."""
        store, name = self._settings.store, chunk_key(task.setting.digest, task.index)
        try:
            if task.generate and store.find(name) is None:
                return None, ""
            return read_chunk(store, task.setting.digest, task.index), ""
        except ImagesNotKeptError:
            return None, ""
        except StoreError as error:
            store.set_aside(name)
            return None, str(error)

    def _compute(
        self, task: Task, stored: Chunk | None, fetch: Fetch, made: Future[Chunk]
    ) -> list[tuple[int, StoredFeatures]]:
        """All that needs the device. The images are told of as soon as they are there, before their features."""
        try:
            extractors = [(plan, self._extractor(plan, task.setting)) for plan in task.extract]  # may be refused
            chunk = stored or self._generated(task.setting, task.index, fetch)
        except BaseException as error:
            made.set_exception(error)
            raise
        made.set_result(chunk)
        return [(plan, self._features(task, chunk, plan, extractor)) for plan, extractor in extractors]

    def _generated(self, setting: Setting, index: int, fetch: Fetch) -> Chunk:
        execution = self._settings.execution
        networks = self._denoisers.get(setting.snapshots, fetch)
        seeds = torch.arange(execution.chunk_size) + index * execution.chunk_size
        batches = [self._batch(networks, setting, batch) for batch in torch.split(seeds, execution.batch_size)]
        labels, images, nfe = (torch.cat(column).numpy() for column in zip(*batches, strict=True))
        return Chunk(index, seeds.numpy(), labels, images, nfe)

    def _batch(self, networks: Sequence[Denoiser], setting: Setting, seeds: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Labels, images and evaluations of seeds, on the CPU."""
        denoiser, guide = networks[0], networks[1] if len(networks) > 1 else None
        model, device = setting.snapshot.model, self._settings.device
        labels = setting.labels.of(seeds, model.num_classes)
        with torch.inference_mode():
            try:
                samples = sample(
                    denoiser, setting.levels, setting.sampler, seeds.to(device), model.shape, labels, guide=guide
                )
            except RunFailedError as error:  # adaptive steps that do not arrive
                raise RunFailedError(f"{setting.name}: {error.where}", error.problem) from error
            images = self._settings.decoder.decode(samples.images)
            self._check_finite(images, setting, seeds)
            return labels, quantize(images).cpu(), samples.nfe

    def _check_finite(self, images: torch.Tensor, setting: Setting, seeds: torch.Tensor) -> None:
        finite = images.flatten(1).isfinite().all(dim=1).cpu()
        if not bool(finite.all()):
            seed = int(seeds[int((~finite).nonzero()[0])])
            count = int((~finite).sum())
            raise RunFailedError(
                setting.name,
                f"the image of seed {seed} is not finite ({count} of {len(seeds)} in its batch; checkpoint "
                f"{setting.snapshot.title}, precision {self._settings.execution.precision}): its chunk is not kept",
            )

    def _warm_up(self, networks: Sequence[Denoiser], setting: Setting, batch_size: int) -> None:
        """The first calls of a network choose kernels, compile and fill caches."""
        device, model = self._settings.device, setting.snapshot.model
        x = torch.zeros(batch_size, *model.shape, dtype=torch.float64, device=device)
        labels = setting.labels.of(torch.arange(batch_size), model.num_classes)
        sigma = torch.ones(batch_size, dtype=torch.float64)
        with torch.inference_mode():
            for denoiser in (*networks, *networks):
                denoiser(x, sigma, labels).sum().item()

    def _extractor(self, plan: int, setting: Setting) -> Extractor:
        shape = setting.snapshot.model.shape
        if (plan, shape) not in self._extractors:
            self._extractors[plan, shape] = self._plans[plan].build(shape, self._settings.device)
        return self._extractors[plan, shape]

    def _features(self, task: Task, chunk: Chunk, plan: int, extractor: Extractor) -> StoredFeatures:
        """In the batches of the images, so that features do not depend on when they are taken."""
        batches = torch.split(torch.from_numpy(chunk.images), self._settings.execution.batch_size)
        found = []
        for batch in batches:
            found.append(extractor(batch))
            self.pulse.beat()
        features = torch.cat([part.features for part in found]).float().cpu().numpy()
        logits = [part.logits for part in found if part.logits is not None]
        if not np.isfinite(features).all():
            digest = self._plans[plan].digest
            raise RunFailedError(str(task), f"the features of extractor {digest[:8]} are not finite")
        return StoredFeatures(features, torch.cat(logits).float().cpu().numpy() if logits else None)


@dataclass(frozen=True)
class Hello:
    """What an actor says when it is ready."""

    pid: int
    device_name: str


class Actor:
    """A `ChunkWorker` as a Ray actor, for as many tasks at once as are in flight; the device is one thread's, and does
    them in turn. Weights come as object references by their sha256, so that they are fetched only when the worker does
    not hold the network."""

    def __init__(self, settings: WorkerSettings, plans: Sequence[ExtractorPlan]) -> None:
        self._settings = settings
        self._arithmetic = ExitStack()
        self._arithmetic.enter_context(fixed_arithmetic(settings.execution.threads))
        threads = settings.execution.threads  # torch counts them for each thread that calls it
        self._device = ThreadPoolExecutor(1, "device", initializer=torch.set_num_threads, initargs=(threads,))
        self._worker = ChunkWorker(settings, plans)

    def hello(self) -> Hello:
        """Raises:
        SettingsError: this device is of another family than the work, and would give other bits.
        StoreError: what lies at the store's address here is another store: what is written there would be lost.
        """
        device, expected = self._settings.device, self._settings.family
        found = family(device, self._settings.execution.precision)
        if found != expected:
            raise SettingsError("execution.device", f"{_words(found)} cannot do the work of {_words(expected)}")
        self._check_store()
        return Hello(os.getpid(), device_name(device))

    def pulse(self) -> int:
        """The steps of its work so far."""
        return self._worker.pulse.beats

    def _check_store(self) -> None:
        store, mark = self._settings.store, self._settings.mark
        try:
            _ = store.read(mark) if mark else b""
        except StoreError as error:
            problem = "is another folder than the job's, which would not see what is written here"
            mend = "give a store that all nodes see: a shared folder, or s3://bucket/prefix"
            raise StoreError(f"{store.title} on {socket.gethostname()}", f"{problem}: {mend}") from error

    def work(self, task: Task, weights: Mapping[str, Any]) -> Done:
        return self._worker.work(task, _fetch(weights), self._device.submit)

    def seconds(self, setting: Setting, batch_size: int, repeats: int, weights: Mapping[str, Any]) -> list[float]:
        return self._device.submit(self._worker.seconds, setting, batch_size, repeats, _fetch(weights)).result()

    def step_costs(self, setting: Setting, first_seed: int, count: int, weights: Mapping[str, Any]) -> StepCosts:
        return self._device.submit(self._worker.step_costs, setting, first_seed, count, _fetch(weights)).result()


def _fetch(weights: Mapping[str, Any]) -> Fetch | None:
    """Without weights, the worker reads them from the store itself."""
    import ray

    return (lambda snapshot: bytes(ray.get(weights[snapshot.weights_sha256]))) if weights else None


def _words(device: Mapping[str, str]) -> str:
    return "a device of " + " ".join(device.values())
