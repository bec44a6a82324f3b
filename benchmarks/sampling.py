"""How fast images are made: the whole sampler loop of the product, on its fast paths, against a plain PyTorch loop.

    python benchmarks/sampling.py [--quick] [--json FILE] [--networks 7.0M,55.7M] [--threads 2]

The plain loop is Euler's method in 20 lines around the eager float32 network, under inference_mode, with as many
threads; diffusers' loop is its EDMEulerScheduler around the same. The product's are `jobs.generate`'s own code with
`execution` as named. Each runs in its process, all in turn, round after round (`lanes.py`). Told for each network:

- the ratio of images a second to the plain loop's, and how far the images are from its (largest difference, in units of
  the largest value);
- the share that the network's convolutions and matrix products have of the peak, the speed of a bare matrix product in
  the same precision, measured in the same rounds; operations are counted by the definition, of which Winograd's
  convolutions take a quarter, so it may be above 1;
- the whole loop's time by that of bare forward passes, as many as evaluations were counted.
"""

import argparse
import importlib.util
import io
import statistics
import sys
import tempfile
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

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
from pipeline.data.samples import Execution
from pipeline.diffusion.sampling import Sampler, sample
from pipeline.diffusion.seeds import INITIAL, Noise, draw
from pipeline.diffusion.solvers import Euler
from pipeline.diffusion.timesteps import EDMSteps, grid
from pipeline.engine.denoisers import load_denoiser
from pipeline.engine.devices import as_dtype, fixed_arithmetic
from pipeline.training.snapshot import build_denoiser

PLAIN, DIFFUSERS = "plain loop, eager fp32", "diffusers' loop, eager fp32"
SHARED = "bf16 reduce-overhead"  # the path of which two share a GPU


class Loop:
    """A way of sampling: seconds of it, and the images that came out last."""

    def __init__(self, case: Case, weights: str, device: str) -> None:
        self.case, self.device = case, device
        self.data = Path(weights).read_bytes()
        self.images = torch.empty(0)

    def run(self) -> Tensor:
        raise NotImplementedError

    @torch.inference_mode()
    def seconds(self) -> float:
        def work() -> None:
            self.images = self.run()

        return seconds_of(work, self.device)

    def last_images(self) -> bytes:
        file = io.BytesIO()
        np.save(file, self.images.cpu().double().numpy())
        return file.getvalue()


class Plain(Loop):
    """What one writes without a library."""

    def __init__(
        self, case: Case, weights: str, device: str, dtype: torch.dtype = torch.float32, tf32: bool = False
    ) -> None:
        super().__init__(case, weights, device)
        torch_arithmetic(tf32)
        self.denoiser = build_denoiser(case.model, self.data, torch.float32, "cpu").to(device)
        self.net = self.denoiser.network.to(dtype)
        self.dtype = dtype
        self.sigmas = grid(EDMSteps(num_steps=case.steps), self.denoiser.levels).tolist()
        self.noise = Noise(torch.arange(case.batch, device=device), case.model.shape).normal(draw(INITIAL, 0))

    def run(self) -> Tensor:
        x = self.noise.float() * self.sigmas[0]
        for sigma, sigma_next in zip(self.sigmas[:-1], self.sigmas[1:], strict=True):
            total = sigma**2 + 0.25
            c_noise = torch.full((len(x),), np.log(sigma) / 4, dtype=torch.float32, device=self.device)
            f = self.net((x / total**0.5).to(self.dtype), c_noise).float()
            denoised = 0.25 / total * x + sigma * 0.5 / total**0.5 * f
            x = x + (sigma_next - sigma) * (x - denoised) / sigma
        return x


class Diffusers(Plain):
    """The scheduler of the library diffusers around the same network."""

    def run(self) -> Tensor:
        from diffusers import EDMEulerScheduler

        scheduler = EDMEulerScheduler(sigma_min=self.sigmas[-2], sigma_max=self.sigmas[0], sigma_data=0.5)
        scheduler.set_timesteps(num_inference_steps=self.case.steps, device=self.device)
        x = self.noise.float() * self.sigmas[0]
        for t in scheduler.timesteps:
            f = self.net(scheduler.scale_model_input(x, t), t.to(torch.float32).expand(len(x)))
            x = scheduler.step(f, t, x).prev_sample
        return x


class Product(Loop):
    """`sample` as a worker calls it."""

    def __init__(self, case: Case, weights: str, device: str, execution: Execution, threads: int) -> None:
        super().__init__(case, weights, device)
        self._arithmetic = ExitStack()
        self._arithmetic.enter_context(fixed_arithmetic(threads))
        self.dtype = as_dtype(execution.precision)
        place: Any = device
        self.denoiser = load_denoiser(case.model, self.data, execution, place)
        self.sampler = Sampler(timesteps=EDMSteps(num_steps=case.steps), solver=Euler())
        self.seeds = torch.arange(case.batch, device=device)
        self.nfe = 0

    def run(self) -> Tensor:
        samples = sample(self.denoiser, self.denoiser.levels, self.sampler, self.seeds, self.case.model.shape)
        self.nfe = int(samples.nfe[0])
        return samples.images

    @torch.inference_mode()
    def forward_seconds(self) -> float:
        """Of bare forward passes, as many as the loop makes."""
        x = torch.randn(self.case.batch, *self.case.model.shape, dtype=self.dtype, device=self.device)
        c_noise = torch.zeros(self.case.batch, device=self.device)

        def work() -> None:
            for _ in range(self.nfe):
                self.denoiser.network(x, c_noise, None)

        return seconds_of(work, self.device)

    def peak(self) -> float:
        return peak_flops(self.dtype, self.device)


def fast_paths(device: str, batch: int, threads: int, every: bool, chosen: str | None) -> dict[str, Execution]:
    """The paths with targets, or on a GPU those worth a look; or every one. `chosen` are precisions."""
    shared: dict[str, Any] = {"batch_size": batch, "chunk_size": batch, "threads": threads}
    precisions = chosen.split(",") if chosen else ["fp32", "bf16", *(["fp16"] if device == "cuda" else [])]
    compiled = ("ahead",) if device == "cpu" else (False, "reduce-overhead")
    convolutions = ("winograd",) if device == "cpu" else ("direct",)
    if every:
        compiled = (False, True, "ahead") if device == "cpu" else (False, True, "reduce-overhead", "ahead")
        convolutions = ("direct", "winograd") if device == "cpu" else convolutions
    paths: Any = product(precisions, compiled, convolutions)
    found = {
        _name(precision, how, convolution): Execution(
            precision,
            compile=how,
            convolution=convolution,
            norm="native" if convolution == "winograd" else "torch",
            **shared,
        )
        for precision, how, convolution in paths
    }
    if device == "cuda":  # torch's own group norm lays channels-last out anew
        found |= {f"{one} eager contiguous": Execution(one, channels_last=False, **shared) for one in precisions}  # type: ignore[arg-type]
    return found


def _name(precision: str, how: Any, convolution: str) -> str:
    """Such as `bf16 ahead winograd`."""
    words = (precision, "compiled" if how is True else how or "eager", convolution)
    return " ".join(word for word in words if word != "direct")


def measure(name: str, case: Case, options: argparse.Namespace, rounds: int) -> list[dict[str, Any]]:
    """The rows of one network."""
    device, threads = options.device, options.threads
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.safetensors"
        weights.write_bytes(case.weights())
        given = case, str(weights), device
        paths = fast_paths(device, case.batch, threads, options.all_paths, options.precisions)
        lanes = {PLAIN: Lane(Plain, *given, threads=threads)}
        if importlib.util.find_spec("diffusers"):
            lanes[DIFFUSERS] = Lane(Diffusers, *given, threads=threads)
        if device == "cuda":
            lanes["plain loop, eager tf32"] = Lane(Plain, *given, torch.float32, True, threads=threads)
            lanes["plain loop, eager fp16"] = Lane(Plain, *given, torch.float16, threads=threads)
        if device == "cuda" and SHARED in paths:
            lanes[f"another {SHARED}"] = Lane(Product, *given, paths[SHARED], threads, threads=threads)
        lanes |= {path: Lane(Product, *given, execution, threads) for path, execution in paths.items()}
        try:
            return _rows(name, case, device, lanes, paths, rounds)
        finally:
            for lane in lanes.values():
                lane.end()


def _rows(
    name: str, case: Case, device: str, lanes: dict[str, Lane], paths: dict[str, Execution], rounds: int
) -> list[dict[str, Any]]:
    prepare(lanes.values(), "seconds")
    calls: dict[str, Any] = {lane: (lambda lane=lane: lanes[lane].call("seconds")) for lane in lanes}
    for path in paths:
        calls[f"forward {path}"] = lambda path=path: lanes[path].call("forward_seconds")
        calls[f"peak {path}"] = lambda path=path: lanes[path].call("peak")
    seconds = in_turn(calls, rounds)
    images = {lane: _images(lanes[lane]) for lane in lanes}
    rows = []
    for lane in lanes:
        if lane == PLAIN or lane.startswith("another"):
            continue
        row = {
            "name": f"{name} {lane}: images/s against the plain loop",
            "ratio": ratio(seconds[PLAIN], seconds[lane]),
            "target": _target(case, lane, device),
            "images_per_second": case.batch / statistics.median(seconds[lane]),
            "difference": float(np.abs(images[lane] - images[PLAIN]).max() / np.abs(images[PLAIN]).max()),
        }
        if lane in paths:
            speed = case.cost.flops * case.batch * case.steps / statistics.median(seconds[lane])
            row["share_of_peak"] = speed / statistics.median(seconds[f"peak {lane}"])
        rows.append(row)
        if lane in paths:
            loop = {"ratio": ratio(seconds[lane], seconds[f"forward {lane}"]), "target": 1.03, "at_most": True}
            rows.append({"name": f"{name} {lane}: whole loop by bare forward x NFE", **loop})
    return rows + (_shared_rows(name, lanes, rounds) if f"another {SHARED}" in lanes else [])


def _shared_rows(name: str, lanes: dict[str, Lane], rounds: int) -> list[dict[str, Any]]:
    """Two workers on one GPU against one."""
    pair = lanes[SHARED], lanes[f"another {SHARED}"]

    def together() -> float:
        for lane in pair:
            lane.start("seconds")
        return max(lane.finish() for lane in pair)

    seconds = in_turn({"alone": lambda: pair[0].call("seconds"), "together": together}, rounds)
    faster = 2 * ratio(seconds["alone"], seconds["together"])
    return [{"name": f"{name} {SHARED}: two workers on one GPU against one", "ratio": faster, "target": None}]


def _target(case: Case, lane: str, device: str) -> float | None:
    if lane == "fp32 ahead winograd":
        return 1.2 if case.is_large else 1.4
    return 2.1 if lane == "bf16 ahead winograd" and has_fast_bf16(device) else None


def _images(lane: Lane) -> Any:
    return np.load(io.BytesIO(lane.call("last_images")))


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    options.add_argument("--all-paths", action="store_true", help="eager and compiled in the actor too")
    options.add_argument("--precisions", help="comma-separated, such as fp32,bf16; all that the device is good for")
    chosen = parsed(options)
    names = (chosen.networks or ("7.0M,55.7M" if chosen.quick else ",".join(CASES))).split(",")
    if unknown := set(names) - set(CASES):
        options.error(f"--networks: no network {', '.join(sorted(unknown))} (there are: {', '.join(CASES)})")
    rounds = chosen.rounds or (5 if chosen.quick else 9)
    rows = []
    for name in names:
        case = CASES[name]
        rows += measure(name, case.on(chosen.device, chosen.quick), chosen, rounds)
    report(rows, chosen, rounds)


if __name__ == "__main__":
    main()
