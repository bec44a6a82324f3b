"""The engine at the size of a large cluster: `python benchmarks/scale.py [--quick] [--json FILE]`.

In virtual time, the policy that hands out chunks, with 1,000 devices of unlike speed and chunks of 5 to 60 seconds: how
much longer it takes than devices that never wait and lose nothing. A row's number is the makespan less one chunk (the
longest one, on the slowest device that is no straggler), over that lower bound; `excess_in_chunks` is the excess in
such chunks. And what an event costs the driver, with more and more devices.

In real time, the engine's fleet and driver on a Ray cluster of 8 nodes with 8 logical GPUs each, all on this machine,
whose actors wait instead of computing and import no torch.
"""

import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # also where it is run as a file

import numpy as np
import torch

from benchmarks.light import LightActor, LightDone, LightSettings, LightTask
from benchmarks.report import Row, run, seconds
from benchmarks.virtual import Chunk, Cluster
from pipeline.data.chunk_file import Chunk as Chunk256
from pipeline.data.chunk_file import png
from pipeline.data.samples import chunk_key, commit_chunk, read_counts
from pipeline.data.store import Store
from pipeline.data.verified import Verified
from pipeline.digests import digest, sha256
from pipeline.metrics.moments import Moments

DEVICES, NODE = 1000, 8
MAKESPAN, LINEAR = 1.02, 1.5
NODES, GPUS = 8, 8
# Of Ray, on one machine in place of eight: few processes start at once, and nobody gives up on them.
PATIENT = {
    "RAY_worker_register_timeout_seconds": "600",
    "RAY_worker_maximum_startup_concurrency": "1",
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_health_check_timeout_ms": "60000",
}
SETTINGS_OF_A_CHECKPOINT = 20
ORDINARY, SLOW = (0.9, 1.1), (0.3, 0.7)  # speeds of devices, and of stragglers


def chunks_of(devices: int, each: int, checkpoints: int = 5, seed: int = 0) -> list[Chunk]:
    """About `each` chunks a device. Those of one setting take equally long, 5 to 60 s; settings differ."""
    random_ = random.Random(seed)
    number = max(devices * each // (checkpoints * SETTINGS_OF_A_CHECKPOINT), 1)
    settings = [
        (str(checkpoint), random_.uniform(5, 60)) for checkpoint in range(checkpoints)
        for _ in range(SETTINGS_OF_A_CHECKPOINT)
    ]  # fmt: skip
    return [
        Chunk(checkpoint, setting * number + index, seconds)
        for setting, (checkpoint, seconds) in enumerate(settings) for index in range(number)
    ]  # fmt: skip


def even(each: int) -> Cluster:
    """All devices nearly alike, and there from the beginning."""
    cluster, random_ = Cluster(chunks_of(DEVICES, each)), random.Random(1)
    for device in range(DEVICES):
        cluster.join(random_.uniform(0, 2), device, random_.uniform(*ORDINARY))
    return cluster


def stragglers(each: int) -> Cluster:
    """One device in twenty runs at 0.3 to 0.7 of the speed of the others."""
    cluster, random_ = Cluster(chunks_of(DEVICES, each, seed=2)), random.Random(3)
    for device in range(DEVICES):
        slow = device % 20 == 0
        cluster.join(random_.uniform(0, 30), device, random_.uniform(*(SLOW if slow else ORDINARY)))
    return cluster


def coming_and_going(each: int) -> Cluster:
    """Nodes of 8 devices, a fifth of which leave on the way; as many others come, later; and stragglers."""
    cluster, random_ = Cluster(chunks_of(DEVICES, each, seed=4)), random.Random(5)
    about = sum(chunk.seconds for chunk in cluster.chunks) / DEVICES
    for node in range(DEVICES // NODE):
        speed = random_.uniform(*(SLOW if node % 20 == 0 else ORDINARY))
        leaves = random_.uniform(0.1, 0.8) * about if node % 5 == 1 else None
        for device in range(node * NODE, (node + 1) * NODE):
            cluster.join(random_.uniform(0, 30), device, speed)
            if leaves is not None:
                cluster.leave(leaves, device)
                cluster.join(leaves + random_.uniform(30, 200), DEVICES + device, speed)
    return cluster


def makespan(quick: bool) -> Iterator[Row]:
    for make in (even, stragglers, coming_and_going):
        cluster = make(20 if quick else 100)
        begin = time.perf_counter()
        end, bound = cluster.run(), cluster.bound()
        longest = max(chunk.seconds for chunk in cluster.chunks) / ORDINARY[0]
        assert cluster.done == Counter(cluster.chunks), "a chunk is missing or was done twice"
        more = {
            "makespan_s": end, "bound_s": bound, "chunks": len(cluster.chunks), "lost": cluster.lost,
            "excess_over_bound": end / bound - 1, "excess_in_chunks": (end - bound) / longest,
            "idle_share": cluster.idle / end / DEVICES, "simulated_in_s": time.perf_counter() - begin,
        }  # fmt: skip
        name = make.__name__.replace("_", " ")
        yield Row(f"{DEVICES} devices, {name}: makespan", (end - longest) / bound, MAKESPAN, at_most=True, more=more)


def linear(quick: bool) -> Iterator[Row]:
    """Time of the policy an event, with more and more devices and as many chunks for each of them."""
    cost = {}
    for devices in (125, 250, 500, 1000, 2000):
        cluster = Cluster(chunks_of(devices, 10 if quick else 40))
        for device in range(devices):
            cluster.join(0, device)
        cluster.run()
        cost[devices] = 1e6 * cluster.policy_seconds / len(cluster.chunks)
    more = {f"us_a_chunk_{devices}": value for devices, value in cost.items()}
    yield Row("policy's time a chunk, 2,000 devices over 125", cost[2000] / cost[125], LINEAR, at_most=True, more=more)


def _raise(_: Any, error: Exception) -> None:
    raise error


def available_bytes() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))


@contextmanager
def local_cluster(nodes: int, gpus: int) -> Iterator[int]:
    """A Ray cluster of several nodes on this machine, connected; the memory that was free before it."""
    from pipeline.engine.session import set_environment

    set_environment()
    os.environ.update(PATIENT)
    before = available_bytes()
    import ray
    from ray.cluster_utils import Cluster as RayCluster

    cluster = RayCluster()
    try:
        for _ in range(nodes):
            cluster.add_node(num_cpus=gpus, num_gpus=gpus, object_store_memory=80 * 1024**2, include_dashboard=False)
        cluster.connect()
        cluster.wait_for_nodes()
        yield before
    finally:
        ray.shutdown()
        cluster.shutdown()


def smoke(quick: bool) -> Iterator[Row]:
    """8 nodes of 8 logical GPUs. The number is the share of the GPUs' time in chunks, from the first to the last."""
    from pipeline.engine.driver import drive
    from pipeline.engine.fleet import RayFleet
    from pipeline.engine.policy import Policy
    from pipeline.engine.work import Actors

    random_ = random.Random(0)
    each = 6 if quick else 20
    tasks = [LightTask(f"setting {i % 20}", i, random_.uniform(1, 4)) for i in range(NODES * GPUS * each)]
    found: list[LightDone] = []
    with local_cluster(NODES, GPUS) as memory_before:
        begin = time.perf_counter()
        fleet: Any = RayFleet(LightSettings(), (), Actors(), NODES * GPUS, print, LightActor)  # type: ignore[arg-type]
        try:
            cpu = time.process_time()
            policy: Any = Policy(tasks)
            drive(policy, fleet, lambda _, done: found.append(done), _raise)
            cpu = time.process_time() - cpu
            wall, memory = time.perf_counter() - begin, available_bytes()
        finally:
            fleet.close()
    all_there = max(min(done.begin for done in found if done.pid == pid) for pid in {done.pid for done in found})
    first, last = min(done.begin for done in found), max(done.end for done in found)
    busy = sum(done.end - done.begin for done in found)
    inside = sum(max(done.end - max(done.begin, all_there), 0) for done in found)
    more = {
        "nodes": len({done.node for done in found}), "gpus": len({(done.node, done.gpu) for done in found}),
        "chunks": len(found), "job_s": wall, "of_all_from_the_first_chunk": busy / (last - first) / NODES / GPUS,
        "driver_cpu_ms_a_chunk": 1e3 * cpu / len(found), "memory_gb": (memory_before - memory) / 1e9,
    }  # fmt: skip
    assert len(found) == len(tasks), "a chunk is missing or was done twice"
    share = inside / (last - all_there) / NODES / GPUS
    yield Row(f"{NODES} nodes of {GPUS} GPUs: share of their time in chunks, once all are there", share, more=more)


def constants() -> Iterator[Row]:
    """What `docs/scaling.md` calculates with. None of these has a target."""
    image = picture(512)
    size = len(png(image))
    yield Row("PNG of a 512x512 image, seconds", seconds(lambda: png(image), 9), more={"bytes": size})
    with tempfile.TemporaryDirectory() as folder:
        store, images = Store(folder), np.stack([picture(32)] * 256)
        chunk = Chunk256(0, np.arange(256), np.zeros(256, np.int64), images, np.full(256, 63))
        key = {"execution": {"chunk_size": 256}, "of": "a setting" * 100}
        taken = seconds(lambda: commit_chunk(store, key, chunk), 9)
        yield Row("encoding and committing a chunk of 256 images of 32x32, seconds", taken)
        key_of_it = chunk_key(digest(key), 0)
        yield Row("verifying a chunk that is there, seconds", seconds(lambda: read_counts(store, digest(key), 0), 99))
        yield Row("its manifest, bytes", float(len(store.read(f"{key_of_it}.json"))))
    yield from stock()
    data = os.urandom(2**28)
    yield Row("sha256, bytes a second", len(data) / seconds(lambda: sha256(data), 3))
    features = np.random.default_rng(0).normal(size=(2048, 2048)).astype(np.float32)
    torch.set_num_threads(1)
    taken = seconds(lambda: Moments.of(features), 3)
    yield Row("moments of 2,048 features, images a second of one thread", len(features) / taken)


def stock() -> Iterator[Row]:
    """What is there of 1,000 chunks of 16 images of 32x32, by eight threads: read and verified, and vouched for."""
    count, key = 1000, {"execution": {"chunk_size": 16}, "of": "a setting" * 100}
    images = np.stack([picture(32)] * 16)
    with tempfile.TemporaryDirectory() as folder, cache_in(folder):
        store, name = Store(folder), digest(key)
        for index in range(count):
            seeds = np.arange(16) + 16 * index
            commit_chunk(store, key, Chunk256(index, seeds, np.zeros(16, np.int64), images, np.full(16, 63)))

        def look() -> None:
            verified = Verified(store, f"samples/{name}")
            with ThreadPoolExecutor(8) as readers:
                list(readers.map(lambda key: verified.find(key) or verified.add(key, read(key)), verified.commits()))
            verified.save()

        def read(key: str) -> list[int]:
            return read_counts(store, name, int(key.rpartition("-")[2])).nfe.tolist()

        begin = time.perf_counter()
        look()
        yield Row(f"taking stock of {count:,} chunks for the first time, seconds", time.perf_counter() - begin)
        yield Row("the same again, seconds", seconds(look, 5))


@contextmanager
def cache_in(folder: str) -> Iterator[None]:
    """What is verified here leaves no trace in the home folder."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
    try:
        yield
    finally:
        os.environ.pop("XDG_CACHE_HOME")
        os.environ |= {} if before is None else {"XDG_CACHE_HOME": before}


def picture(size: int) -> Any:
    """Slopes and grain: a PNG of it is about as long as one of a photograph, 11 to 12 bits a pixel."""
    random = np.random.default_rng(0)
    x, y = np.meshgrid(np.linspace(0, 3, size), np.linspace(0, 2, size))
    smooth = np.stack([128 + 80 * np.sin(x * k) * np.cos(y * (4 - k)) for k in (1, 2, 3)])
    return (smooth + random.normal(0, 2.5, smooth.shape)).clip(0, 255).astype(np.uint8)


def waiting() -> Iterator[Row]:
    """What the driver's question costs, with two chunks in flight on each of many actors."""
    import ray

    from pipeline.engine.session import session

    with session(2):
        hold = ray.remote(Sleeper).options(num_cpus=0, max_concurrency=4000).remote()
        calls = [hold.sleep.remote() for _ in range(2 * DEVICES)]
        taken = seconds(lambda: ray.wait(calls, num_returns=len(calls), timeout=0), 9)
        ray.kill(hold)
    yield Row(f"asking which of {2 * DEVICES:,} chunks are done, seconds", taken)


class Sleeper:
    async def sleep(self) -> None:
        import asyncio

        await asyncio.sleep(3600)


def measure(quick: bool) -> Iterator[Row]:
    for part in (makespan, linear, smoke):
        yield from part(quick)
    for part in (constants, waiting):
        yield from part()


if __name__ == "__main__":
    sys.exit(run(measure, __doc__))
