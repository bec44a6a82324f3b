"""Ways of doing the same work, measured side by side: each in a process of its own, in turn, round after round.

A machine that slows down slows all of them, so what is told is the median of the ratios within a round. Processes keep
what one way changes (memory, threads, compilers) from the others; those whose turn it is not wait and take no time.
"""

import argparse
import gc
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

_CPU_CLOCK = "SIGMASWEEP_BENCHMARK_CPU_CLOCK"  # set: CPU time


class Lane:
    """One way, in its process.

    Args:
        make: a top-level function, called there; what it returns is then asked by the names of its methods.
        arguments: of it.
        threads: of torch there; empty leaves torch's choice.
    """

    def __init__(self, make: Callable[..., Any], *arguments: Any, threads: int | None = None) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments, threads))
        self._process.start()
        theirs.close()

    def start(self, method: str, *arguments: Any) -> None:
        """Asks, and does not wait; several lanes can so work at once."""
        self._pipe.send((method, arguments))

    def finish(self) -> Any:
        """What was asked for last.

        Raises:
            RuntimeError: it failed there.
        """
        failed, answer = self._pipe.recv()
        if failed:
            raise RuntimeError(answer)
        return answer

    def call(self, method: str, *arguments: Any) -> Any:
        self.start(method, *arguments)
        return self.finish()

    def end(self) -> None:
        self._pipe.close()
        self._process.join(20)
        if self._process.is_alive():
            self._process.kill()


def _serve(pipe: Any, make: Callable[..., Any], arguments: Sequence[Any], threads: int | None) -> None:
    if threads:
        torch.set_num_threads(threads)
    subject: Any = None
    while True:
        try:
            method, given = pipe.recv()
        except EOFError:
            return
        try:
            subject = make(*arguments) if subject is None else subject
            pipe.send((False, getattr(subject, method)(*given)))
        except BaseException:
            pipe.send((True, traceback.format_exc()))


def prepare(lanes: Iterable[Lane], method: str) -> None:
    """Loads, compiles and warms all of them: first at once, then each by itself."""
    lanes = list(lanes)
    for lane in lanes:
        lane.start(method)
    for lane in lanes:
        lane.finish()
    for lane in lanes:
        lane.call(method)


def in_turn(calls: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call, round after round."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            seconds[name].append(call())
    return seconds


def ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """How many times faster, by the median of the rounds."""
    return statistics.median(one / other for one, other in zip(slow, fast, strict=True))


def seconds_of(work: Callable[[], object], device: str = "cpu") -> float:
    """Time of a call, a GPU's work in it, by the clock that was chosen."""
    clock = time.process_time if _CPU_CLOCK in os.environ else time.perf_counter
    gc.collect()
    _wait(device)
    start = clock()
    work()
    _wait(device)
    return clock() - start


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def peak_flops(dtype: torch.dtype, device: str = "cpu", size: int = 2048) -> float:
    """Floating-point operations a second of a large matrix product, the best of some."""
    size = 4 * size if device == "cuda" else size
    one, other = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    with torch.inference_mode():
        return 2 * size**3 / min(seconds_of(lambda: one @ other, device) for _ in range(5))


def torch_arithmetic(tf32: bool) -> None:
    """Whether this process's GPU may round float32 to TF32. Torch's own default: convolutions may, products may not."""
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32


def has_fast_bf16(device: str) -> bool:
    """Whether there are instructions for it, without which its targets mean nothing."""
    if device == "cuda":
        return True
    there = torch.cpu.get_capabilities()
    return bool(there.get("avx512_bf16") or there.get("amx_bf16"))


def machine(device: str) -> str:
    """The device in words."""
    if device == "cuda":
        return str(torch.cuda.get_device_name())
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that all have."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help="fewer rounds and smaller batches: minutes")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here")
    made.add_argument("--networks", help="comma-separated; all by default")
    made.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    made.add_argument("--rounds", type=int, help="how often all are measured in turn")
    made.add_argument(
        "--cpu-time", action="store_true",
        help="the processes' CPU time in place of wall time, with one thread: for a machine that does other work too",
    )  # fmt: skip
    return made


def parsed(made: argparse.ArgumentParser) -> argparse.Namespace:
    """The options, with the clock set for this process and its lanes."""
    options = made.parse_args()
    if options.cpu_time:
        os.environ[_CPU_CLOCK] = "1"
        options.threads = 1
    return options


def report(rows: Sequence[Mapping[str, Any]], options: argparse.Namespace, rounds: int) -> None:
    """Prints a table and writes the JSON file, if one is wanted."""
    clock = "CPU time" if options.cpu_time else "wall time"
    about = {"machine": machine(options.device), "threads": options.threads, "rounds": rounds, "clock": clock}
    print(f"torch {torch.__version__}; " + "; ".join(f"{name} {value}" for name, value in about.items()) + "\n")
    print("| what | ratio | target | |\n|---|---:|---:|---|")
    for row in rows:
        others = {name: value for name, value in row.items() if name not in ("name", "ratio", "target", "at_most")}
        told = ", ".join(f"{name.replace('_', ' ')} {_short(value)}" for name, value in others.items())
        bound = "" if row["target"] is None else f"{'<' if row.get('at_most') else '>'} {row['target']:g}"
        print(f"| {row['name']} | {row['ratio']:.3g} | {bound} | {told} |")
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        whole = {"torch": torch.__version__, **about, "command": sys.argv, "rows": list(rows)}
        options.json.write_text(json.dumps(whole, indent=1) + "\n")


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
