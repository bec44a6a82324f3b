"""One worker by itself, for what is measured on a network rather than generated: this process, or a Ray actor."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from pipeline.data.samples import Execution
from pipeline.data.store import Store
from pipeline.engine.actor import Actor, ChunkWorker, Hello
from pipeline.engine.devices import device_name, fixed_arithmetic
from pipeline.engine.fleet import num_actors, why_lost
from pipeline.engine.placement import Placement
from pipeline.engine.pulse import Vigil
from pipeline.engine.session import session
from pipeline.engine.starting import Starts
from pipeline.engine.work import Actors, Setting, WorkerSettings
from pipeline.errors import RunFailedError
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
        worker = _There(settings, actors)
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
    """One Ray actor; one that is lost gets a successor, which does again what was lost with it.

    Args:
        settings: of the run.
        actors: how many may be lost at one call, and when one counts as hung.
    """

    def __init__(self, settings: WorkerSettings, actors: Actors) -> None:
        self._settings = settings
        self._max_deaths = actors.max_chunk_deaths
        self._vigil, self._starts = Vigil(actors.hang_after_s), Starts(actors.hang_after_s)
        self.device = ""
        self._start()
        self._call("hello")

    def call(self, method: str, setting: Setting, *arguments: Any) -> Any:
        import ray

        weights = {
            snapshot.weights_sha256: ray.put(read_weights(self._settings.store, snapshot))
            for snapshot in setting.snapshots
        }
        return self._call(method, setting, *arguments, weights)

    def _call(self, method: str, *arguments: Any) -> Any:
        import ray
        from ray.exceptions import RayActorError, RayTaskError

        for _ in range(self._max_deaths):
            try:
                hello: Hello = self._watched(self.actor.hello.remote(), self._starts)
                self.device = hello.device_name
                return self._watched(getattr(self.actor, method).remote(*arguments), self._vigil)
            except RayTaskError as error:
                raise error.cause from error
            except RayActorError as error:
                lost = error
                ray.kill(self.actor)
                self._start()
        raise RunFailedError(f"the worker for {method}", f"was lost {self._max_deaths} times ({why_lost(lost)})")

    def _watched(self, call: Any, watch: Vigil | Starts) -> Any:
        import ray
        from ray.exceptions import RayActorError

        watch.progressed(0)
        while not ray.wait([call], timeout=watch.interval)[0]:
            if watch.look(lambda: {0: self.actor}):
                raise RayActorError(error_msg=watch.words)
        return ray.get(call)

    def _start(self) -> None:
        import ray

        settings = self._settings
        gpus = int(settings.device == "cuda")
        actor = ray.remote(Actor).options(
            num_cpus=settings.execution.threads, num_gpus=gpus, max_restarts=0,
            max_concurrency=2,  # its work, and its pulse
        )  # fmt: skip
        self.actor = actor.remote(settings, ())
