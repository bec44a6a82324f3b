"""What settings know of samplers beyond their parts: which go together, and grids that are kept in files."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config.generation import GenerateJob
from pipeline.config.load import load
from pipeline.diffusion.sampling import Sampler
from pipeline.diffusion.solvers import BogackiShampine
from pipeline.diffusion.stochasticity import Restart, Segment
from pipeline.diffusion.timesteps import AdaptiveSteps, OptimizedSteps
from pipeline.digests import digest, plain, sha256
from pipeline.errors import SettingsError

ADAPTIVE = {"kind": "adaptive", "rtol": 0.05}


def job(folder: Path, **settings: Any) -> GenerateJob:
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump({"checkpoint": {"training": "net"}, **settings}))
    return load(GenerateJob, path)


def samplers(found: GenerateJob) -> list[Sampler]:
    return [point.sampler.build() for _, point in found.points]


def test_an_adaptive_grid_goes_with_a_solver_that_tells_its_error(tmp_path: Path) -> None:
    [sampler] = samplers(job(tmp_path, sampler={"timesteps": ADAPTIVE, "solver": {"kind": "bogacki_shampine"}}))
    assert sampler == Sampler(timesteps=AdaptiveSteps(rtol=0.05), solver=BogackiShampine())


def test_the_solver_may_come_from_the_sweep(tmp_path: Path) -> None:
    kinds = [{"kind": "bogacki_shampine"}, {"kind": "dormand_prince"}]
    found = job(tmp_path, sampler={"timesteps": ADAPTIVE}, sweep={"sampler.solver": kinds})
    assert [sampler.solver.kind for sampler in samplers(found)] == ["bogacki_shampine", "dormand_prince"]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"sampler": {"timesteps": ADAPTIVE}}, r"job\.yaml: sampler\.solver: the adaptive .* \(got heun\)$"),
        (
            {
                "sampler": {
                    "timesteps": ADAPTIVE,
                    "solver": {"kind": "dormand_prince"},
                    "stochasticity": {"kind": "churn"},
                }
            },
            r"job\.yaml: sampler\.stochasticity: the adaptive .* use kind none",
        ),
        (
            {"sweep": {"sampler.timesteps": [{"kind": "edm"}, ADAPTIVE]}},
            r"job\.yaml: sweep point \(adaptive rtol=0\.05\): sampler\.solver: the adaptive .* \(got heun\)$",
        ),
    ],
    ids=["solver", "stochasticity", "sweep"],
)
def test_what_does_not_go_with_an_adaptive_grid_is_refused_by_its_path(
    tmp_path: Path, settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SettingsError, match=sentence):
        job(tmp_path, **settings)


def test_segments_of_restart_are_settings(tmp_path: Path) -> None:
    segment = {"sigma_min": 0.1, "sigma_max": 2, "N_restart": 4, "K": 3}
    [sampler] = samplers(job(tmp_path, sampler={"stochasticity": {"kind": "restart", "segments": [segment]}}))
    assert sampler.stochasticity == Restart(segments=(Segment(sigma_min=0.1, sigma_max=2.0, N_restart=4, K=3),))
    with pytest.raises(SettingsError, match=r"stochasticity\.segments\.0\.K: must be 0 or more \(got -1\)"):
        job(tmp_path, sampler={"stochasticity": {"kind": "restart", "segments": [{**segment, "K": -1}]}})


def test_the_first_step_is_no_part_of_the_name_of_samples_that_ask_the_network() -> None:
    assert "first_step" not in plain(Sampler())
    assert digest(Sampler(first_step="analytic")) != digest(Sampler())


CONTENTS = {
    "mapping": json.dumps({"sigmas": [80, 2.5, 0.1], "source": "by dynamic programming on digits@1000"}),
    "list": "[80, 2.5, 1e-1, 0]",
    "numbers": "80 2.5\n0.1\n",
}


@pytest.mark.parametrize("content", CONTENTS)
def test_a_grid_from_a_file_is_what_stands_in_it(tmp_path: Path, content: str) -> None:
    for name in ("one.json", "two.txt"):
        (tmp_path / name).write_text(CONTENTS[content])
    files = [{"kind": "file", "path": str(tmp_path / name)} for name in ("one.json", "two.txt")]
    [one], [other] = (samplers(job(tmp_path, sampler={"timesteps": grid})) for grid in files)
    assert isinstance(one.timesteps, OptimizedSteps)
    assert one.timesteps.sigmas == (80.0, 2.5, 0.1)
    assert one.timesteps.source.endswith(f"one.json, sha256 {sha256(CONTENTS[content].encode())[:16]}")
    assert digest(one) == digest(other), "where it lies and how it was made are for people"
    swept = samplers(job(tmp_path, sweep={"sampler.timesteps": files}))
    assert [sampler.timesteps for sampler in swept] == [one.timesteps, other.timesteps]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read"), ("", "holds no noise levels"), ("sigmas: {}", "holds no noise levels"),
        ("{a", "line 1"), ("80 2 nan", "holds no noise levels"), ("2 80", "must be positive, finite and decreasing"),
    ],
)  # fmt: skip
def test_a_file_that_holds_no_grid_is_refused(tmp_path: Path, content: str | None, problem: str) -> None:
    if content is not None:
        (tmp_path / "grid.txt").write_text(content)
    grid = {"kind": "file", "path": str(tmp_path / "grid.txt")}
    with pytest.raises(SettingsError, match=rf"job\.yaml: sampler\.timesteps[.:] ?.*{problem}"):
        job(tmp_path, sampler={"timesteps": grid})


def test_a_grid_file_without_a_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"sampler\.timesteps: a grid of kind file has a path and nothing else"):
        job(tmp_path, sampler={"timesteps": {"kind": "file"}})
