"""The error to the converged answer: by hand, and what 8 bits leave of it."""

import numpy as np
import pytest
import torch

from pipeline.diffusion.decoding import quantize
from pipeline.metrics.trajectory import FLOOR, STEP, TrajectoryError, sample_errors


def test_errors_are_root_mean_squares_in_the_range_of_the_model() -> None:
    black, white = np.zeros((1, 1, 2, 2), np.uint8), np.full((1, 1, 2, 2), 255, np.uint8)
    assert sample_errors(black, white)[0] == pytest.approx(2.0)
    one = black.copy()
    one[0, 0, 0, 0] = 2
    assert sample_errors(np.concatenate([one, black]), np.concatenate([black, black])) == pytest.approx([STEP, 0.0])


def test_the_rmse_and_its_quantiles_are_those_of_the_samples() -> None:
    found = TrajectoryError.of(np.array([3.0, 4.0, 0.0, 0.0]))
    assert found.rmse == pytest.approx(2.5)
    assert found.quantiles == pytest.approx((0.0, 1.5, 3.7))
    assert found.count == 4
    assert TrajectoryError.of(np.array([0.5])).half_width is None
    assert TrajectoryError.of(np.zeros(3)).half_width == 0.0


def test_the_interval_covers_the_rmse_of_infinitely_many_seeds() -> None:
    generator = np.random.default_rng(1)
    errors = generator.gamma(4.0, 0.01, size=(2000, 500))
    truth = 0.01 * (4.0 * 5.0) ** 0.5  # root of the second moment of Gamma(4, 0.01)
    found = [TrajectoryError.of(row) for row in errors]
    covered = np.mean([abs(one.rmse - truth) <= (one.half_width or 0.0) for one in found])
    assert 0.93 < covered < 0.97


def test_eight_bits_add_their_rounding_and_nothing_is_resolved_below_the_floor() -> None:
    torch.manual_seed(0)
    states = torch.rand(200, 1, 32, 32, dtype=torch.float64) * 1.6 - 0.8
    for error in (0.05, 0.0005):
        other = states + error * torch.randn_like(states)
        found = TrajectoryError.of(sample_errors(quantize(other).numpy(), quantize(states).numpy())).rmse
        if error > FLOOR:
            assert found == pytest.approx((error**2 + FLOOR**2) ** 0.5, rel=0.01)
        else:
            assert error < found < FLOOR


def test_images_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape of the converged \(1, 1, 4, 4\)"):
        sample_errors(np.zeros((2, 1, 4, 4), np.uint8), np.zeros((1, 1, 4, 4), np.uint8))
