"""What generated images are compared with: the moments of a data set's features, or published statistics."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from pipeline.data.cache import Kept, kept
from pipeline.data.dataset import Dataset
from pipeline.data.features import StoredFeatures, committed_reference_features, read_reference_features
from pipeline.data.samples import Execution
from pipeline.data.store import Store
from pipeline.digests import DIGEST_LENGTH, sha256
from pipeline.engine.devices import Device, fixed_arithmetic
from pipeline.engine.fleet import num_actors, why_lost
from pipeline.engine.placement import place
from pipeline.engine.progress import line, say
from pipeline.engine.pulse import Pulse, Vigil
from pipeline.engine.session import session
from pipeline.engine.starting import Starts
from pipeline.engine.work import Actors, ExtractorPlan
from pipeline.errors import DataError, RunFailedError, StoreError
from pipeline.metrics.extractors import Features, ImageShape
from pipeline.metrics.moments import Gaussian, Moments
from pipeline.metrics.reference_file import read_npz, write_npz

CHUNK = 1024  # images whose moments are taken at once; they are added in the order of the data set
BATCH = {"cpu": 32, "cuda": 256}  # images that the extractor sees at once; more do not fit a CPU's cache
_PATIENCE_S = 30.0  # until it is said that nobody has begun
WORTH_ACTORS = 8  # chunks, below which starting actors takes longer than it saves


@dataclass(frozen=True, eq=False)
class Reference:
    """A Gaussian in the space of one extractor's features.

    Args:
        gaussian: of the features.
        digest: of the data set, or of the file.
        count: how many images it is of; 0 where a file does not say.
        title: what people call it.
        shape: of its images, (C, H, W); None where a file does not say.
    """

    gaussian: Gaussian
    digest: str
    count: int
    title: str
    shape: ImageShape | None = None

    def export(self, path: str | Path) -> None:
        """Writes `mu` and `sigma` as an npz file, as EDM's programs read them.

        Raises:
            DataError: it cannot be written there.
        """
        try:
            write_npz(path, self.gaussian)
        except OSError as error:
            raise DataError(path, f"the reference cannot be written ({error.strerror or error})") from error


def reference_moments(
    store: Store, dataset: Dataset, plan: ExtractorPlan, execution: Execution | None = None,
    actors: Actors | None = None, progress: bool = True,
) -> Reference:  # fmt: skip
    """The reference that a data set is to an extractor: kept in the store, computed where it is not there.

    Its bits do not depend on how many actors compute it.

    Args:
        store: keeps it under `references/<data set's digest>/<extractor's digest>`.
        dataset: all its images are taken.
        plan: the extractor.
        execution: its threads and device are those of the work.
        actors: who computes it; without, this process.
        progress: show a bar.

    Raises:
        DataError: the data set is damaged.
        RunFailedError: actors were lost again and again.
    """
    info = dataset.info
    key = f"references/{info.digest}/{plan.digest}"
    about = {"dataset": info.name, "count": len(dataset), "extractor": plan.settings, "distance": plan.distance_name}

    def compute() -> Kept:
        dataset.verify()  # a wrong reference would be kept
        title = f"reference {info.name} ({plan.distance_name})"
        work = execution or Execution()
        moments = _of_features(store, dataset, plan, work.threads)
        if moments is None:
            moments = _moments(dataset, plan, work, actors or Actors(num_actors=0), progress, title)
        return Kept(moments.to_bytes(), about)

    data = kept(store, key, "moments.safetensors", compute).data
    return Reference(Moments.from_bytes(data, key).gaussian(), info.digest, len(dataset), info.name, info.shape)


def published_reference(path: str | Path) -> Reference:
    """Statistics that others published, an npz file with `mu` and `sigma`.

    Raises:
        DataError: the file is missing or none such.
    """
    gaussian = read_npz(path)
    return Reference(gaussian, sha256(Path(path).read_bytes())[:DIGEST_LENGTH], 0, Path(path).name)


class MomentsWorker:
    """An extractor that walks over a data set. Runs in this process, or as a Ray actor."""

    def __init__(self, dataset: Dataset, plan: ExtractorPlan, device: Device, threads: int) -> None:
        self._dataset = dataset
        self._threads = threads
        self._batch = BATCH[device]
        self._extractor = plan.build(dataset.info.shape, device)
        self._pulse, self._is_busy = Pulse(), False

    def pulse(self) -> int:
        """The steps of its work so far. Who has nothing to do does not hang."""
        if not self._is_busy:
            self._pulse.beat()
        return self._pulse.beats

    def moments(self, chunk: range) -> Moments:
        """Of the images of these indices."""
        with self._busy():
            return Moments.of(torch.cat([found.features for found in self._extract(chunk)]))

    def features(self, chunk: range) -> StoredFeatures:
        """The same before they are summed up, and logits, where there are any."""
        with self._busy():
            found = list(self._extract(chunk))
        logits = [part.logits for part in found if part.logits is not None]
        features = torch.cat([part.features for part in found]).cpu().numpy()
        return StoredFeatures(features, torch.cat(logits).cpu().numpy() if logits else None)

    def _extract(self, chunk: range) -> Iterator[Features]:
        indices = np.arange(chunk.start, chunk.stop, dtype=np.int64)
        images = torch.from_numpy(self._dataset.images(indices))
        for batch in torch.split(images, self._batch):
            self._pulse.beat()
            yield self._extractor(batch)

    @contextmanager
    def _busy(self) -> Iterator[None]:
        self._is_busy = True
        try:
            with fixed_arithmetic(self._threads):
                yield
        finally:
            self._is_busy = False


def _moments(
    dataset: Dataset, plan: ExtractorPlan, execution: Execution, actors: Actors, progress: bool, title: str
) -> Moments:
    parts: Iterator[Moments] = over_chunks(dataset, plan, execution, actors, chunks_of(dataset), "moments")
    total: Moments | None = None
    with line(title, len(dataset), progress) as told:
        for part in parts:
            total = part if total is None else total + part
            told.advance(part.count)
    if total is None:
        raise DataError(dataset.info.name, "has no images to be a reference")
    return total


def _of_features(store: Store, dataset: Dataset, plan: ExtractorPlan, threads: int) -> Moments | None:
    """From features that are kept because a score asked for them; None where not all are there, or one is damaged."""
    names, count = (dataset.info.digest, plan.digest), len(chunks_of(dataset))
    if count == 0 or not committed_reference_features(store, *names) >= set(range(count)):
        return None
    try:
        with fixed_arithmetic(threads):
            parts = (Moments.of(read_reference_features(store, *names, index).features) for index in range(count))
            return reduce(add, parts)
    except StoreError:
        return None


def chunks_of(dataset: Dataset) -> list[range]:
    """The indices of its images, in the pieces in which a reference is computed."""
    return [range(first, min(first + CHUNK, len(dataset))) for first in range(0, len(dataset), CHUNK)]


def over_chunks(
    dataset: Dataset, plan: ExtractorPlan, execution: Execution, actors: Actors, chunks: Sequence[range],
    what: Literal["moments", "features"],
) -> Iterator[Any]:  # fmt: skip
    """What this method of a worker gives of every chunk, in their order.

    Raises:
        RunFailedError: actors were lost again and again.
    """
    device = place(execution, actors).device
    if actors.num_actors == 0 or len(chunks) < WORTH_ACTORS:
        yield from map(getattr(MomentsWorker(dataset, plan, device, execution.threads), what), chunks)
        return
    with session() as resources:
        count = num_actors(actors, execution.threads, device, resources)
        actor = _actor(actors, execution.threads, device)
        started = [actor.remote(dataset, plan, device, execution.threads) for _ in range(min(count, len(chunks)))]
        watches = Vigil(actors.hang_after_s), Starts(actors.hang_after_s)
        yield from _from_actors(started, chunks, what, *watches)


def _actor(actors: Actors, threads: int, device: Device) -> Any:
    import ray

    return ray.remote(MomentsWorker).options(
        num_cpus=threads,
        num_gpus=actors.gpus(device),
        max_restarts=-1,  # what is bounded is how often one chunk may be tried
        max_task_retries=actors.max_chunk_deaths,
        max_concurrency=2,  # its work, and its pulse
    )


def _from_actors(
    started: Sequence[Any], chunks: Sequence[range], what: str, vigil: Vigil, starts: Starts
) -> Iterator[Any]:
    import ray
    from ray.exceptions import RayActorError
    from ray.util import ActorPool

    pool: Any = ActorPool([])
    to_come = {actor.pulse.remote(): number for number, actor in enumerate(started)}
    at_work: dict[int, Any] = {}
    known: set[int] = set()

    def start_anew(number: int, words: str) -> None:
        """Ray hands its chunk to the next one, and that one may wait for a device."""
        say(f"an actor of the reference is started anew: {words}")
        starts.progressed(number)
        ray.kill(started[number], no_restart=False)

    def welcome(least: int, patience: float) -> None:
        """Those that have begun get chunks. Others wait for a device, or hang while they start."""
        answers = ray.wait(list(to_come), num_returns=least or len(to_come), timeout=patience)[0] if to_come else []
        for answer in answers:
            number = to_come.pop(answer)
            at_work[number] = started[number]
            if number not in known:  # one that was started anew has its chunk already
                known.add(number)
                pool.push(started[number])
        for hung in starts.look(lambda: {number: started[number] for number in to_come.values()}):
            start_anew(hung, starts.words)  # what it was asked, the next one answers

    try:
        while not at_work:
            welcome(1, min(_PATIENCE_S, starts.interval))
            if not at_work:
                say("no actor of the reference has started yet: no device is free, or a start takes long")
        for chunk in chunks:
            pool.submit(lambda actor, chunk: getattr(actor, what).remote(chunk), chunk)
        while pool.has_next():
            welcome(0, 0)
            try:
                yield pool.get_next(timeout=vigil.interval)
            except TimeoutError:
                for hung in vigil.look(lambda: at_work):
                    start_anew(hung, vigil.words)
                    to_come[at_work.pop(hung).pulse.remote()] = hung
    except RayActorError as error:
        problem = f"the same images lost their worker again and again ({why_lost(error)})"
        raise RunFailedError("reference", problem) from error
    finally:
        for actor in started:
            ray.kill(actor)
