"""A time grid computed from the network against EDM's, for the same solver and NFE, on seeds it has not seen.

    python -m benchmarks.optimized_grid --store runs/fashion-mnist/store --training fashion-mnist

The error of a sample is its root mean square distance to its own converged image (DPM-Solver++(3M), corrected, 256
steps; what the last doubling of its steps changed is told). Told are the means over the seeds, and the mean of the
differences, seed by seed, with its 95 % interval: below zero the optimized grid is better.
"""

import argparse
import json
from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.data.store import Store
from pipeline.diffusion.denoiser import Denoiser
from pipeline.diffusion.grid_search import cheapest_grid, mean_costs, step_costs
from pipeline.diffusion.sampling import Sampler, sample
from pipeline.diffusion.solvers import DPMpp2M, DPMpp3M, Euler, IPNDMv, Solver
from pipeline.diffusion.timesteps import EDMSteps, OptimizedSteps, Timesteps
from pipeline.training.snapshot import CheckpointRef, build_denoiser, find_snapshot, read_weights

SOLVERS: tuple[Solver, ...] = (Euler(), DPMpp2M(), IPNDMv(max_order=3))
NUM_STEPS = (6, 7, 8, 9, 10)  # one evaluation a step
SEARCH_SEEDS = 1_000_000  # where the seeds of the search begin
FINE = Sampler(timesteps=EDMSteps(num_steps=60))
REFERENCE_STEPS = 256


class Row(NamedTuple):
    solver: str
    num_steps: int
    edm: float
    optimized: float
    difference: float
    interval: float


class Network(NamedTuple):
    denoiser: Denoiser
    shape: tuple[int, int, int]
    num_classes: int

    def images(self, sampler: Sampler, seeds: Tensor) -> Tensor:
        labels = seeds % self.num_classes if self.num_classes else None
        return sample(self.denoiser, self.denoiser.levels, sampler, seeds, self.shape, labels).images


def load(store: str, training: str) -> Network:
    found = find_snapshot(Store(store), CheckpointRef(training))
    denoiser = build_denoiser(found.model, read_weights(Store(store), found), torch.float32, "cpu")
    return Network(denoiser, found.model.shape, found.model.num_classes)


def search(network: Network, seeds: Tensor, batch: int) -> dict[int, tuple[float, ...]]:
    """The optimized levels for every number of steps."""
    parts = []
    for part in torch.split(seeds, batch):
        labels = part % network.num_classes if network.num_classes else None
        levels = network.denoiser.levels
        parts.append(step_costs(network.denoiser, levels, FINE, part, network.shape, labels))
    return {number: cheapest_grid(mean_costs(parts), number) for number in NUM_STEPS}


def compare(network: Network, grids: dict[int, tuple[float, ...]], seeds: Tensor) -> tuple[list[Row], float]:
    """A row for every solver and number of steps, and the reference's own error."""
    half, reference = (
        network.images(Sampler(timesteps=EDMSteps(num_steps=steps), solver=DPMpp3M(form="corrected")), seeds)
        for steps in (REFERENCE_STEPS // 2, REFERENCE_STEPS)
    )

    def errors(timesteps: Timesteps, solver: Solver) -> Tensor:
        images = network.images(Sampler(timesteps=timesteps, solver=solver), seeds)
        return (images - reference).flatten(1).square().mean(dim=1).sqrt()

    rows = []
    for solver in SOLVERS:
        for number in NUM_STEPS:
            edm = errors(EDMSteps(num_steps=number), solver)
            optimized = errors(OptimizedSteps(sigmas=grids[number]), solver)
            change = optimized - edm
            interval = 1.96 * float(change.std()) / sqrt(len(seeds))
            means = float(edm.mean()), float(optimized.mean()), float(change.mean())
            rows.append(Row(solver.kind, number, *means, interval))
    return rows, float((half - reference).flatten(1).square().mean(dim=1).sqrt().mean())


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True)
    parser.add_argument("--training", required=True)
    parser.add_argument("--seeds", type=int, default=64, help="to compare on; the search has as many of its own")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--json", metavar="FILE", help="write the numbers here")
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    network = load(options.store, options.training)
    with torch.inference_mode():
        grids = search(network, torch.arange(SEARCH_SEEDS, SEARCH_SEEDS + options.seeds), options.batch)
        rows, own = compare(network, grids, torch.arange(options.seeds))
    print("| solver | steps (NFE) | edm grid | optimized grid | difference |\n|---|---:|---:|---:|---:|")
    for row in rows:
        told = f"{row.edm:.4f} | {row.optimized:.4f} | {row.difference:+.4f} +- {row.interval:.4f}"
        print(f"| {row.solver} | {row.num_steps} | {told} |")
    print(f"\nThe reference's own error: {own:.5f}. {options.seeds} seeds.")
    for number, sigmas in grids.items():
        print(f"{number} steps: " + ", ".join(f"{sigma:.4g}" for sigma in sigmas))
    if options.json:
        content = {"rows": [row._asdict() for row in rows], "own": own, "grids": grids}
        Path(options.json).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
