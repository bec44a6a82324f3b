"""What the engine itself costs: `python benchmarks/engine.py [--quick] [--json FILE]`.

Four questions: which share of their time devices spend in networks over a whole benchmark of many settings; how long an
actor takes to start beyond Ray's own time; how many chunks a second the driver feeds when the work is nothing; and
whether the driver's memory grows with the number of chunks.

The first one runs `generate` as any job does, on as many actors as there are CPUs, one thread each. A device's time is
counted from its first chunk to its last, in the actor: waiting for the driver, drawing noise, the sampler's arithmetic,
writing and hashing are all in it. Networks are what is between the beginning and the end of a forward pass, of the
denoiser's network or of the extractor's. Writing goes on beside the device, and on a CPU takes its share of the cores;
so the second number compares with processes that do nothing but forward passes, before and after.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # also where it is run as a file

import numpy as np
import torch

from benchmarks.report import Row, run
from pipeline.data.samples import Execution
from pipeline.data.store import Store
from pipeline.diffusion.labels import Unlabelled
from pipeline.diffusion.preconditioning import EDMPreconditioning
from pipeline.diffusion.sampling import Sampler
from pipeline.diffusion.solvers import Euler, Heun
from pipeline.diffusion.timesteps import EDMSteps
from pipeline.engine import fleet as fleets
from pipeline.engine.actor import Actor
from pipeline.engine.devices import family
from pipeline.engine.driver import drive
from pipeline.engine.generation import find_settings, generate
from pipeline.engine.placement import place
from pipeline.engine.policy import Policy
from pipeline.engine.session import session
from pipeline.engine.work import Actors, Done, ExtractorPlan, Point, Seeds, Task, WorkerSettings
from pipeline.metrics.extractors import Classifier
from pipeline.metrics.extractors.classifier import ClassifierNetwork, to_bytes
from pipeline.networks import DDPMpp
from pipeline.training.settings import ModelSpec
from pipeline.training.snapshot import CheckpointRef, commit_snapshot

SETTINGS = 20
SHARE, START, FEED, GROWTH = 0.97, 3.0, 200.0, 0.02  # targets: share, seconds, chunks a second, share
_MEASURES = "SIGMASWEEP_BENCHMARK_FOLDER"
MODEL = ModelSpec(
    network=DDPMpp(model_channels=64, channel_mult=(1, 2, 2), num_blocks=2, attn_resolutions=(16,)),
    preconditioning=EDMPreconditioning(), sigma_data=0.5, resolution=32, channels=3, num_classes=0,
)  # fmt: skip


class MeasuredActor(Actor):
    """Tells how much of its time its networks took, in a file of its own: it is killed without a word."""

    def __init__(self, settings: WorkerSettings, plans: Sequence[ExtractorPlan]) -> None:
        super().__init__(settings, plans)
        self._first, self._clock = 0.0, Clock()
        self._file = Path(os.environ[_MEASURES]) / f"{os.getpid()}.json"
        self._clock.time(ClassifierNetwork)
        self._clock.time(type(MODEL.network.build(MODEL.resolution, MODEL.channels, MODEL.num_classes)))

    def work(self, task: Task, weights: Mapping[str, Any]) -> Done:
        self._first = self._first or time.perf_counter()
        done = super().work(task, weights)
        told = {"networks": self._clock.seconds, "wall": time.perf_counter() - self._first}
        self._file.write_text(json.dumps(told))
        return done


class Clock:
    """The time spent in the forward passes of some networks. On a CPU they have ended when they return."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def time(self, network: Any) -> None:
        """Of all instances of a class from now on."""
        forward = network.forward

        def timed(*arguments: Any, **named: Any) -> Any:
            start = time.perf_counter()
            output = forward(*arguments, **named)
            self.seconds += time.perf_counter() - start
            return output

        network.forward = timed


class NothingActor(Actor):
    """Does nothing to its chunks."""

    def work(self, task: Task, weights: Mapping[str, Any]) -> Done:
        return Done(np.full(256, 35))


class Empty:
    """What Ray needs to start an actor that needs nothing."""

    def hello(self) -> int:
        return os.getpid()


def put_network(store: Store, name: str = "net") -> CheckpointRef:
    torch.manual_seed(0)
    weights = MODEL.network.build(MODEL.resolution, MODEL.channels, MODEL.num_classes).state_dict()
    meta = {"settings": {}, "dataset": {"name": "none", "digest": "none"}}
    commit_snapshot(store, f"{name}-00000000", 1000, MODEL, {"raw": weights}, meta)
    return CheckpointRef(name)


def points_of(checkpoint: CheckpointRef, steps: Sequence[int]) -> list[Point]:
    """Settings of unlike cost: two solvers, many numbers of steps."""
    return [
        Point(f"{solver.kind} {n}", checkpoint, Sampler(timesteps=EDMSteps(num_steps=n), solver=solver), Unlabelled())
        for n in steps
        for solver in (Euler(), Heun())
    ]


def classifier() -> ExtractorPlan:
    """An extractor of the kind that small images are measured with, not trained."""
    settings = Classifier()
    torch.manual_seed(0)
    network = ClassifierNetwork(MODEL.shape, 10, settings.width, settings.num_features)
    return ExtractorPlan(settings, to_bytes(network))


def share(quick: bool) -> list[Row]:
    """Of the devices' time, in the networks, over a benchmark of 20 settings."""
    images, steps = (128, range(2, 12)) if quick else (2000, range(3, 13))
    execution = Execution(batch_size=32, chunk_size=64 if quick else 256, device="cpu")
    count = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder, measured(Path(folder) / "measures") as measures:
        store = Store(f"{folder}/store")
        points = points_of(put_network(store), steps)
        with session(count):
            before = bare_rate(execution, count, 10 if quick else 30)
            start = time.perf_counter()
            results = generate(store, points, Seeds(0, images), execution, Actors(count), [classifier()])
            wall = time.perf_counter() - start
            after = bare_rate(execution, count, 10 if quick else 30)
        found = [json.loads(file.read_text()) for file in measures.iterdir()]
    networks, busy = sum(one["networks"] for one in found), sum(one["wall"] for one in found)
    evaluations = sum(result.generated * result.nfe for result in results)
    bare, rate = (before + after) / 2, count * evaluations / busy
    more = {
        "settings": len(points), "images": sum(result.generated for result in results), "actors": count,
        "evaluations": int(evaluations), "networks_s": networks, "actors_s": busy, "job_s": wall,
        "of_the_job": networks / count / wall,
    }  # fmt: skip
    speed = {"evaluations_per_s": rate, "bare_before": before, "bare_after": after}
    return [
        Row("share of the actors' time in networks", networks / busy, SHARE, more=more),
        Row("evaluations a second of the actors, over those of forward passes alone", rate / bare, more=speed),
    ]


def bare_rate(execution: Execution, count: int, seconds: float) -> float:
    """Evaluations a second of the network alone, in as many processes at once as there are actors."""
    import ray

    loops = [ray.remote(bare_loop).options(num_cpus=1).remote(execution, seconds) for _ in range(count)]
    return float(sum(ray.get(loops)))


def bare_loop(execution: Execution, seconds: float) -> float:
    torch.set_num_threads(execution.threads)
    network = MODEL.network.build(MODEL.resolution, MODEL.channels, MODEL.num_classes).eval()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x, c_noise = torch.randn(execution.batch_size, *MODEL.shape), torch.zeros(execution.batch_size)
    with torch.inference_mode():
        network(x, c_noise, None)
        start, done = time.perf_counter(), 0
        while time.perf_counter() < start + seconds:
            network(x, c_noise, None)
            done += len(x)
    return done / (time.perf_counter() - start)


@contextmanager
def measured(folder: Path) -> Iterator[Path]:
    """Actors measure themselves, into this folder."""
    folder.mkdir()
    os.environ[_MEASURES], fleets.Actor = str(folder), MeasuredActor  # type: ignore[misc]
    try:
        yield folder
    finally:
        fleets.Actor = Actor  # type: ignore[misc]


def start(quick: bool) -> list[Row]:
    """Of a warm actor, beyond the start of an empty one: everything on its way was read from the disk before."""
    import ray

    with tempfile.TemporaryDirectory() as folder, session(2):
        execution = Execution(device="cpu")
        settings = WorkerSettings(Store(folder), execution, "cpu", family("cpu", execution.precision))

        def seconds(kind: type, *arguments: Any) -> float:
            begin = time.perf_counter()
            actor = ray.remote(kind).options(num_cpus=1).remote(*arguments)
            ray.get(actor.hello.remote())
            found = time.perf_counter() - begin
            ray.kill(actor)
            time.sleep(1)  # its CPU is free again, and Ray has another process ready
            return found

        seconds(Actor, settings, ())
        repeats = 3 if quick else 7
        ours = [seconds(Actor, settings, ()) for _ in range(repeats)]
        empty = [seconds(Empty) for _ in range(repeats)]
    more = {"actor_s": statistics.median(ours), "empty_actor_s": statistics.median(empty), "repeats": repeats}
    beyond = statistics.median(ours) - statistics.median(empty)
    return [Row("start of a warm actor beyond Ray's own, seconds", beyond, START, at_most=True, more=more)]


def feed(quick: bool) -> list[Row]:
    """Chunks of real settings through the driver, to actors that do nothing; and the driver's memory meanwhile."""
    chunks = 10_000 if quick else 100_000
    with tempfile.TemporaryDirectory() as folder, session(2):
        store = Store(folder)
        execution, actors = Execution(device="cpu"), Actors(2)
        placement = place(execution, actors)
        points = points_of(put_network(store), range(3, 13))
        settings = find_settings(store, points, execution, placement)
        tasks = [Task(setting, index, True) for setting in settings for index in range(chunks // len(settings))]
        work = WorkerSettings(store, execution, placement.device, placement.family)
        with fleets.ray_fleet(work, (), actors, 2, print, NothingActor) as fleet:
            watch = Watch(len(tasks))
            drive(Policy(tasks), fleet, watch.on_done, watch.on_failed)
    rate, grown = watch.rate(), watch.grown()
    more = {"chunks": len(tasks), "actors": 2, "driver_cpu_s_per_chunk": watch.cpu() / len(tasks)}
    memory = {
        "chunks": len(tasks), "first_mb": watch.memory[0][1] / 1e6, "last_mb": watch.memory[-1][1] / 1e6,
        "bytes_a_chunk": watch.slope(),
    }  # fmt: skip
    return [
        Row("chunks a second that the driver feeds", rate, FEED, more=more),
        Row("growth of the driver's memory from a tenth of the chunks on", grown, GROWTH, at_most=True, more=memory),
    ]


class Watch:
    """The clock and the memory of this process, while chunks are done. The first tenth is a warm-up."""

    def __init__(self, total: int) -> None:
        self._total, self._done = total, 0
        self.memory: list[tuple[int, int]] = []
        self._times: list[tuple[float, float]] = []

    def on_done(self, task: Task, done: Done) -> None:
        self._done += 1
        if self._done % (self._total // 50) == 0 and self._done >= self._total // 10:
            self.memory.append((self._done, resident_bytes()))
            self._times.append((time.perf_counter(), time.process_time()))

    def on_failed(self, task: Task, error: Exception) -> None:
        raise error

    def rate(self) -> float:
        return (self.memory[-1][0] - self.memory[0][0]) / (self._times[-1][0] - self._times[0][0])

    def cpu(self) -> float:
        share = (self.memory[-1][0] - self.memory[0][0]) / self._total
        return (self._times[-1][1] - self._times[0][1]) / share

    def grown(self) -> float:
        return self.memory[-1][1] / self.memory[0][1] - 1

    def slope(self) -> float:
        done, memory = np.array(self.memory, dtype=np.float64).T
        return float(np.polyfit(done, memory, 1)[0])


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(quick: bool) -> Iterator[Row]:
    for part in (start, feed, share):
        yield from part(quick)


if __name__ == "__main__":
    sys.exit(run(measure, __doc__))
