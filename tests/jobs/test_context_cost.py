"""What a dry run says a grid of settings would cost."""

from pathlib import Path
from typing import Any

import pytest

from jobs.context import cost, engine_points
from pipeline.config.generation import GenerateJob
from tests.engine.tiny import tiny_store

FIXED = [{"kind": "edm", "num_steps": 5}]
ADAPTIVE = [{"kind": "adaptive", "rtol": 0.05}]


def job(folder: Path, timesteps: list[dict[str, Any]], stochasticity: str = "none") -> GenerateJob:
    sampler = {"solver": {"kind": "dormand_prince"}, "stochasticity": {"kind": stochasticity}}
    return GenerateJob.model_validate(
        {
            "store": str(folder), "checkpoint": {"training": "net0"}, "sampler": sampler, "seeds": {"count": 10},
            "sweep": {"sampler.timesteps": timesteps}, "actors": {"num_actors": 0},
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    ("timesteps", "stochasticity", "told"),
    [
        (FIXED, "none", "1 settings x 10 images: 260 network evaluations at most"),  # 6 x 4 + 1 + 1 an image
        # And twice up and down in two steps, with a first slope anew at the top: 2 x (6 x 2 + 1).
        (FIXED, "restart", "1 settings x 10 images: 520 network evaluations at most"),
        (ADAPTIVE, "none", "1 settings x 10 images: 1 with adaptive steps, whose number varies"),
        (FIXED + ADAPTIVE, "none",
         "2 settings x 10 images: 260 network evaluations at most; 1 with adaptive steps, whose number varies"),
    ],
)  # fmt: skip
def test_the_cost_is_counted_where_it_is_known(
    tmp_path: Path, timesteps: list[dict[str, Any]], stochasticity: str, told: str
) -> None:
    store = tiny_store(tmp_path, 1)
    of_images, of_time = cost(store, job(tmp_path, timesteps, stochasticity))
    assert of_images == told
    assert of_time.startswith("no time can be told: the network of net0-00000000@1000/raw was neither run nor timed")


def test_a_point_without_a_sweep_is_named_by_what_it_has(tmp_path: Path) -> None:
    settings = job(tmp_path, FIXED).model_dump() | {"sweep": {}}
    settings["sampler"]["timesteps"] = ADAPTIVE[0]
    [point] = engine_points(GenerateJob.model_validate(settings))
    assert point.name == "dormand_prince, rtol=0.05"
