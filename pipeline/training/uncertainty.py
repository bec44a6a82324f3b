"""How well a network can be expected to denoise at a noise level, learnt along with it, to weigh its losses by.

Source: Karras et al., "Analyzing and Improving the Training Dynamics of Diffusion Models", arXiv 2312.02696, appendix
B, after Kendall and Gal, arXiv 1705.07115.
"""

import math

import torch
from torch import Tensor, nn

from pipeline.networks.edm2_layers import MPFourier


class Uncertainty(nn.Module):
    """u(sigma), a linear function of random Fourier features of ln(sigma)/4; 0 to begin with.

    It is the logarithm of the mean weighted squared error a pixel. It takes part in training alone: checkpoints hold
    it, snapshots do not. Its parts have the names of those in the stored state of EDM2's networks.
    """

    def __init__(self, num_features: int = 128) -> None:
        super().__init__()
        self.logvar_fourier = MPFourier(num_features)
        self.logvar_linear = nn.Linear(num_features, 1, bias=False)
        nn.init.zeros_(self.logvar_linear.weight)

    def forward(self, sigma: Tensor) -> Tensor:
        """Noise levels, shape (N,) -> u of that shape, in float32 whatever autocast says."""
        features = self.logvar_fourier((sigma.log() / 4).to(torch.float32))
        weight = self.logvar_linear.weight[0]
        u: Tensor = (features * weight).sum(1) / math.sqrt(len(weight))
        return u


def balanced(losses: Tensor, u: Tensor, num_values: int) -> Tensor:
    """What is minimized in place of the losses: loss / exp(u) + D u, of each image.

    The losses are summed over the D values of an image, so u counts D times: then at the best u, where exp(u) is the
    mean loss a value, every noise level has the loss D, as a new network has under EDM's weighting, and the gradient
    of every level is divided by its own loss.

    Args:
        losses: lambda(sigma) ||D(y + sigma n; sigma) - y||^2, shape (N,).
        u: of the same noise levels, shape (N,).
        num_values: D, channels times pixels.
    """
    return losses / u.exp() + num_values * u
