"""Optimized grids through the engine: in this process, kept in the store, and as files that settings take."""

import json
from pathlib import Path

import pytest
import torch

from jobs.optimize_grid import main
from pipeline.config.load import validate
from pipeline.config.optimized_grid import OptimizeGridJob
from pipeline.config.points import SamplerSettings
from pipeline.diffusion.grid_search import mean_costs, step_costs
from pipeline.diffusion.labels import Balanced
from pipeline.diffusion.sampling import Sampler
from pipeline.diffusion.timesteps import EDMSteps
from pipeline.engine.grids import measure_steps
from pipeline.engine.work import Actors, Point, Seeds
from pipeline.errors import SettingsError
from pipeline.training.snapshot import CheckpointRef, build_denoiser, find_snapshot, read_weights
from tests.engine.tiny import EXECUTION, MODEL, tiny_store

FINE = Sampler(timesteps=EDMSteps(num_steps=6))


def test_the_costs_are_those_of_the_network_and_are_measured_once(tmp_path: Path) -> None:
    store = tiny_store(tmp_path, 1)
    point = Point("fine", CheckpointRef("net0"), FINE, Balanced())
    found = measure_steps(store, point, Seeds(100, 13), EXECUTION, Actors(num_actors=0))

    snapshot = find_snapshot(store, point.checkpoint)
    denoiser = build_denoiser(MODEL, read_weights(store, snapshot), torch.float32, "cpu")
    batches = [torch.arange(100, 108), torch.arange(108, 116)]
    with torch.inference_mode():
        parts = [step_costs(denoiser, denoiser.levels, FINE, batch, MODEL.shape, batch % 10) for batch in batches]
    assert torch.allclose(found.costs, mean_costs(parts).costs, rtol=1e-4)

    [key] = store.committed("cache/grids")
    written = store.manifest(key).blobs["costs.safetensors"].sha256
    again = measure_steps(store, point, Seeds(100, 13), EXECUTION, Actors(num_actors=0))
    assert torch.equal(again.costs, found.costs)
    assert store.manifest(key).blobs["costs.safetensors"].sha256 == written


def job(root: Path, **fields: object) -> OptimizeGridJob:
    content = {
        "store": str(root), "out": str(root / "grids"), "checkpoint": {"training": "net0"}, "num_steps": [2, 4],
        "sampler": {"timesteps": {"kind": "edm", "num_steps": 6}}, "seeds": {"first": 100, "count": 8},
        "execution": {"batch_size": 8, "chunk_size": 16, "device": "cpu"}, "actors": {"num_actors": 0}, **fields,
    }  # fmt: skip
    return validate(OptimizeGridJob, content, "job.yaml")


def test_the_job_writes_files_that_settings_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_store(tmp_path, 1)
    main(job(tmp_path))
    for num_steps in (2, 4):
        path = tmp_path / "grids" / f"steps-{num_steps:02d}.json"
        assert str(path) in capsys.readouterr().out or num_steps == 4
        sampler = validate(SamplerSettings, {"timesteps": {"kind": "file", "path": str(path)}}, "job.yaml").build()
        assert sampler.timesteps.num_steps == num_steps
        assert list(sampler.timesteps.sigmas) == json.loads(path.read_text())["sigmas"]
        assert "6 edm levels for net0" in sampler.timesteps.source


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"num_steps": [7]}, "num_steps: must be between 1 and the fine grid's 6 (got 7)"),
        ({"sampler": {"schedule": {"kind": "vp"}}}, "sampler: trajectories are measured with a deterministic solver"),
        ({"sampler": {"stochasticity": {"kind": "churn"}}}, "sampler: trajectories are measured without added noise"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, fields: dict[str, object], where: str) -> None:
    with pytest.raises(SettingsError) as caught:
        job(tmp_path, **fields)
    assert where in str(caught.value)
