"""How long a setting takes, measured by itself: warm, one actor alone, one batch at a time, the median of some repeats.

Never inferred from chunks that were generated, whose workers may have shared their machine. A timing is kept under
`timings/<digest>`, where the digest names the setting, the batch and the device by its full name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from pipeline.data.samples import Execution
from pipeline.data.store import Store
from pipeline.digests import canonical, digest
from pipeline.engine.generation import find_settings
from pipeline.engine.one_worker import OneWorker, one_worker
from pipeline.engine.placement import place
from pipeline.engine.progress import line
from pipeline.engine.work import Actors, Point, Setting
from pipeline.errors import SettingsError, StoreError
from pipeline.networks import Network

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
    found = [None if anew else find_timing(store, setting, batch_size, repeats, placement.name) for setting in settings]
    if all(found):
        return [timing for timing in found if timing is not None]
    store.check_writable()
    with one_worker(store, execution, actors, placement) as worker:
        return _measured(store, settings, found, worker, batch_size, repeats, progress)


def _measured(
    store: Store, settings: Sequence[Setting], found: Sequence[Timing | None], worker: OneWorker, batch_size: int,
    repeats: int, progress: bool,
) -> list[Timing]:  # fmt: skip
    timings = []
    with line("settings timed", len(settings), progress) as told:
        told.begin()
        for setting, timing in zip(settings, found, strict=True):
            timings.append(timing or _measure(store, setting, worker, batch_size, repeats))
            told.advance()
    return timings


def _measure(store: Store, setting: Setting, worker: OneWorker, batch_size: int, repeats: int) -> Timing:
    seconds: list[float] = worker.call("seconds", setting, batch_size, repeats)
    threads = int(setting.key["execution"]["threads"])
    timing = Timing(1000 * median(seconds) / batch_size, tuple(seconds), batch_size, threads, worker.device)
    about = _about(setting, batch_size, repeats, worker.device)
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


def seconds_of_network(store: Store, network: Network, resolution: int) -> float | None:
    """What one evaluation of a network of these settings takes for one image of this size, whatever its weights, by
    all timings there are; the median, or None where nothing like it was timed yet."""
    found, wanted = [], (canonical(network), resolution)
    for key in store.committed(ROOT):
        try:
            meta = store.manifest(key).meta
        except StoreError:
            continue
        model = meta["about"]["setting"]["networks"]["main"]["model"]
        if meta.get("nfe") and (canonical(model["network"]), model["resolution"]) == wanted:
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


def find_timing(store: Store, setting: Setting, batch_size: int, repeats: int, device: str) -> Timing | None:
    """A timing that is in the store. What cannot be read is measured again."""
    try:
        manifest = store.find(f"{ROOT}/{digest(_about(setting, batch_size, repeats, device))}")
    except StoreError:
        return None
    if manifest is None:
        return None
    timing = manifest.meta["timing"]
    return Timing(**{**timing, "repeats": tuple(timing["repeats"])})
