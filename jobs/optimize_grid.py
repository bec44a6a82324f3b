"""Time grids from the curvature of a few trajectories: `python -m jobs.optimize_grid CONFIG.yaml`."""

import json
import sys
from pathlib import Path

from jobs import cli
from jobs.checkpoints import with_checkpoints
from jobs.context import engine_actors, engine_seeds, open_store, point_of
from pipeline.config.optimized_grid import OptimizeGridJob
from pipeline.data.store import Store
from pipeline.diffusion.grid_search import StepCosts, cheapest_grid
from pipeline.engine.grids import measure_steps
from pipeline.engine.session import shared_session
from pipeline.errors import StoreError


def main(settings: OptimizeGridJob) -> None:
    store = open_store(settings)
    settings = with_checkpoints(store, settings)
    with shared_session():
        costs = _measure(store, settings)
    folder = Path(settings.out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for num_steps in settings.num_steps:
            path = folder / f"steps-{num_steps:02d}.json"
            path.write_text(json.dumps(_grid(settings, costs, num_steps), indent=1) + "\n", encoding="utf-8")
            print(f"{path}: {num_steps} steps; use it as timesteps: {{kind: file, path: {path}}}")
    except OSError as error:
        raise StoreError(folder, f"cannot be written ({error.strerror or error})") from error
    print(f"spent {costs.evaluations:,} network evaluations on each of {settings.seeds.count:,} seeds")


def _measure(store: Store, settings: OptimizeGridJob) -> StepCosts:
    point, seeds = point_of("fine grid", settings), engine_seeds(settings.seeds)
    return measure_steps(store, point, seeds, settings.execution, engine_actors(settings))


def _grid(settings: OptimizeGridJob, costs: StepCosts, num_steps: int) -> dict[str, object]:
    fine, ref, seeds = settings.sampler.timesteps, settings.checkpoint.ref(), settings.seeds
    of = f"{ref.training}@{ref.at}, {seeds.count} seeds from {seeds.first}, coefficient {settings.coefficient:g}"
    source = f"cheapest {num_steps} of {len(costs.sigmas) - 1} {fine.kind} levels for {of}"
    return {"source": source, "sigmas": list(cheapest_grid(costs, num_steps, settings.coefficient))}


if __name__ == "__main__":
    sys.exit(cli.run(OptimizeGridJob, main, __doc__))
