"""The device of the work: which kind it is, what its family is called, and how it is made to compute the same twice."""

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

Device = Literal["cpu", "cuda"]

# What changes half-precision sums on CPUs of one instruction set otherwise.
_HALF_INSTRUCTIONS = ("avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16")


def local_device(device: str) -> Device:
    """What `auto` (or `cpu`, or `cuda`) means in this process."""
    return "cuda" if device == "cuda" or (device == "auto" and torch.cuda.is_available()) else "cpu"


def family(device: Device, precision: str) -> dict[str, str]:
    """The kind of device on which the same work gives the same bits; it is part of the key of samples.

    Of a CPU: the architecture and the instruction set that torch uses; in half precision also the instructions for it.
    Of a GPU: its compute capability, whatever its name.
    """
    if device == "cuda":
        major, minor = torch.cuda.get_device_capability()
        return {"kind": "cuda", "capability": f"sm_{major}{minor}"}
    found = {"kind": "cpu", "architecture": platform.machine(), "instructions": torch.backends.cpu.get_cpu_capability()}
    if precision != "fp32":
        capabilities = torch.cpu.get_capabilities()
        found["half"] = "+".join(name for name in _HALF_INSTRUCTIONS if capabilities.get(name))
    return found


def device_name(device: Device) -> str:
    """What the device is called, for timings."""
    if device == "cuda":
        return str(torch.cuda.get_device_name())
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def torch_minor() -> str:
    """Major and minor version of torch, such as 2.13."""
    return ".".join(torch.__version__.split(".")[:2])


def as_dtype(precision: str) -> torch.dtype:
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


@contextmanager
def fixed_arithmetic(threads: int) -> Iterator[None]:
    """Torch as it computes the same bits for the same work: threads as given, no autotuning, no TF32."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
    before = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    memory: Any = torch.utils.deterministic
    filled = memory.fill_uninitialized_memory
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode("error")
    memory.fill_uninitialized_memory = False
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        memory.fill_uninitialized_memory = filled
        if "torch._inductor.config" in sys.modules:
            torch.use_deterministic_algorithms(before[1] > 0)
        torch.set_deterministic_debug_mode(before[1])
        torch.set_num_threads(before[0])


def fixed_compiler() -> None:
    """The compiler too makes code that computes the same bits, until `fixed_arithmetic` ends. Asked for only by who
    compiles: it takes a second to import, which every worker would wait for."""
    torch.use_deterministic_algorithms(True)
