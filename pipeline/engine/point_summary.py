"""A setting in words and parameters: for the tracker, for columns and for axes."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pipeline.data.samples import Execution
from pipeline.diffusion.guidance import Guidance, Unguided
from pipeline.diffusion.sampling import Sampler
from pipeline.diffusion.timesteps import steps_of
from pipeline.engine.generation import PointResult, Seeds
from pipeline.training.snapshot import Snapshot


def solver_title(sampler: Sampler) -> str:
    """The solver, and what beside it is not as in the EDM column of Table 1: `heun`, `heun + churn`, `euler + vp`."""
    plain = Sampler()
    beside = [
        (_guidance_title(sampler.guidance), _guidance_title(plain.guidance)),
        (sampler.stochasticity.kind, plain.stochasticity.kind),
        (sampler.schedule.kind, plain.schedule.kind),
        (f"{sampler.timesteps.kind} grid", f"{plain.timesteps.kind} grid"),
        (f"{sampler.first_step} first step", f"{plain.first_step} first step"),
    ]
    return " + ".join([sampler.solver.kind, *(kind for kind, usual in beside if kind != usual)])


def _guidance_title(guidance: Guidance) -> str:
    return guidance.kind if isinstance(guidance, Unguided) else f"{guidance.kind} {guidance.weight:g}"


def checkpoint_tags(result: PointResult) -> dict[str, str]:
    """Whose weights the images are made with, and under which licence, where they were imported."""
    guide = {} if result.guide is None else {"guide": result.guide.title}
    licences = dict.fromkeys(snapshot.licence for snapshot in _snapshots(result) if snapshot.licence is not None)
    return {"checkpoint": result.snapshot.title, **guide, **({"licence": "; ".join(licences)} if licences else {})}


def licence_notes(results: Sequence[PointResult]) -> list[str]:
    """A line for each checkpoint that was imported."""
    told = {snapshot.title: snapshot.licence for result in results for snapshot in _snapshots(result)}
    return [f"licence of the weights {title}: {licence}" for title, licence in told.items() if licence is not None]


def _snapshots(result: PointResult) -> tuple[Snapshot, ...]:
    return (result.snapshot,) if result.guide is None else (result.snapshot, result.guide)


def point_summary(result: PointResult) -> dict[str, str]:
    """The setting in three words, for columns and axes."""
    sampler = result.point.sampler
    steps = steps_of(sampler.timesteps)
    return {
        "nfe": f"{result.nfe:g}",
        "solver": solver_title(sampler),
        "steps": "adaptive" if steps is None else str(steps),
    }


def point_params(result: PointResult, seeds: Seeds, execution: Execution) -> dict[str, Any]:
    """What a person may want to sort by; nested, flattened by the tracker."""
    guide = {} if result.guide is None else {"guide": _weights_params(result.guide)}
    return {
        "checkpoint": _weights_params(result.snapshot),
        **guide,
        "sampler": asdict(result.point.sampler),
        "labels": asdict(result.point.labels),
        "seeds": asdict(seeds),
        "execution": asdict(execution),
    }


def _weights_params(snapshot: Snapshot) -> dict[str, Any]:
    licence = {} if snapshot.licence is None else {"licence": snapshot.licence}
    return {"training": snapshot.training, "at": snapshot.num_images, "weights": snapshot.weights, **licence}
