"""Channels-last strides where torch leaves them open."""

import pytest
import torch
from torch import nn

from pipeline.networks.memory_format import channels_last, to_channels_last


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 1, 4, 5), (2, 3, 1, 1), (1, 1, 1, 1), (4, 1, 1, 5)])
def test_strides_are_those_of_channels_last_and_values_stay(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    y = channels_last(x)
    _, c, h, w = shape
    assert y.stride() == (c * h * w, 1, w * c, c)
    assert torch.equal(x, y)
    assert channels_last(y).data_ptr() == y.data_ptr()


def test_every_kernel_of_a_network_is_put_so_in_place() -> None:
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(4, 2))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    first = net[0].weight
    to_channels_last(net)
    assert net[0].weight is first
    assert [net[0].weight.stride(), net[1].weight.stride()] == [(9, 1, 3, 1), (8, 1, 8, 8)]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
