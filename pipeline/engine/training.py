"""Training on Ray: where its workers run, and starting them again when one is lost.

Ray Train places the workers and joins them into a process group; what is trained, saved and resumed is
`pipeline.training`'s. A lost worker ends the whole group, and a new group goes on from the store's newest checkpoint;
Ray's own record of a run is never read (each group is a new run to it).
"""

import os
import shutil
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch

from pipeline.data.dataset import Dataset
from pipeline.data.store import Store
from pipeline.engine.mailbox import Mailbox, MailConsole
from pipeline.engine.session import Resources, session
from pipeline.errors import RunFailedError, SettingsError, SigmasweepError, StoreError
from pipeline.reporting import Reporter
from pipeline.training import loop
from pipeline.training.checkpoint import newest_position
from pipeline.training.console import Console, Terminal
from pipeline.training.identity import resolve_model
from pipeline.training.job import TrainingJob, TrainingResult
from pipeline.training.place import Place
from pipeline.training.settings import ModelSettings, TrainingSettings, Workers

Device = Literal["cpu", "cuda"]

# Relative paths mean the same in a worker; a worker whose node is taken away is a lost one like any other; workers of a
# group that failed are not waited for, since one that has stopped never answers. Room for a group is waited for, while
# others are at work or machines are being started.
_ENVIRONMENT = {
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "1800",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "5",
}
_DELIVERY_S = 0.3  # between looks into the mailbox
_PATIENCE_S = 30.0  # before it is said that the workers have not begun


def train(
    store: Store, dataset: str, model: ModelSettings, settings: TrainingSettings, workers: Workers,
    reporter: Reporter, name: str, tags: Mapping[str, str] | None = None,
) -> TrainingResult:  # fmt: skip
    """Trains a model, or goes on with a training that was begun, until its duration is reached.

    Args:
        store: holds the data set, and gets checkpoints and snapshots.
        dataset: the name of a prepared data set.
        workers: where it runs.
        name: of the training; its folder is this and a digest of what determines the weights.
        tags: of its run in the tracker.

    Raises:
        DataError: the data set is missing, damaged, or not made for this model.
        SettingsError: the workers do not fit the cluster or the batch.
        StoreError: the store cannot be read or written, or another process is at this training.
        RunFailedError: a loss is not finite, workers were lost more often than allowed, or another process took over.
    """
    images = Dataset.open(store, dataset)
    job = TrainingJob(name, store, images, resolve_model(model, images.info), settings, reporter, tags or {})
    terminal = Terminal()
    try:
        if job.is_done():
            terminal.say(loop.already_done(job))
        else:
            _own(job, workers, terminal)
    finally:
        terminal.end()
    return job.result()


def _own(job: TrainingJob, workers: Workers, console: Console) -> None:
    job.store.check_writable()
    if not workers.num_workers:
        _device_here(workers)  # a mistake leaves no trace, not even a lease's
    with job.owned(console.say) as owned:
        if not owned.is_done():  # by who had it before, while this process waited
            _train(owned, workers, console)


def _train(job: TrainingJob, workers: Workers, console: Console) -> None:
    job.dataset.verify()
    if workers.num_workers:
        _train_on_ray(job, workers, console)
        return
    with loop.cpu_threads(workers.threads):
        loop.train(job, Place(device=torch.device(_device_here(workers))), console)


def _train_on_ray(job: TrainingJob, workers: Workers, console: Console) -> None:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # CPUs of a session of our own are a number for Ray to count with: more workers than cores is the user's choice.
    with session(max(os.cpu_count() or 1, workers.num_workers * workers.threads)) as resources:
        _check_room(workers, resources)
        device, mailbox = _device(workers, resources), Mailbox()
        failures = 0  # since the last checkpoint: a training that gets on may lose its workers as often as it will
        while failures <= workers.max_failures:
            before = newest_position(job.store, job.folder)
            lost = _run_group(job, workers, device, mailbox, console)
            if lost is None:
                return
            failures = failures + 1 if newest_position(job.store, job.folder) == before else 1
            again = failures <= workers.max_failures
            console.say(f"{job.folder}: {lost}; {'the workers start again' if again else 'this was the last try'}")
    mend = "run the same command again to go on from the last checkpoint, or raise workers.max_failures"
    times = f"{failures} times" + (" without a new checkpoint" if failures > 1 else "")
    raise RunFailedError(job.folder, f"the workers failed {times}, at last: {lost}; {mend}")


def _run_group(
    job: TrainingJob, workers: Workers, device: Device, mailbox: Mailbox, console: Console
) -> str | None:  # fmt: skip
    """Runs one group of workers to the end of the training. Returns what went wrong where another group may do better.

    Raises:
        SigmasweepError: as a worker raised it; the same would happen again.
    """
    root, run = job.store.address("cache/ray_train"), f"{job.folder}-{uuid.uuid4().hex[:12]}"
    trainer = _trainer(job, workers, device, mailbox.slot, root, run)
    failures: list[Exception] = []
    # In a thread: there Ray Train leaves the handler of Ctrl-C alone, and here the workers' lines can be told.
    thread = threading.Thread(target=_fit, args=(trainer, failures), daemon=True)
    thread.start()
    try:
        _deliver(mailbox, thread, console)
    finally:
        _forget(job.store, f"cache/ray_train/{run}")
    return _what_was_lost(failures[0]) if failures else None


def _deliver(mailbox: Mailbox, thread: threading.Thread, console: Console) -> None:
    """Tells what the workers say until they have ended, and that they have not begun if they are long about it."""
    begin, heard, told = time.monotonic(), False, False
    while thread.is_alive():
        thread.join(_DELIVERY_S)
        heard = bool(mailbox.deliver(console)) or heard
        if not heard and not told and time.monotonic() - begin > _PATIENCE_S:
            console.say("the workers have not begun yet: the cluster may be at other work, or growing")
            told = True


def _forget(store: Store, folder: str) -> None:
    """Removes what Ray Train noted of a group."""
    if store.is_local:
        shutil.rmtree(Path(store.address(folder).removeprefix("file://")), ignore_errors=True)
        return
    with suppress(StoreError):
        for key in store.keys(folder):
            store.delete(key)


def _fit(trainer: Any, failures: list[Exception]) -> None:
    try:
        trainer.fit()
    except Exception as error:  # told apart in the main thread
        failures.append(error)


def _trainer(
    job: TrainingJob, workers: Workers, device: Device, console: MailConsole, root: str, run: str
) -> Any:  # fmt: skip
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.config import LoggingConfig

    resources = {"CPU": workers.threads, **({"GPU": 1} if device == "cuda" else {})}
    return TorchTrainer(
        _work,
        train_loop_config={"job": job, "threads": workers.threads, "device": device, "console": console},
        torch_config=TorchConfig(backend="nccl" if device == "cuda" else "gloo", timeout_s=int(workers.timeout_s)),
        scaling_config=ScalingConfig(
            num_workers=workers.num_workers, use_gpu=device == "cuda", resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=run,
            storage_path=root,
            # What is retried is decided here, since Ray would retry settings errors and a full disk as well.
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),
            logging_config=LoggingConfig(log_level="CRITICAL"),
        ),
    )


def _work(config: dict[str, Any]) -> None:
    """One worker. The config is a dictionary since Ray wants one."""
    import ray.train

    context = ray.train.get_context()
    device = ray.train.torch.get_device() if config["device"] == "cuda" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.set_num_threads(config["threads"])
    job, place = config["job"], Place(context.get_world_rank(), context.get_world_size(), device)
    try:
        loop.train(job, place, config["console"])
    finally:
        if place.is_first:
            job.reporter.settle()  # Ray ends this process as soon as this returns, without asking it


def _what_was_lost(error: Exception) -> str:
    """One line on the failure of a group.

    Raises:
        SigmasweepError: the failure is one that a worker raised on purpose.
    """
    failures: Mapping[int, BaseException] = getattr(error, "worker_failures", {})
    for failure in failures.values():
        if isinstance(failure, SigmasweepError):
            raise failure from None
    if not failures:
        return f"Ray Train: {_first_line(getattr(error, 'controller_failure', error))}"
    return "; ".join(f"worker {rank}: {_first_line(failure)}" for rank, failure in sorted(failures.items()))


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]


def _device(workers: Workers, resources: Resources) -> Device:
    """Where the workers compute; `auto` takes GPUs if there is one for each.

    Raises:
        SettingsError: GPUs are asked for that are not there.
    """
    needed = max(workers.num_workers, 1)
    if workers.device == "cuda" and resources.gpus < needed:
        problem = f"cuda needs {needed} GPUs and there are {resources.gpus}: take fewer workers, or device: cpu"
        raise SettingsError("workers.device", problem)
    return "cpu" if workers.device == "cpu" or resources.gpus < needed else "cuda"


def _device_here(workers: Workers) -> Device:
    """Where this process computes, without Ray."""
    return _device(workers, Resources(os.cpu_count() or 1, torch.cuda.device_count()))


def _check_room(workers: Workers, resources: Resources) -> None:
    """Raises:
    SettingsError: the cluster is too small; Ray would wait for ever.
    """
    needed = workers.num_workers * workers.threads
    if needed > resources.cpus:
        problem = f"{workers.num_workers} workers of {workers.threads} CPUs need {needed}; Ray has {resources.cpus}"
        raise SettingsError("workers.num_workers", f"{problem}: take fewer workers or fewer threads")
