"""Time grids that are computed from a network: what single steps cost is measured by one worker, once a store."""

import math
from typing import Any

import safetensors.torch

from pipeline.data.cache import Kept, kept
from pipeline.data.samples import Execution
from pipeline.data.store import Store
from pipeline.diffusion.grid_search import StepCosts
from pipeline.digests import digest
from pipeline.engine.generation import find_settings
from pipeline.engine.one_worker import one_worker
from pipeline.engine.placement import place
from pipeline.engine.work import Actors, Point, Seeds, Setting

MEASUREMENT = 1  # the revision of how it is measured


def measure_steps(store: Store, point: Point, seeds: Seeds, execution: Execution, actors: Actors) -> StepCosts:
    """What single steps cost on the trajectories of some seeds of a point, whose sampler is the fine one.

    Args:
        seeds: how many there are is rounded up to whole batches.

    Raises:
        UserError: the point or the store cannot be used; nothing was computed.
    """
    placement = place(execution, actors)
    [setting] = find_settings(store, [point], execution, placement)
    count = math.ceil(seeds.count / execution.batch_size) * execution.batch_size

    def measure() -> Kept:
        with one_worker(store, execution, actors, placement) as worker:
            found: StepCosts = worker.call("step_costs", setting, seeds.first, count)
        tensors = {"sigmas": found.sigmas, "costs": found.costs}
        return Kept(safetensors.torch.save(tensors), {"evaluations": found.evaluations, "about": about})

    about = _about(setting, seeds.first, count)
    whole = kept(store, f"cache/grids/{digest(about)}", "costs.safetensors", measure)
    tensors = safetensors.torch.load(whole.data)
    return StepCosts(tensors["sigmas"], tensors["costs"], int(whole.meta["evaluations"]))


def _about(setting: Setting, first: int, count: int) -> dict[str, Any]:
    return {"measurement": MEASUREMENT, "setting": setting.key, "first": first, "count": count}
