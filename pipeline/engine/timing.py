"""How long a setting takes, measured by itself: warm, one actor alone, one batch at a time, the median of some repeats.

Never inferred from chunks that were generated, whose workers may have shared their machine. A timing is kept under
`timings/<digest>`, where the digest names the setting, the batch and the device by its full name.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Protocol

from tqdm import tqdm

from pipeline.data.samples import Execution
from pipeline.data.store import Store
from pipeline.digests import digest
from pipeline.engine.actor import Actor, ChunkWorker, Hello
from pipeline.engine.devices import device_name, fixed_arithmetic
from pipeline.engine.fleet import num_actors
from pipeline.engine.generation import find_settings
from pipeline.engine.placement import Placement, place
from pipeline.engine.session import session
from pipeline.engine.work import Actors, Point, Setting, WorkerSettings
from pipeline.errors import SettingsError, StoreError
from pipeline.training.snapshot import read_weights

ROOT = "timings"
MEASUREMENT = 1  # the revision of how it is measured


@dataclass(frozen=True)
class Timing:
    """A warm timing of one setting.

    Args:
        seconds_per_1000: of images, from the median of the repeats.
        repeats: seconds of each batch.
        batch_size: images of a batch.
        threads: CPU threads of the actor.
        device: what it is called.
    """

    seconds_per_1000: float
    repeats: tuple[float, ...]
    batch_size: int
    threads: int
    device: str


class Stopwatch(Protocol):
    """One worker that times settings."""

    device: str

    def seconds(self, setting: Setting, batch_size: int, repeats: int) -> list[float]: ...


def time_points(
    store: Store, points: Sequence[Point], execution: Execution, actors: Actors, images: int | None = None,
    repeats: int = 3, anew: bool = False, progress: bool = True,
) -> list[Timing]:  # fmt: skip
    """A timing of each point, from the store where it has one of this device.

    Args:
        images: of a batch; the batch of generation by default.
        repeats: batches that are timed, after a warm-up.
        anew: measure, whatever the store has.
        progress: show a bar.

    Raises:
        UserError: a point, a checkpoint or the store cannot be used.
    """
    batch_size = images or execution.batch_size
    if batch_size < 1 or repeats < 1:
        raise SettingsError("timing", f"needs at least one image and one repeat (got {images} and {repeats})")
    placement = place(execution, actors)
    settings = find_settings(store, points, execution, placement)
    found = [None if anew else _find(store, setting, batch_size, repeats, placement.name) for setting in settings]
    if all(found):
        return [timing for timing in found if timing is not None]
    store.check_writable()
    with _stopwatch(store, execution, actors, placement) as watch:
        pairs = tqdm(zip(settings, found, strict=True), "timing", len(settings), unit="setting", disable=not progress)
        return [timing or _measure(store, setting, watch, batch_size, repeats) for setting, timing in pairs]


def _measure(store: Store, setting: Setting, watch: Stopwatch, batch_size: int, repeats: int) -> Timing:
    seconds = watch.seconds(setting, batch_size, repeats)
    threads = int(setting.key["execution"]["threads"])
    timing = Timing(1000 * median(seconds) / batch_size, tuple(seconds), batch_size, threads, watch.device)
    about = _about(setting, batch_size, repeats, watch.device)
    nfe = setting.count_nfe()
    meta = {"about": about, "name": setting.name, "timing": asdict(timing)} | ({} if nfe is None else {"nfe": nfe})
    store.commit(f"{ROOT}/{digest(about)}", {}, meta)
    return timing


def seconds_per_evaluation(store: Store, setting: Setting) -> float | None:
    """What one evaluation of the network takes for one image, by the timings of this network (and this guide, the mean
    of both) in the same execution on the same family of devices; the median, or None where nothing like it was timed
    yet."""
    found = []
    for key in store.committed(ROOT):
        try:
            meta = store.manifest(key).meta
        except StoreError:
            continue
        if "nfe" in meta and _alike(meta["about"]["setting"], setting.key):
            found.append(meta["timing"]["seconds_per_1000"] / 1000 / meta["nfe"])
    return median(found) if found else None


def _alike(one: Mapping[str, Any], two: Mapping[str, Any]) -> bool:
    models = [{name: network["model"] for name, network in key["networks"].items()} for key in (one, two)]
    return models[0] == models[1] and all(one[field] == two[field] for field in ("execution", "device"))


def _about(setting: Setting, batch_size: int, repeats: int, device: str) -> dict[str, Any]:
    return {
        "measurement": MEASUREMENT,
        "setting": setting.key,
        "batch_size": batch_size,
        "repeats": repeats,
        "device": device,
    }


def _find(store: Store, setting: Setting, batch_size: int, repeats: int, device: str) -> Timing | None:
    """What cannot be read is measured again."""
    try:
        manifest = store.find(f"{ROOT}/{digest(_about(setting, batch_size, repeats, device))}")
    except StoreError:
        return None
    if manifest is None:
        return None
    timing = manifest.meta["timing"]
    return Timing(**{**timing, "repeats": tuple(timing["repeats"])})


class _Here:
    """This process."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._worker = ChunkWorker(settings, ())
        self.device = device_name(settings.device)

    def seconds(self, setting: Setting, batch_size: int, repeats: int) -> list[float]:
        return self._worker.seconds(setting, batch_size, repeats)


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

    def seconds(self, setting: Setting, batch_size: int, repeats: int) -> list[float]:
        import ray

        weights = {
            snapshot.weights_sha256: ray.put(read_weights(self._store, snapshot)) for snapshot in setting.snapshots
        }
        found: list[float] = self._get(self.actor.seconds.remote(setting, batch_size, repeats, weights))
        return found

    def _get(self, call: Any) -> Any:
        import ray

        try:
            return ray.get(call)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error


@contextmanager
def _stopwatch(store: Store, execution: Execution, actors: Actors, placement: Placement) -> Iterator[Stopwatch]:
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
        watch = _There(settings)
        try:
            yield watch
        finally:
            ray.kill(watch.actor)
