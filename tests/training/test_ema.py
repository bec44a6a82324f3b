import pytest
import torch
from torch import nn

from pipeline.training.ema import Averages, decay
from pipeline.training.settings import EMA


def test_half_of_an_average_is_left_after_its_half_life_whatever_the_batch_size() -> None:
    for batch_size in (10, 25, 100):
        left = 1.0
        for _ in range(1000 // batch_size):
            left *= decay(batch_size, 10**9, 1000, None)
        assert left == pytest.approx(0.5)


def test_early_on_the_half_life_is_a_share_of_the_images_seen() -> None:
    assert decay(64, 0, 1e6, 0.05) == 0
    assert decay(64, 1000, 1e6, 0.05) == pytest.approx(0.5 ** (64 / 50))
    assert decay(64, 10**9, 1e6, 0.05) == pytest.approx(0.5 ** (64 / 1e6))
    assert decay(64, 0, 1e6, None) == pytest.approx(0.5 ** (64 / 1e6))


def test_an_average_of_a_growing_weight_is_that_of_the_closed_form() -> None:
    """Of w = 1, 2, ..., k, begun at w = 0: k - (beta + ... + beta^k)."""
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    averages = Averages(EMA(halflife_kimg=(0.1, 1.0), ramp_up=None), network)
    for step in range(1, 51):
        nn.init.constant_(network.weight, step)
        averages.update(10, 10 * (step - 1))
    for name, halflife in (("ema-0.1", 100), ("ema-1", 1000)):
        beta = 0.5 ** (10 / halflife)
        expected = 50 - sum(beta**power for power in range(1, 51))
        assert averages.state_dicts()[name]["weight"].item() == pytest.approx(expected, rel=1e-5)


def test_averages_hold_buffers_as_the_network_does_and_load_what_they_gave() -> None:
    network = nn.BatchNorm1d(2)
    averages = Averages(EMA(ramp_up=None), network)
    network.running_mean = torch.tensor([1.0, 2.0])
    nn.init.constant_(network.weight, 3.0)
    averages.update(500_000, 0)
    state = averages.state_dicts()["ema-500"]
    assert state["weight"].tolist() == [2.0, 2.0]  # from 1 half of the way to 3
    assert state["running_mean"].tolist() == [1.0, 2.0]
    other = Averages(EMA(ramp_up=None), nn.BatchNorm1d(2))
    other.load(averages.state_dicts())
    assert other.state_dicts()["ema-500"]["weight"].tolist() == [2.0, 2.0]
