"""The benchmark of solvers: that its numbers are what it says they are."""

import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch

from benchmarks.mixture import Mixture
from benchmarks.solver_error import (
    Bench,
    Result,
    Row,
    errors,
    highest,
    main,
    mixture_problem,
    run,
    solvers,
    table,
    told,
)
from pipeline.data.store import Store
from pipeline.diffusion.preconditioning import EDMPreconditioning
from pipeline.diffusion.solvers import Euler, Heun, Solver
from pipeline.diffusion.timesteps import EDMSteps
from pipeline.networks import MLP
from pipeline.training.settings import ModelSpec
from pipeline.training.snapshot import commit_snapshot
from tests.diffusion import mixture as of_the_tests


def test_the_mixture_is_the_one_of_the_tests_and_its_end_is_where_their_flow_ends() -> None:
    x = 80 * torch.linspace(-2.5, 2.5, 12, dtype=torch.float64).reshape(3, 1, 2, 2)
    sigma = torch.tensor([0.1, 3.0, 80.0], dtype=torch.float64)
    torch.testing.assert_close(
        Mixture().denoise(x, sigma), of_the_tests.Mixture().denoise(x, sigma), rtol=1e-13, atol=1e-13
    )
    top, zero = torch.tensor(80.0, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)
    torch.testing.assert_close(
        Mixture().end(x, 80.0), of_the_tests.Mixture().transport(x, top, zero), rtol=1e-10, atol=1e-10
    )


def test_every_deterministic_solver_is_compared_at_its_highest_order() -> None:
    assert {solver.kind for solver in solvers()} == {part.kind for part in get_args(Solver) if not part().stochastic}
    for part in get_args(Solver):
        for form in highest(part):
            assert form.order >= part().order


def test_a_solver_gets_the_most_steps_that_a_budget_allows() -> None:
    bench = Bench(mixture_problem(), EDMSteps(), 4, 4)
    assert [bench.most_steps(Euler(), budget) for budget in (1, 4, 10)] == [1, 4, 10]
    assert [bench.most_steps(Heun(), budget) for budget in (1, 2, 3, 10, 11)] == [1, 1, 2, 5, 6]  # NFE is 2 N - 1


def test_the_error_of_a_converged_solver_is_small_and_batches_do_not_matter() -> None:
    bench = Bench(mixture_problem(), EDMSteps(), 6, 4)
    images, nfe = bench.images(bench.sampler(Heun(), 300))
    exact = bench.exact()
    assert nfe == 599
    assert exact is not None
    assert float(errors(images, exact).max()) < 1e-3
    whole = replace(bench, batch=6)
    assert torch.equal(images, whole.images(whole.sampler(Heun(), 300))[0])


def test_a_result_whose_reference_is_not_exact_enough_is_not_called_converged() -> None:
    euler = Row("euler", False, 10, 10, 10.0, 0.4, 0.01)
    multistep = Row("better", True, 10, 10, 10.0, 0.1, 0.01)
    result = Result("somewhere", 4, (euler, multistep), (), "heun, 64 steps", 0.01)
    assert "converged" in told(result, (4, 10))
    assert "is better: 0.1 +- 0.01, 0.250 of Euler's 0.4" in told(result, (4, 10))
    assert table(result, (4, 10)).splitlines()[2] == "| euler |  | 4.00e-01 |"
    assert "NOT CONVERGED" in told(replace(result, reference_error=0.011), (4, 10))


def test_where_no_answer_is_known_the_reference_is_refined_until_it_serves() -> None:
    known = mixture_problem()
    found = run(Bench(replace(known, exact=None), EDMSteps(), 4, 4), (4, 10), lambda line: None)
    exact = run(Bench(known, EDMSteps(), 4, 4), (4, 10), lambda line: None)
    assert found.converged
    assert 0 < found.reference_error <= found.smallest / 10
    assert [row.rmse for row in found.rows] == pytest.approx([row.rmse for row in exact.rows], rel=0.1)


def put_network(store: Store) -> None:
    model = ModelSpec(
        network=MLP(hidden=8, num_layers=1), preconditioning=EDMPreconditioning(), sigma_data=0.5, resolution=2,
        channels=1, num_classes=3,
    )  # fmt: skip
    weights = model.network.build(2, 1, 3).state_dict()
    meta = {"settings": {}, "dataset": {"name": "none", "digest": "none"}}
    commit_snapshot(store, "net-00000000", 1000, model, {"raw": weights}, meta)


def test_the_command_tells_of_a_trained_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put_network(Store(tmp_path / "store"))
    files = ["--json", str(tmp_path / "found.json"), "--out", str(tmp_path / "found.png")]
    trained = ["--store", str(tmp_path / "store"), "--training", "net"]
    code = main([*trained, "--quick", "--seeds", "2", "--device", "cpu", *files])
    found = json.loads((tmp_path / "found.json").read_text())["results"]
    converged = [10 * result["reference_error"] <= min(row["rmse"] for row in result["rows"]) for result in found]
    assert [result["problem"] for result in found] == ["mixture of two Gaussians", "net-00000000@1000/raw"]
    assert code == (0 if all(converged) else 1)
    assert (tmp_path / "found.png").stat().st_size > 10_000
    assert "| euler |" in capsys.readouterr().out


def test_half_a_name_of_a_network_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--store", "somewhere"])
    assert "--store and --training go together" in capsys.readouterr().err
