"""How fast networks are trained: a whole step of the product, on its fast paths, against a plain PyTorch loop.

    python benchmarks/training.py [--quick] [--json FILE] [--networks 7.0M,55.7M] [--threads 2]

The plain loop is EDM's loss around the eager float32 network, torch's Adam as it comes and an average of the weights,
in 20 lines, with as many threads and the same images. The product's are `Trainer.step` with `channels_last` and
`compile`, in float32 and in bf16. Each runs in its process, all in turn, round after round (`lanes.py`). Then a worker
of one thread alone against two workers of one thread each (DDP, gloo), on as many images a step a worker; and the
shares of a step that go into making the batch and into the averages.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.lanes import (
    Lane,
    has_fast_bf16,
    in_turn,
    parsed,
    parser,
    peak_flops,
    prepare,
    ratio,
    report,
    seconds_of,
    torch_arithmetic,
)
from benchmarks.networks import CASES, Case
from pipeline.data.dataset import Dataset, commit_dataset
from pipeline.data.sources.base import Item
from pipeline.data.store import Store
from pipeline.training.loop import gpu_arithmetic
from pipeline.training.place import Place
from pipeline.training.settings import EMA, Optimizer, TrainingSettings
from pipeline.training.trainer import Trainer

PLAIN = "plain loop, eager fp32"
_DATASET, _IMAGES = "noise", 2048


def make_images(folder: str) -> None:
    """A data set of noise: what the images show takes no time."""
    pixels = np.random.default_rng(0).integers(0, 256, (_IMAGES, 3, 32, 32), dtype=np.uint8)
    items: Iterator[Item] = (Item("noise", image) for image in pixels)
    commit_dataset(Store(folder), _DATASET, items, say=lambda _: None)


class Plain:
    """What one writes without a library."""

    def __init__(self, case: Case, folder: str, device: str, fp16: bool = False, tf32: bool = False) -> None:
        torch_arithmetic(tf32)
        self.device, self.batch, self.fp16 = device, case.training_batch, fp16
        self.scaler = torch.amp.GradScaler(device, enabled=fp16)
        self.images = Dataset.open(Store(folder), _DATASET)
        torch.manual_seed(0)
        self.net = case.net.build(32, 3, 0).to(device).train()
        self.ema = [parameter.detach().clone() for parameter in self.net.parameters()]
        self.adam = torch.optim.Adam(self.net.parameters(), 1e-4)
        self.random = np.random.default_rng(0)

    def step(self) -> None:
        y = torch.from_numpy(self.images.images(self.random.integers(0, _IMAGES, self.batch))).to(self.device)
        y = y.float() / 127.5 - 1
        sigma = (torch.randn(len(y), 1, 1, 1, device=self.device) * 1.2 - 1.2).exp()
        total = sigma**2 + 0.25
        x = y + sigma * torch.randn_like(y)
        with torch.autocast(self.device, torch.float16, enabled=self.fp16):
            f = self.net(x / total.sqrt(), sigma.log().flatten() / 4)
        denoised = 0.25 / total * x + sigma * 0.5 / total.sqrt() * f.float()
        loss = (total / (sigma * 0.5) ** 2 * (denoised - y) ** 2).sum() / len(y)
        self.adam.zero_grad()
        torch.autograd.backward(self.scaler.scale(loss))
        self.scaler.unscale_(self.adam)
        nn.utils.clip_grad_norm_(self.net.parameters(), 1e9)
        self.scaler.step(self.adam)
        self.scaler.update()
        with torch.no_grad():
            for average, parameter in zip(self.ema, self.net.parameters(), strict=True):
                average.lerp_(parameter, 0.001)

    def seconds(self) -> float:
        return seconds_of(self.step, self.device)


class Product:
    """`Trainer.step`, in this process or as one of several."""

    def __init__(
        self, case: Case, folder: str, device: str, precision: Any, compiled: Any, convolution: Any = "direct",
        rank: int = 0, workers: int = 1, meeting: str = "",
    ) -> None:  # fmt: skip
        if workers > 1:
            torch.distributed.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=workers)
        self.device = device
        self._arithmetic = ExitStack()
        self._arithmetic.enter_context(gpu_arithmetic())
        self.settings = TrainingSettings(
            batch_size=case.training_batch * workers, precision=precision, compile=compiled, convolution=convolution,
            norm="native" if convolution == "winograd" else "torch",
            ema=EMA(halflife_kimg=(500.0,)), optimizer=Optimizer(lr=1e-4, ramp_up_kimg=0),
        )  # fmt: skip
        dataset = Dataset.open(Store(folder), _DATASET)
        self.trainer = Trainer(case.model, self.settings, dataset, Place(rank, workers, torch.device(device)))

    def seconds(self) -> float:
        return seconds_of(self.trainer.step, self.device)

    def batch_seconds(self) -> float:
        """Of making the images of a step."""
        share = self.trainer._place.share_of(0, self.settings.batch_size)
        return seconds_of(lambda: self.trainer._batches.make(*share), self.device)

    def ema_seconds(self) -> float:
        averages = self.trainer._averages
        assert averages is not None
        return seconds_of(lambda: averages.update(self.settings.batch_size, 1_000_000), self.device)

    def peak(self) -> float:
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}
        return peak_flops(half.get(self.settings.precision, torch.float32), self.device)


def measure(name: str, case: Case, options: argparse.Namespace, rounds: int, ddp: bool) -> list[dict[str, Any]]:
    """The rows of one network."""
    device, threads = options.device, options.threads
    with tempfile.TemporaryDirectory() as folder:
        make_images(folder)
        compiled: Any = False if options.eager else True if device == "cpu" else "reduce-overhead"
        convolution = "winograd" if device == "cpu" else "direct"
        how = f"{'compiled' if compiled else 'eager'} {convolution if device == 'cpu' else 'channels-last'}"
        usual = ("fp32", "bf16") if device == "cpu" else ("fp32", "bf16", "fp16")
        precisions = options.precisions.split(",") if options.precisions else usual
        paths = {f"{precision} {how}": (precision, compiled) for precision in precisions}
        if device == "cuda" and compiled and "bf16" in precisions:
            paths |= {"bf16 eager channels-last": ("bf16", False), "bf16 compiled without CUDA graphs": ("bf16", True)}
        lanes = {PLAIN: Lane(Plain, case, folder, device, threads=threads)}
        if device == "cuda":
            lanes["plain loop, eager tf32"] = Lane(Plain, case, folder, device, False, True, threads=threads)
            lanes["plain loop, eager fp16"] = Lane(Plain, case, folder, device, True, threads=threads)
        for path, way in paths.items():
            lanes[path] = Lane(Product, case, folder, device, *way, convolution, threads=threads)
        try:
            rows = _rows(name, case, device, lanes, list(paths), rounds)
        finally:
            for lane in lanes.values():
                lane.end()
        return rows + (_ddp_rows(name, case, folder, rounds) if ddp else [])


def _rows(
    name: str, case: Case, device: str, lanes: dict[str, Lane], paths: list[str], rounds: int
) -> list[dict[str, Any]]:
    prepare(lanes.values(), "seconds")
    calls: dict[str, Any] = {lane: (lambda lane=lane: lanes[lane].call("seconds")) for lane in lanes}
    for path in paths:
        for part in ("batch_seconds", "ema_seconds", "peak"):
            calls[f"{part} {path}"] = lambda path=path, part=part: lanes[path].call(part)
    seconds = in_turn(calls, rounds)
    middle = {what: statistics.median(values) for what, values in seconds.items()}
    rows: list[dict[str, Any]] = [
        {
            "name": f"{name} {lane}: steps/s against the plain loop",
            "ratio": ratio(seconds[PLAIN], seconds[lane]),
            "target": None,
            "images_per_second": case.training_batch / middle[lane],
        }
        for lane in lanes
        if lane not in (PLAIN, *paths)
    ]
    for path in paths:
        flops = 3 * case.cost.flops * case.training_batch  # a backward pass costs two forward passes
        rows.append(
            {
                "name": f"{name} {path}: steps/s against the plain loop",
                "ratio": ratio(seconds[PLAIN], seconds[path]),
                "target": _target(path, device),
                "images_per_second": case.training_batch / middle[path],
                "share_of_peak": flops / middle[path] / middle[f"peak {path}"],
            }
        )
        for part, words in (("batch_seconds", "making the batch"), ("ema_seconds", "the averages")):
            share = middle[f"{part} {path}"] / middle[path]
            row = {"name": f"{name} {path}: {words}, share of the step", "ratio": share, "target": 0.02}
            rows.append({**row, "at_most": True})
    return rows


def _target(path: str, device: str) -> float | None:
    if device == "cuda":
        return None
    if path.startswith("fp32"):
        return 1.4
    return 2.0 if has_fast_bf16(device) else None


def _ddp_rows(name: str, case: Case, folder: str, rounds: int) -> list[dict[str, Any]]:
    """One worker against two, each of one thread, on a CPU."""
    shared = case, folder, "cpu", "fp32", False
    alone = Lane(Product, *shared, threads=1)
    pair = [Lane(Product, *shared, "direct", rank, 2, f"{folder}/meeting", threads=1) for rank in range(2)]

    def together() -> float:
        for lane in pair:
            lane.start("seconds")
        return max(lane.finish() for lane in pair)

    try:
        together(), alone.call("seconds")
        seconds = in_turn({"alone": lambda: alone.call("seconds"), "pair": together}, rounds)
    finally:
        for lane in (alone, *pair):
            lane.end()
    faster = 2 * ratio(seconds["alone"], seconds["pair"])  # twice the images a step
    return [{"name": f"{name} fp32 eager: two workers of one thread against one", "ratio": faster, "target": 1.8}]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    options.add_argument("--eager", action="store_true", help="without compiling, which takes minutes")
    options.add_argument("--batch", type=int, help="images a step of a worker; 64, and 16 for the 55.7M network")
    options.add_argument("--precisions", help="comma-separated, such as fp32,bf16; all that the device is good for")
    chosen = parsed(options)
    names = (chosen.networks or ("7.0M,55.7M" if chosen.quick else ",".join(CASES))).split(",")
    if unknown := set(names) - set(CASES):
        options.error(f"--networks: no network {', '.join(sorted(unknown))} (there are: {', '.join(CASES)})")
    rounds = chosen.rounds or (3 if chosen.quick else 7)
    rows = []
    for name in names:
        case = CASES[name].on(chosen.device, chosen.quick)
        case = replace(case, training_batch=chosen.batch or case.training_batch)
        # Waiting for each other is what costs two workers, and takes no CPU time.
        with_ddp = chosen.device == "cpu" and not chosen.cpu_time and not (chosen.quick and case.is_large)
        rows += measure(name, case, chosen, rounds, with_ddp)
    report(rows, chosen, rounds)


if __name__ == "__main__":
    main()
