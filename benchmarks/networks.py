"""The networks that speed is measured on, with weights under which every layer does something."""

from dataclasses import dataclass, replace

import torch
from torch import nn

from pipeline.diffusion.preconditioning import EDMPreconditioning
from pipeline.networks import DDPMpp
from pipeline.networks.cost import NetworkCost, network_cost
from pipeline.training.settings import ModelSpec
from pipeline.training.snapshot import weights_bytes


@dataclass(frozen=True)
class Case:
    """A network at 32x32x3.

    Args:
        batch: images at once in sampling.
        training_batch: images a step.
        steps: of the sampler.
    """

    net: DDPMpp
    batch: int
    training_batch: int
    steps: int

    def on(self, device: str, quick: bool) -> "Case":
        """The same for a GPU, which wants more images at once; or, on a CPU, in minutes."""
        if device == "cuda":
            return replace(self, batch=256, training_batch=64 if self.is_large else 256, steps=8)
        return replace(self, batch=8, steps=2) if quick else self

    @property
    def model(self) -> ModelSpec:
        return ModelSpec(
            network=self.net, preconditioning=EDMPreconditioning(), sigma_data=0.5, resolution=32, channels=3,
            num_classes=0,
        )  # fmt: skip

    @property
    def cost(self) -> NetworkCost:
        return network_cost(self.net, 32, 3, 0)

    @property
    def is_large(self) -> bool:
        return self.cost.parameters > 2e7

    def weights(self) -> bytes:
        """As safetensors. As built, the blocks begin as almost nothing and would hide errors."""
        torch.manual_seed(0)
        network = self.net.build(32, 3, 0)
        for parameter in network.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        return weights_bytes(network.state_dict())


CASES = {
    "2.8M": Case(DDPMpp(model_channels=48, channel_mult=(1, 2, 2), num_blocks=1), 16, 64, 8),
    "7.0M": Case(DDPMpp(model_channels=64, channel_mult=(1, 2, 2), num_blocks=2), 16, 64, 8),
    "55.7M": Case(DDPMpp(), 16, 16, 3),
}
