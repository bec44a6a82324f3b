import json
from pathlib import Path

import safetensors.torch
import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from pipeline.networks import EDM2
from pipeline.training.checkpoint import newest
from pipeline.training.place import Place
from pipeline.training.settings import Optimizer, TrainingSettings
from pipeline.training.snapshot import weights_bytes
from pipeline.training.trainer import Trainer
from tests.training.group import NETWORK, run_group, train_in_group
from tests.training.toys import BATCH, make_job, make_settings, state_digests, store_at


def _folder(path: Path) -> Path:
    make_job(store_at(path), make_settings())  # the data set, before processes race for it
    return path


def _training(path: Path, settings: TrainingSettings) -> str:
    return make_job(store_at(path), settings, NETWORK).folder


def _watch(parallel: DistributedDataParallel) -> list[int]:
    """Gets the size of every bucket as its gradients are averaged."""
    sizes: list[int] = []

    def hook(group: object, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        sizes.append(bucket.buffer().numel())
        return allreduce_hook(None, bucket)

    parallel.register_comm_hook(None, hook)
    return sizes


def _write_buckets(place: Place, folder: Path) -> None:
    job = make_job(store_at(folder), make_settings(), NETWORK)
    plain = DistributedDataParallel(job.model.network.build(8, 1, 4))
    seen = {"plain": _watch(plain)}
    for _ in range(2):
        plain(torch.zeros(1, 1, 8, 8), torch.zeros(1)).sum().backward()
    trainer = Trainer(job.model, job.settings, job.dataset, place)
    assert trainer._parallel is not None
    seen["trainer"] = _watch(trainer._parallel)
    trainer.step()
    trainer.step()
    if place.is_first:
        (folder / "buckets.json").write_text(json.dumps(seen))


def test_the_gradients_lie_in_several_buckets_whose_final_order_is_there_at_the_first_step(tmp_path: Path) -> None:
    run_group(_write_buckets, 2, _folder(tmp_path))
    seen = json.loads((tmp_path / "buckets.json").read_text())
    first, second = (seen["trainer"][: len(seen["trainer"]) // 2], seen["trainer"][len(seen["trainer"]) // 2 :])
    assert len(first) > 1
    assert first == second
    # Without care DDP takes another order after its first step, else the test of resuming could not fail.
    assert seen["plain"][: len(seen["plain"]) // 2] != first
    assert seen["plain"][-len(first) :] == first


def test_a_group_that_resumes_after_its_first_step_ends_with_the_same_bits(tmp_path: Path) -> None:
    """With two workers it would in any case: a sum of two has one order."""
    world_size = 3
    whole, broken = _folder(tmp_path / "whole"), _folder(tmp_path / "broken")
    for folder, steps in ((whole, 4), (broken, 1), (broken, 4)):
        train_in_group(folder, world_size, make_settings(steps, uncertainty=True))
    training = _training(whole, make_settings(uncertainty=True))
    assert state_digests(store_at(broken), training) == state_digests(store_at(whole), training)


def _write_digests(place: Place, folder: Path) -> None:
    network = EDM2(model_channels=8, channel_mult=(1, 2), num_blocks=1, attn_resolutions=(), channels_per_head=8)
    job = make_job(store_at(folder), make_settings(uncertainty=True), network)
    trainer = Trainer(job.model, job.settings, job.dataset, place)
    trainer.restore(None)
    for _ in range(3):
        trainer.step()
    tensors = {name: parameter.detach() for name, parameter in trainer._learned.items()}
    (folder / f"rank{place.rank}.safetensors").write_bytes(weights_bytes(tensors))


def test_forced_weights_and_uncertainty_are_the_same_in_every_worker_and_those_of_one(tmp_path: Path) -> None:
    run_group(_write_digests, 2, _folder(tmp_path))
    first, second = ((tmp_path / f"rank{rank}.safetensors").read_bytes() for rank in range(2))
    assert first == second
    _write_digests(Place(), tmp_path)
    alone = safetensors.torch.load_file(tmp_path / "rank0.safetensors")
    for name, value in safetensors.torch.load(second).items():
        torch.testing.assert_close(alone[name], value, rtol=1e-2, atol=1e-3)


def test_one_worker_two_workers_and_microbatches_learn_the_same_but_for_rounding(tmp_path: Path) -> None:
    adam = Optimizer(lr=1e-2, eps=1.0, ramp_up_kimg=0)  # of a small eps it would make rounding as large as a step
    weights = []
    for name, world_size, microbatch in (("one", 1, None), ("two", 2, None), ("three", 3, 2)):
        folder = _folder(tmp_path / name)
        settings = make_settings(3, microbatch=microbatch, optimizer=adam)
        train_in_group(folder, world_size, settings)
        state = newest(store_at(folder), _training(folder, settings), print)
        assert state is not None
        assert state.position == 3 * BATCH
        assert state.world_size == world_size
        weights.append(state.tensors["raw"])
    for other in weights[1:]:
        for name, value in weights[0].items():
            torch.testing.assert_close(other[name], value, rtol=1e-4, atol=2e-5)
    assert safetensors.torch.save(weights[0]) != safetensors.torch.save(weights[2])  # rounding does differ
