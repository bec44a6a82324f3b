"""The networks F_theta inside the denoiser: settings that build a `torch.nn.Module`.

`settings.build(resolution, channels, num_classes)` returns a module called as `module(x, c_noise, labels)` with x of
shape (N, C, H, W), c_noise of shape (N,) and int64 labels of shape (N,), -1 for none (or None for none at all); it
returns a tensor of the shape of x. One whose settings have an `augment_dim` above 0 takes a fourth argument of shape
(N, augment_dim), what was done to the images in training; left out it is zeros. Preconditioning is not the network's:
see `pipeline.diffusion.denoiser`.
`Network` is the union of all settings; a new network is one file and one more member here.
"""

from pipeline.networks.adm import ADM
from pipeline.networks.ddpmpp import DDPMpp
from pipeline.networks.diffusers_unet2d import DiffusersUNet2D
from pipeline.networks.edm2 import EDM2
from pipeline.networks.mlp import MLP
from pipeline.networks.ncsnpp import NCSNpp

Network = DDPMpp | NCSNpp | ADM | EDM2 | DiffusersUNet2D | MLP

__all__ = ["ADM", "EDM2", "MLP", "DDPMpp", "DiffusersUNet2D", "NCSNpp", "Network"]
