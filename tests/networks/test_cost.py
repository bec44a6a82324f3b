"""What a network costs."""

import pytest

from pipeline.networks import MLP, DDPMpp
from pipeline.networks.cost import network_cost


def test_the_cost_of_the_network_for_cifar10_is_the_published_one() -> None:
    """55.7 million parameters (Karras et al. 2022, table 7) and 42.4 GFLOP an image, measured elsewhere."""
    cost = network_cost(DDPMpp(), 32, 3, 10)
    assert cost.parameters == pytest.approx(55.7e6, rel=0.002)
    assert cost.flops == pytest.approx(42.4e9, rel=0.01)


def test_the_cost_of_matrix_products_is_two_operations_for_each_weight() -> None:
    network = MLP(hidden=64, num_layers=2)
    cost = network_cost(network, 8, 1, 0)
    built = network.build(8, 1, 0)
    weights = sum(parameter.numel() for parameter in built.parameters() if parameter.ndim == 2)
    assert cost.parameters == sum(parameter.numel() for parameter in built.parameters())
    assert cost.flops == 2 * weights


def test_a_network_that_cannot_be_built_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        network_cost(DDPMpp(), 30, 3, 0)
