"""Error to the converged answer of the same seeds, against NFE, for every deterministic solver.

    python -m benchmarks.solver_error --out runs/solver_error.png --json runs/solver_error.json
    python -m benchmarks.solver_error --store runs/fashion-mnist/store --training fashion-mnist --seeds 64 --threads 2

Always on a mixture of two Gaussians, whose exact answer is known; with --store and --training on a trained network too.
There the reference is one of the solvers of highest order, with its steps doubled until what the last doubling changed
(its own error) is under a tenth of the smallest error reported; where that is not reached it is said, and the exit code
is 1.

A solver is every member of the union `Solver` that is not stochastic, once for each of its forms, at its highest order
(switches as they are by default); one that makes the same images as an earlier one is left out. It gets as many steps
as a budget of evaluations allows. The error of a sample is the root mean square over its pixels, in the model's range
of -1 to 1; told are the mean over the seeds and its 95 % interval.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from math import sqrt
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from benchmarks.mixture import Mixture
from pipeline.config.parts import variants
from pipeline.data.store import Store
from pipeline.diffusion.guidance import Denoise
from pipeline.diffusion.labels import Balanced
from pipeline.diffusion.sampling import Sampler, count_nfe, sample
from pipeline.diffusion.seeds import INITIAL, draw, normal
from pipeline.diffusion.solvers import Euler, Solver
from pipeline.diffusion.timesteps import NoiseLevels, Timesteps, grid
from pipeline.training.snapshot import CheckpointRef, build_denoiser, find_snapshot, read_weights

BUDGETS = (4, 5, 6, 8, 10, 12, 16, 20, 25, 32, 40)
QUICK_BUDGETS = (4, 10, 20)
COMPARED_AT = 10  # evaluations, where multistep solvers are held against Euler's
MARGIN = 10.0  # the smallest error by the reference's own
FIRST_REFERENCE, LAST_REFERENCE = 64, 2048  # steps
NUM_CANDIDATES = 3  # solvers that may become the reference


@dataclass(frozen=True)
class Problem:
    """A flow to be solved.

    Args:
        title: what it is called.
        denoise: the denoiser.
        levels: that it can be asked.
        shape: of a sample.
        num_classes: of the labels, 0 for none.
        exact: the answer for seeds and the noise level they begin at, where it is known.
        device: of the work.
    """

    title: str
    denoise: Denoise
    levels: NoiseLevels
    shape: tuple[int, ...]
    num_classes: int = 0
    exact: Callable[[Tensor, float], Tensor] | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class Row:
    """One solver at one cost: the mean error over the seeds, and half of its 95 % interval."""

    solver: str
    multistep: bool
    budget: int
    num_steps: int
    nfe: float
    rmse: float
    interval: float


@dataclass(frozen=True)
class Result:
    """What was found on one problem. reference_error: 0 where the answer is exact."""

    problem: str
    seeds: int
    rows: tuple[Row, ...]
    same: tuple[str, ...]
    reference: str
    reference_error: float

    @property
    def smallest(self) -> float:
        return min(row.rmse for row in self.rows)

    @property
    def converged(self) -> bool:
        return self.reference_error * MARGIN <= self.smallest


def mixture_problem() -> Problem:
    mixture, shape = Mixture(), (1, 4, 4)

    def exact(seeds: Tensor, sigma: float) -> Tensor:
        return mixture.end(sigma * normal(seeds, draw(INITIAL, 0), shape), sigma)

    return Problem("mixture of two Gaussians", mixture.denoise, NoiseLevels(), shape, exact=exact)


def network_problem(store: str, ref: CheckpointRef, device: str) -> Problem:
    """Raises:
    CheckpointError: there are no such weights.
    """
    opened = Store(store)
    snapshot = find_snapshot(opened, ref)
    model = snapshot.model
    denoiser = build_denoiser(model, read_weights(opened, snapshot), torch.float32, device)
    denoiser.network.to(memory_format=torch.channels_last)
    return Problem(snapshot.title, denoiser, denoiser.levels, model.shape, model.num_classes, device=device)


def highest(part: Any) -> list[Any]:
    """The forms of a solver, each at the largest of its whole-number settings (its order), with switches as they are
    by default."""
    plain = part()
    names = {field.name: getattr(plain, field.name) for field in fields(part)}
    whole = [name for name, value in names.items() if type(value) is int]
    switches = [name for name, value in names.items() if type(value) is bool]
    forms: dict[Any, Any] = {}
    for variant in variants(part):
        form = replace(variant, **{name: names[name] for name in whole})
        if any(getattr(variant, name) != names[name] for name in switches):
            continue
        best = forms.setdefault(form, variant)
        if [getattr(variant, name) for name in whole] > [getattr(best, name) for name in whole]:
            forms[form] = variant
    return list(forms.values())


def solvers() -> list[Any]:
    """Every deterministic solver to be compared, Euler's first."""
    return [form for part in get_args(Solver) for form in highest(part) if not form.stochastic]


def title(solver: Any) -> str:
    """The kind, and what is not the default: `alpha 0.5`."""
    plain = type(solver)()
    names = [field.name for field in fields(solver)]
    changed = [name for name in names if getattr(solver, name) != getattr(plain, name)]
    return " ".join([solver.kind, *(f"{name}={getattr(solver, name)}" for name in changed)])


@dataclass(frozen=True)
class Bench:
    """Solves one problem for its seeds."""

    problem: Problem
    timesteps: Any
    seeds: int
    batch: int

    def sampler(self, solver: Any, num_steps: int) -> Sampler:
        return Sampler(timesteps=replace(self.timesteps, num_steps=num_steps), solver=solver)

    def images(self, sampler: Sampler) -> tuple[Tensor, float]:
        """The end states of all seeds, float64 on the CPU, and the mean of their evaluations."""
        problem, parts, evaluations = self.problem, [], 0
        for seeds in torch.arange(self.seeds, device=problem.device).split(self.batch):
            labels = Balanced().of(seeds, problem.num_classes) if problem.num_classes else None
            made = sample(problem.denoise, problem.levels, sampler, seeds, problem.shape, labels)
            parts.append(made.images.cpu())
            evaluations += int(made.nfe.sum())
        return torch.cat(parts), evaluations / self.seeds

    def most_steps(self, solver: Any, budget: int) -> int | None:
        """The most steps that cost no more than so many evaluations; None where one step costs more."""
        for num_steps in range(1, budget + 2):
            if count_nfe(self.sampler(solver, num_steps), self.problem.levels) > budget:
                return num_steps - 1 or None
        return budget

    def exact(self) -> Tensor | None:
        if self.problem.exact is None:
            return None
        sigma = float(grid(self.sampler(Euler(), 2).timesteps, self.problem.levels)[0])
        return self.problem.exact(torch.arange(self.seeds), sigma)


def run(bench: Bench, budgets: Sequence[int], say: Callable[[str], None]) -> Result:
    """All solvers at all budgets, and the reference they are held against."""
    made, same = _curves(bench, budgets, say)
    answer = bench.exact()
    if answer is not None:
        rows = tuple(_rows(made, answer))
        return Result(bench.problem.title, bench.seeds, rows, tuple(same), "exact", 0.0)
    solver, coarse, answer = _best_reference(bench)
    num_steps = FIRST_REFERENCE
    while True:
        rows, own = tuple(_rows(made, answer)), float(errors(answer, coarse).mean())
        name = f"{title(solver)}, {num_steps} steps"
        result = Result(bench.problem.title, bench.seeds, rows, tuple(same), name, own)
        say(f"reference {name}: own error {own:.2e}, smallest error {result.smallest:.2e}")
        if result.converged or 2 * num_steps > LAST_REFERENCE:
            return result
        num_steps, coarse = 2 * num_steps, answer
        answer = bench.images(bench.sampler(solver, num_steps))[0]


def _best_reference(bench: Bench) -> tuple[Any, Tensor, Tensor]:
    """Of a few solvers of highest order, the one whose answer changes least when its steps are doubled; with both."""
    candidates = sorted(solvers(), key=lambda solver: (-solver.order, solver.evaluations))[:NUM_CANDIDATES]
    found = []
    for solver in candidates:
        coarse, fine = (bench.images(bench.sampler(solver, n))[0] for n in (FIRST_REFERENCE // 2, FIRST_REFERENCE))
        found.append((solver, coarse, fine))
    return min(found, key=lambda item: float(errors(item[2], item[1]).mean()))


Made = tuple[Any, int, int, float, Tensor]  # solver, budget, steps, NFE, images


def _curves(bench: Bench, budgets: Sequence[int], say: Callable[[str], None]) -> tuple[list[Made], list[str]]:
    """The images of every solver at every budget; and which solvers make the same images as an earlier one."""
    made: list[Made] = []
    same: list[str] = []
    for solver in solvers():
        start, curve = time.perf_counter(), _curve(bench, solver, budgets)
        twin = next((other for other in dict.fromkeys(row[0] for row in made) if _equal(curve, made, other)), None)
        if twin is None:
            made += curve
        else:
            same.append(f"{title(solver)} makes the images of {title(twin)}")
        say(f"{title(solver)}: {time.perf_counter() - start:.1f} s")
    return made, same


def _curve(bench: Bench, solver: Any, budgets: Sequence[int]) -> list[Made]:
    curve: list[Made] = []
    for budget in budgets:
        num_steps = bench.most_steps(solver, budget)
        if num_steps and (not curve or curve[-1][2] != num_steps):
            images, nfe = bench.images(bench.sampler(solver, num_steps))
            curve.append((solver, budget, num_steps, nfe, images))
    return curve


def _equal(curve: list[Made], made: list[Made], solver: Any) -> bool:
    other = [row for row in made if row[0] is solver]
    return len(curve) == len(other) and all(torch.equal(a[4], b[4]) for a, b in zip(curve, other, strict=True))


def errors(images: Tensor, answer: Tensor) -> Tensor:
    """Root mean square over the pixels of each sample, shape (N,)."""
    return (images - answer).square().flatten(1).mean(1).sqrt()


def _rows(made: list[Made], answer: Tensor) -> list[Row]:
    rows = []
    for solver, budget, num_steps, nfe, images in made:
        each = errors(images, answer)
        interval = 1.96 * float(each.std()) / sqrt(len(each)) if len(each) > 1 else float("inf")
        multistep = solver.evaluations == 1 and not isinstance(solver, Euler)
        rows.append(Row(title(solver), multistep, budget, num_steps, nfe, float(each.mean()), interval))
    return rows


def table(result: Result, budgets: Sequence[int]) -> str:
    """Solvers by budgets as Markdown. An empty cell: no more steps than the budget before allowed."""
    cells = {(row.solver, row.budget): f"{row.rmse:.2e}" for row in result.rows}
    lines = [f"| solver | {' | '.join(str(budget) for budget in budgets)} |", f"|---|{'---:|' * len(budgets)}"]
    lines += [
        f"| {solver} | {' | '.join(cells.get((solver, budget), '') for budget in budgets)} |"
        for solver in dict.fromkeys(row.solver for row in result.rows)
    ]
    return "\n".join(lines)


def told(result: Result, budgets: Sequence[int]) -> str:
    """The result for people."""
    lines = [f"{result.problem}: {result.seeds} seeds; RMSE by evaluations allowed", "", table(result, budgets), ""]
    lines += [f"{line}." for line in result.same]
    lines.append(
        f"Reference: {result.reference}; its own error {result.reference_error:.2e}, the smallest error reported "
        f"{result.smallest:.2e}: {'converged' if result.converged else 'NOT CONVERGED'}."
    )
    at = [row for row in result.rows if row.budget == COMPARED_AT]
    multistep, euler = [row for row in at if row.multistep], [row for row in at if row.solver == "euler"]
    if multistep and euler:
        best = min(multistep, key=lambda row: row.rmse)
        lines.append(
            f"At NFE {COMPARED_AT} the best multistep solver is {best.solver}: {best.rmse:.3g} +- {best.interval:.2g}, "
            f"{best.rmse / euler[0].rmse:.3f} of Euler's {euler[0].rmse:.3g} +- {euler[0].interval:.2g}."
        )
    return "\n".join(lines)


def figure(results: Sequence[Result]) -> Any:
    """One panel a problem, one line a solver, both axes logarithmic."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator, ScalarFormatter

    drawn = Figure(figsize=(6.5 * len(results) + 2.5, 6), dpi=130, layout="constrained")
    names = list(dict.fromkeys(row.solver for result in results for row in result.rows))
    colours, panels = colormaps["tab20"].colors, drawn.subplots(1, len(results), squeeze=False)[0]
    for axes, result in zip(panels, results, strict=True):
        for number, name in enumerate(names):
            rows = [row for row in result.rows if row.solver == name]
            style = {"color": colours[number % 20], "marker": "osD^vPX"[number % 7]}
            axes.errorbar([row.nfe for row in rows], [row.rmse for row in rows], [row.interval for row in rows],
                          label=name, ms=4, lw=1.3, elinewidth=0.8, **style)  # fmt: skip
        axes.set(xscale="log", yscale="log", xlabel="network evaluations (NFE)", ylabel="RMSE to the converged answer")
        axes.set_title(result.problem, loc="left", fontsize=10)
        axes.set_xticks([4, 6, 8, 10, 16, 20, 30, 40])
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(True, color="#dddddd", lw=0.6)
    drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8)
    return drawn


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", help="with --training: a trained network too")
    parser.add_argument("--training", help="its name")
    parser.add_argument("--ema", help="which weights (default: the training's first average)")
    parser.add_argument("--timesteps", default="edm", help="kind of the time grid, for all solvers and the reference")
    parser.add_argument("--seeds", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, help="of the CPU (default: torch's choice)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="8 seeds and three budgets: does it work?")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the figure here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here")
    options = parser.parse_args(argv)
    if bool(options.store) != bool(options.training):
        parser.error("--store and --training go together")
    kinds = {part.kind: part for part in get_args(Timesteps) if "num_steps" in {field.name for field in fields(part)}}
    if options.timesteps not in kinds:
        parser.error(f"--timesteps: must be one of {', '.join(kinds)} (got {options.timesteps})")
    if min(options.seeds, options.batch, options.threads or 1) < 1:
        parser.error("--seeds, --batch and --threads must be at least 1")
    options.timesteps = kinds[options.timesteps]()
    return options


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    seeds, budgets = (min(8, options.seeds), QUICK_BUDGETS) if options.quick else (options.seeds, BUDGETS)
    problems = [mixture_problem()]
    if options.store:
        ref = CheckpointRef(options.training, ema=options.ema)
        problems.append(network_problem(options.store, ref, options.device))
    results = []
    for problem in problems:
        bench = Bench(problem, options.timesteps, seeds, options.batch)
        results.append(run(bench, budgets, lambda line: print(f"  {line}", file=sys.stderr)))
        print(f"{told(results[-1], budgets)}\n")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        figure(results).savefig(options.out)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        timesteps, found = asdict(options.timesteps), [asdict(result) for result in results]
        report = {"torch": torch.__version__, "timesteps": timesteps, "results": found}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if all(result.converged for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
