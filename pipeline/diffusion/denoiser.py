"""The denoiser that samplers and the loss ask, made of a network and a preconditioning."""

import torch
from torch import Tensor, nn

from pipeline.diffusion.preconditioning import Preconditioning, per_sample
from pipeline.diffusion.seeds import placed
from pipeline.diffusion.timesteps import NoiseLevels


class Denoiser(nn.Module):
    """D(x; sigma, labels) of a network and a preconditioning.

    Args:
        network: F(x, c_noise, labels), or with a fourth argument where it is told of augmentation; it runs in the
            precision of its own parameters, or under autocast.
        preconditioning: the four coefficient functions.
        sigma_data: the standard deviation of the data, in the model's range.
    """

    def __init__(self, network: nn.Module, preconditioning: Preconditioning, sigma_data: float) -> None:
        super().__init__()
        if not sigma_data > 0:
            raise ValueError(f"sigma_data: must be positive (got {sigma_data})")
        self.network = network
        self.preconditioning = preconditioning
        self.sigma_data = sigma_data

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None, augment: Tensor | None = None) -> Tensor:
        """The denoised image.

        Args:
            x: noisy images y + sigma n, without scaling, of shape (N, C, H, W).
            sigma: noise levels of shape (N,), on x's device or on the CPU.
            labels: int64 of shape (N,), -1 for none, on either; or None.
            augment: in training, what was done to y, of shape (N, 9); None for nothing, as in sampling.

        Returns:
            The estimate of y, of x's shape and dtype. Coefficients are float64, whatever the network's precision.
        """
        c = self.preconditioning.coefficients(sigma.to(torch.float64), self.sigma_data)
        dtype = self.dtype
        network_x = (per_sample(c.c_in, x).to(x.dtype) * x).to(dtype)
        # Half precision cannot tell neighbouring times apart, so the network gets c_noise in float32 at least.
        c_noise = placed(c.c_noise.to(torch.promote_types(dtype, torch.float32)), x.device)
        labels = labels if labels is None else placed(labels, x.device)
        conditions = (labels,) if augment is None else (labels, augment)
        output: Tensor = self.network(network_x, c_noise, *conditions)
        output = output[:, : x.shape[1]]  # a learned variance, if there is one, is not ours
        return per_sample(c.c_skip, x).to(x.dtype) * x + per_sample(c.c_out, x).to(x.dtype) * output.to(x.dtype)

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the network's parameters; float64 for one that has none."""
        return next((parameter.dtype for parameter in self.network.parameters()), torch.float64)

    @property
    def levels(self) -> NoiseLevels:
        return self.preconditioning.levels()
