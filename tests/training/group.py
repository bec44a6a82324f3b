"""Trainings by several processes, without Ray: the same code that Ray's workers run."""

import multiprocessing
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pipeline.networks import MLP
from pipeline.training.loop import train
from pipeline.training.place import Place
from pipeline.training.settings import TrainingSettings
from tests.training.toys import make_job, quiet, store_at

NETWORK = MLP(hidden=512, num_layers=3)  # 3 MB of gradients: the first bucket holds 1 MB, so there are several


def train_in_group(folder: Path, world_size: int, settings: TrainingSettings) -> None:
    """Trains in the store of a folder, to the end."""
    run_group(_train, world_size, folder, settings)


def run_group(member: Callable[..., None], world_size: int, folder: Path, *arguments: Any) -> None:
    """Runs `member(place, folder, *arguments)` in a process a rank, joined by gloo.

    Raises:
        RuntimeError: one of them failed.
    """
    context = multiprocessing.get_context("forkserver")  # of a server that has imported torch, and nothing else
    context.set_forkserver_preload(["tests.training.group"])
    rendezvous = f"file://{folder}/{uuid.uuid4().hex}"
    processes = [
        context.Process(target=_member, args=(member, rank, world_size, rendezvous, folder, arguments), daemon=True)
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    if any(code != 0 for code in codes):  # None is one that hung
        raise RuntimeError(f"exit codes {codes}")


def _member(
    member: Callable[..., None], rank: int, world_size: int, rendezvous: str, folder: Path, arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=rendezvous, rank=rank, world_size=world_size, timeout=timedelta(seconds=60)
    )
    member(Place(rank, world_size), folder, *arguments)
    dist.destroy_process_group()


def _train(place: Place, folder: Path, settings: TrainingSettings) -> None:
    train(make_job(store_at(folder), settings, NETWORK), place, quiet())
