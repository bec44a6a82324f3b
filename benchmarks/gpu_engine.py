"""The engine on a GPU: `python benchmarks/gpu_engine.py [--quick] [--json FILE]`.

A benchmark of 20 settings, images and features, run by `generate` as any job does, with one, two and three actors on
each GPU (`actors.per_gpu`); quick: CUDA graphs alone, with one and two. A GPU answers later than it is asked, so the
time within networks can't be taken by a clock around them: what is compared is the number of evaluations a second, with
that of bare forward passes of the same network on the same path, before and after. An actor's time is counted from the
end of its first chunk, which includes compiling, to the end of its last.
"""

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # also where it is run as a file

import torch

from benchmarks.engine import MODEL, classifier, points_of, put_network
from benchmarks.report import Row, run
from pipeline.data.samples import Execution
from pipeline.data.store import Store
from pipeline.engine import fleet as fleets
from pipeline.engine.actor import Actor
from pipeline.engine.denoisers import load_denoiser
from pipeline.engine.devices import as_dtype, fixed_arithmetic
from pipeline.engine.generation import generate
from pipeline.engine.session import session
from pipeline.engine.work import Actors, Done, ExtractorPlan, Seeds, Task, WorkerSettings
from pipeline.training.snapshot import weights_bytes

SHARE = 0.97
EXECUTION = Execution(precision="bf16", batch_size=256, chunk_size=512, device="cuda")
PATHS = {"eager": False, "CUDA graphs": "reduce-overhead"}


def telling_actor(folder: Path) -> type[Actor]:
    """Actors that write down there when chunks were done, and how many evaluations they took."""

    class TellingActor(Actor):
        def __init__(self, settings: WorkerSettings, plans: Sequence[ExtractorPlan]) -> None:
            super().__init__(settings, plans)
            self._told: list[tuple[float, int]] = []
            self._telling = threading.Lock()  # tasks have threads of their own

        def work(self, task: Task, weights: Mapping[str, Any]) -> Done:
            done = super().work(task, weights)
            with self._telling:
                self._told.append((time.time(), int(done.nfe.sum())))
                (folder / f"{os.getpid()}.json").write_text(json.dumps(self._told))
            return done

    return TellingActor


def measure(quick: bool) -> Iterator[Row]:
    if not torch.cuda.is_available():
        sys.exit("error: there is no GPU here")
    images = 1024 if quick else 4096
    with session():
        for name in ("CUDA graphs",) if quick else PATHS:
            execution = replace(EXECUTION, compile=PATHS[name])
            for per_gpu in (1, 2) if quick else (1, 2, 3):
                yield _row(name, execution, per_gpu, images)


def _row(name: str, execution: Execution, per_gpu: int, images: int) -> Row:
    before = _bare(execution)
    with tempfile.TemporaryDirectory() as folder:
        measures = Path(folder) / "measures"
        measures.mkdir()
        fleets.Actor = telling_actor(measures)  # type: ignore[misc]
        try:
            store = Store(f"{folder}/store")
            points = points_of(put_network(store), range(8, 18))
            start = time.perf_counter()
            results = generate(
                store, points, Seeds(0, images), execution, Actors(per_gpu=per_gpu), [classifier()], progress=False
            )
            wall = time.perf_counter() - start
        finally:
            fleets.Actor = Actor  # type: ignore[misc]
        told = [json.loads(file.read_text()) for file in measures.iterdir()]
    bare = (before + _bare(execution)) / 2
    # Actors are compared over the time in which all of them are at work.
    first, last = max(one[0][0] for one in told), min(one[-1][0] for one in told)
    done = sum(count for one in told for when, count in one if first < when <= last)
    rate = done / (last - first) / torch.cuda.device_count()
    more = {
        "evaluations_per_s": rate, "bare_per_s": bare, "seconds": last - first, "job_s": wall, "settings": len(points),
        "evaluations": int(sum(result.generated * result.nfe for result in results)), "actors": len(told),
    }  # fmt: skip
    title = f"bf16 {name}, {per_gpu} a GPU: evaluations a second by those of forward passes alone"
    return Row(title, rate / bare, SHARE, more=more)


def _bare(execution: Execution) -> float:
    """Evaluations a second of the network alone, on one GPU of which nothing else is asked."""
    import ray

    return float(ray.get(ray.remote(_bare_loop).options(num_gpus=1, max_calls=1).remote(execution)))


def _bare_loop(execution: Execution, seconds: float = 3.0) -> float:
    torch.manual_seed(0)
    weights = weights_bytes(MODEL.network.build(MODEL.resolution, MODEL.channels, MODEL.num_classes).state_dict())
    with fixed_arithmetic(1), torch.inference_mode():
        network = load_denoiser(MODEL, weights, execution, "cuda").network
        x = torch.randn(execution.batch_size, *MODEL.shape, device="cuda", dtype=as_dtype(execution.precision))
        c_noise = torch.zeros(len(x), device="cuda")
        for _ in range(5):
            network(x, c_noise, None)
        torch.cuda.synchronize()
        start, done = time.perf_counter(), 0
        while time.perf_counter() < start + seconds:
            for _ in range(20):
                network(x, c_noise, None)
            torch.cuda.synchronize()
            done += 20 * len(x)
        return done / (time.perf_counter() - start)


if __name__ == "__main__":
    sys.exit(run(measure, __doc__))
