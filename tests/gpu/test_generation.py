"""The engine on a GPU: equal bytes whoever does the work, by every path; and features."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.data.features import read_features
from pipeline.data.samples import read_samples
from pipeline.diffusion.sampling import Sampler
from pipeline.diffusion.solvers import BogackiShampine, DPMppSDE
from pipeline.diffusion.stochasticity import Churn
from pipeline.diffusion.timesteps import AdaptiveSteps, EDMSteps
from pipeline.engine.generation import generate
from pipeline.engine.session import session
from pipeline.engine.work import Actors, Seeds
from tests.engine.tiny import EXECUTION, classifier_plan, contents, tiny_points, tiny_store

GPU = replace(EXECUTION, device="cuda")
SEEDS = Seeds(0, 64)
POINTS = [
    *tiny_points(2, (4,)),
    *[
        replace(tiny_points(1, (4,))[0], name=f"point {number}", sampler=sampler)
        for number, sampler in enumerate(
            (
                Sampler(timesteps=EDMSteps(num_steps=5), stochasticity=Churn()),
                Sampler(timesteps=EDMSteps(num_steps=5), solver=DPMppSDE()),
                Sampler(timesteps=AdaptiveSteps(rtol=0.05, atol=0.05), solver=BogackiShampine()),
            )
        )
    ],
]


def run(root: Path, execution: Any, actors: Actors, points: Any = POINTS) -> dict[str, str]:
    store = tiny_store(root)
    generate(store, points, SEEDS, execution, actors, [classifier_plan()], progress=False)
    return contents(store)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", [False, True, "reduce-overhead", "ahead"])
def test_images_are_equal_for_any_number_of_actors(tmp_path: Path, how: Any) -> None:
    execution = replace(GPU, compile=how)
    alone = run(tmp_path / "alone", execution, Actors(num_actors=0))
    assert len(alone) == 4 * len(POINTS)
    with session():
        assert run(tmp_path / "one", execution, Actors(), POINTS[::-1]) == alone
        assert run(tmp_path / "three", execution, Actors(per_gpu=3)) == alone


def test_images_and_features_are_nearly_those_of_a_cpu(tmp_path: Path) -> None:
    found = {}
    for device in ("cpu", "cuda"):
        store, plan = tiny_store(tmp_path / device), classifier_plan()
        execution = replace(EXECUTION, device=device)
        results = generate(store, POINTS[:2], SEEDS, execution, Actors(num_actors=0), [plan], progress=False)
        digests = [result.samples_digest for result in results]
        images = np.stack([read_samples(store, digest, 0, 64).images for digest in digests]).astype(int)
        features = np.stack(
            [read_features(store, digest, plan.digest, 0, 64, execution.chunk_size).features for digest in digests]
        )
        found[device] = digests, images, features
    assert set(found["cpu"][0]).isdisjoint(found["cuda"][0])  # the family is part of the name
    assert np.abs(found["cpu"][1] - found["cuda"][1]).max() <= 1
    np.testing.assert_allclose(found["cuda"][2], found["cpu"][2], atol=0.05)
    assert found["cpu"][1].std() > 10
