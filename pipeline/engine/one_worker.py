"""One worker by itself, for what is measured on a network rather than generated: this process, or a Ray actor."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from pipeline.data.samples import Execution
from pipeline.data.store import Store
from pipeline.engine.actor import Actor, ChunkWorker, Hello
from pipeline.engine.devices import device_name, fixed_arithmetic
from pipeline.engine.fleet import num_actors
from pipeline.engine.placement import Placement
from pipeline.engine.session import session
from pipeline.engine.work import Actors, Setting, WorkerSettings
from pipeline.training.snapshot import read_weights


class OneWorker(Protocol):
    device: str

    def call(self, method: str, setting: Setting, *arguments: Any) -> Any:
        """What a method of `ChunkWorker` says of a setting."""
        ...


@contextmanager
def one_worker(store: Store, execution: Execution, actors: Actors, placement: Placement) -> Iterator[OneWorker]:
    """Raises:
    SettingsError: the cluster has no room for it.
    """
    settings = WorkerSettings(
        store, execution, placement.device, placement.family, denoiser_memory_gb=actors.denoiser_memory_gb
    )
    if actors.num_actors == 0:
        with fixed_arithmetic(execution.threads):
            yield _Here(settings)
        return
    with session() as resources:
        import ray

        num_actors(actors, execution.threads, placement.device, resources)
        worker = _There(settings)
        try:
            yield worker
        finally:
            ray.kill(worker.actor)


class _Here:
    """This process."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._worker = ChunkWorker(settings, ())
        self.device = device_name(settings.device)

    def call(self, method: str, setting: Setting, *arguments: Any) -> Any:
        return getattr(self._worker, method)(setting, *arguments)


class _There:
    """One Ray actor."""

    def __init__(self, settings: WorkerSettings) -> None:
        import ray

        gpus = int(settings.device == "cuda")
        actor = ray.remote(Actor).options(num_cpus=settings.execution.threads, num_gpus=gpus, max_restarts=0)
        self._store = settings.store
        self.actor = actor.remote(settings, ())
        hello: Hello = self._get(self.actor.hello.remote())
        self.device = hello.device_name

    def call(self, method: str, setting: Setting, *arguments: Any) -> Any:
        import ray

        weights = {
            snapshot.weights_sha256: ray.put(read_weights(self._store, snapshot)) for snapshot in setting.snapshots
        }
        return self._get(getattr(self.actor, method).remote(setting, *arguments, weights))

    def _get(self, call: Any) -> Any:
        import ray

        try:
            return ray.get(call)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
