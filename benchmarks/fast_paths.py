"""How fast one forward pass of a network is on each of its paths: memory format, precision, compiled or not.

    python benchmarks/fast_paths.py --networks demo,cifar10 --threads 2 --json fast_paths.json

Prints one Markdown table a network. All paths share weights and input and are measured in turn, round after round, so
that a machine that slows down slows all of them; a path's time is its median round. The difference is the largest of
any output value from eager float32, in units of the largest output value. On CUDA, float32 convolutions run in TF32,
which is torch's default.
"""

import argparse
import copy
import json
import math
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.networks import DDPMpp


@dataclass(frozen=True)
class Case:
    """A network, its images, and the batch that is measured unless another is asked for."""

    net: DDPMpp
    resolution: int
    channels: int
    num_classes: int
    batch: int


CASES = {
    "demo": Case(
        DDPMpp(model_channels=16, channel_mult=(1, 2, 2), num_blocks=1, attn_resolutions=(8,)), 16, 1, 10, batch=64
    ),
    "cifar10": Case(DDPMpp(), 32, 3, 0, batch=16),
}


@dataclass(frozen=True)
class FastPath:
    """A way to run the network."""

    name: str
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    compiled: bool = False


PATHS = (
    FastPath("eager fp32"),
    FastPath("eager fp32 channels-last", channels_last=True),
    FastPath("eager bf16 channels-last", torch.bfloat16, channels_last=True),
    FastPath("compiled fp32", compiled=True),
    FastPath("compiled bf16 channels-last", torch.bfloat16, channels_last=True, compiled=True),
)


@dataclass
class Row:
    """What one path did."""

    path: str
    images_per_second: float
    ratio: float  # to the first path
    max_relative_difference: float  # from the first path
    compile_seconds: float | None


def lively(net: nn.Module) -> nn.Module:
    """Gives every layer weights of unit gain: as built, the blocks begin as almost nothing and would hide errors."""
    for parameter in net.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
    return net


def prepare(net: nn.Module, path: FastPath, inputs: tuple[Tensor, Tensor, Tensor], mode: str) -> Callable[[], Tensor]:
    """A call without arguments that runs the network once on this path."""
    layout = torch.channels_last if path.channels_last else torch.contiguous_format
    runner = copy.deepcopy(net).to(path.dtype)
    runner.to(memory_format=layout)  # type: ignore[call-overload]
    run = torch.compile(runner, fullgraph=True, mode=mode) if path.compiled else runner
    x, c_noise, labels = inputs
    x = x.to(path.dtype).contiguous(memory_format=layout)
    return lambda: run(x, c_noise, labels)


def seconds(call: Callable[[], object], times: int = 1) -> float:
    """Wall time of one call, the mean of several in a row; a GPU is waited for."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(times):
        call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / times


@torch.inference_mode()
def measure(case: Case, options: argparse.Namespace) -> list[Row]:
    """Runs all paths of one network."""
    torch.manual_seed(0)
    batch, device = options.batch or case.batch, torch.device(options.device)
    net = lively(case.net.build(case.resolution, case.channels, case.num_classes)).to(device).eval()
    shape = (batch, case.channels, case.resolution, case.resolution)
    inputs = (torch.randn(shape, device=device), torch.linspace(-1.5, 1.1, batch, device=device))
    labels = torch.arange(batch, device=device) % max(1, case.num_classes)

    paths = [path for path in PATHS if not (path.compiled and options.skip_compile)]
    calls = [prepare(net, path, (*inputs, labels), options.compile_mode) for path in paths]
    first = [seconds(call) for call in calls]
    outputs = [call().float().clone() for call in calls]
    warm = [min(seconds(call) for _ in range(options.warmup)) for call in calls]
    times = [math.ceil(options.min_seconds / second) for second in warm]
    rounds = [[seconds(call, n) for call, n in zip(calls, times, strict=True)] for _ in range(options.repeats)]
    medians = [statistics.median(column) for column in zip(*rounds, strict=True)]
    return [
        Row(
            path=path.name,
            images_per_second=batch / medians[i],
            ratio=medians[0] / medians[i],
            max_relative_difference=((outputs[i] - outputs[0]).abs().max() / outputs[0].abs().max()).item(),
            compile_seconds=first[i] - warm[i] if path.compiled else None,
        )
        for i, path in enumerate(paths)
    ]


def machine(device: str) -> str:
    """The device in words."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = models[0] if models else platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| path | images/s | ratio | max. relative difference | compile s |", "|---|---:|---:|---:|---:|"]
    for row in rows:
        compiled = "" if row.compile_seconds is None else f"{row.compile_seconds:.1f}"
        speed = f"{row.images_per_second:.3g}" if row.images_per_second < 100 else f"{row.images_per_second:.0f}"
        lines.append(f"| {row.path} | {speed} | {row.ratio:.2f} | {row.max_relative_difference:.1e} | {compiled} |")
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="demo,cifar10", help=f"comma-separated, of {', '.join(CASES)}")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, help="images a pass (default: the network's own)")
    parser.add_argument("--threads", type=int, help="threads of the CPU (default: torch's choice)")
    parser.add_argument("--repeats", type=int, default=9, help="measured rounds")
    parser.add_argument("--warmup", type=int, default=2, help="passes before them")
    parser.add_argument("--min-seconds", type=float, default=0.2, help="a round repeats its pass for about this long")
    parser.add_argument("--skip-compile", action="store_true", help="leave out the compiled paths")
    parser.add_argument("--compile-mode", default="default", help="of torch.compile; on a GPU try reduce-overhead")
    parser.add_argument("--keep-cache", action="store_true", help="let compilation use what earlier runs cached")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here too")
    options = parser.parse_args()
    options.networks = options.networks.split(",")
    if unknown := set(options.networks) - set(CASES):
        parser.error(f"--networks: no network {', '.join(sorted(unknown))} (there are: {', '.join(CASES)})")
    if min(options.repeats, options.warmup, options.batch or 1, options.threads or 1) < 1:
        parser.error("--repeats, --warmup, --batch and --threads must be at least 1")
    return options


def main() -> None:
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    device, networks = machine(options.device), {}
    print(f"torch {torch.__version__}, {device}\n")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
        if not options.keep_cache:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        for name in options.networks:
            case = CASES[name]
            rows, batch = measure(case, options), options.batch or case.batch
            print(f"{name}: {case.resolution}x{case.resolution}x{case.channels}, batch {batch}\n\n{table(rows)}\n")
            networks[name] = {"batch": batch, "settings": asdict(case), "rows": [asdict(row) for row in rows]}
    if options.json:
        report = {"machine": device, "torch": torch.__version__, "networks": networks}
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
