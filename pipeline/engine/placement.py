"""Where the work will run, known before any actor is started: the device and the name of its family."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from pipeline.data.samples import Execution
from pipeline.engine.devices import Device, device_name, family, local_device
from pipeline.engine.fleet import num_actors
from pipeline.engine.session import is_connected, session
from pipeline.engine.work import Actors
from pipeline.errors import SettingsError


@dataclass(frozen=True)
class Placement:
    """The device of all workers of a run, its family, and what it is called here."""

    device: Device
    family: Mapping[str, str]
    name: str


def place(execution: Execution, actors: Actors) -> Placement:
    """Settles what `auto` means. A cluster is asked for its GPUs only where there is one; nothing is started.

    The family of CPUs is this process's; actors on nodes of another family will take no part.

    Raises:
        SettingsError: GPUs are asked for, and there are none; or for what no GPU does.
    """
    if actors.num_actors == 0 or not _on_a_cluster():
        device = local_device(execution.device)
        there = device == "cpu" or torch.cuda.is_available()
    else:
        with session() as resources:
            device = "cuda" if execution.device == "cuda" or (execution.device == "auto" and resources.gpus) else "cpu"
            there = device == "cpu" or resources.gpus > 0
    if not there:
        raise SettingsError("execution.device", "asks for GPUs, and there are none")
    if device == "cuda" and execution.native:
        name, value, other = execution.native[0]
        mend = f"set it to {other}, or execution.device to cpu"
        raise SettingsError(f"execution.{name}", f"{value} is for CPUs, and the work would be done on GPUs: {mend}")
    if device == "cpu" or torch.cuda.is_available():
        return _placement(device, execution.precision)
    with session():
        import ray

        found: Placement = ray.get(ray.remote(num_gpus=1)(_placement).remote(device, execution.precision))
        return found  # of any GPU of the cluster, asked from a process that has none


def expected_workers(execution: Execution, actors: Actors, placement: Placement) -> int:
    """How many workers there will be, as far as can be told without starting anything.

    Raises:
        SettingsError: the cluster has no room for a single one.
    """
    if actors.num_actors is not None:
        return max(actors.num_actors, 1)  # none is this process
    if _on_a_cluster():
        with session() as resources:
            return num_actors(actors, execution.threads, placement.device, resources)
    if placement.device == "cuda":
        return actors.per_gpu * torch.cuda.device_count()
    return max((os.cpu_count() or 1) // execution.threads, 1)


def _on_a_cluster() -> bool:
    return bool(os.environ.get("RAY_ADDRESS")) or is_connected()


def _placement(device: Device, precision: str) -> Placement:
    return Placement(device, family(device, precision), device_name(device))
