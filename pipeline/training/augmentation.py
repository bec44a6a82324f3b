"""Non-leaky augmentation: images are changed geometrically and the network is told how, so it can leave it when it
samples (Karras et al. 2022, appendix F.2 and table 6, after arXiv 2006.06676).

An image may be mirrored (always on the table), turned upside down, scaled, rotated, stretched along a direction and
moved, in this order, each with probability p by itself. The flips are exact. The rest is one affine map, resampled by
bicubic interpolation in float64 with mirrored borders, without a low-pass filter, as scales are near 1 (2^0.2 is one
standard deviation). A move by whole pixels is exact to rounding, and images that are not mapped keep their bits.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.diffusion.seeds import AUGMENTATION, draw, uniform

NUM_CONDITIONS = 9
_LOG_SCALE = 0.2  # standard deviation of the binary logarithm of scale and stretch
_SHIFT = 0.125  # standard deviation of a move, in image widths


class Augmentation(NamedTuple):
    """What is done to each of N images, float64 of shape (N,) each; zeros do nothing."""

    mirrored: Tensor  # 0 or 1
    overturned: Tensor  # 0 or 1
    scale: Tensor  # larger by 2^(0.2 scale)
    angle: Tensor  # of the rotation from the x to the y axis (down)
    stretch: Tensor  # longer by 2^(0.2 stretch) along a direction, shorter by as much across it
    direction: Tensor  # an angle
    shift_x: Tensor  # in units of an eighth of the width
    shift_y: Tensor

    @property
    def condition(self) -> Tensor:
        """The nine numbers that the network is told, float32 of shape (N, 9)."""
        rotation = (self.angle.cos() - 1, self.angle.sin())
        stretch = (self.stretch * self.direction.cos(), self.stretch * self.direction.sin())
        numbers = (self.mirrored, self.overturned, self.scale, *rotation, *stretch, self.shift_x, self.shift_y)
        return torch.stack(numbers, dim=1).to(torch.float32)

    def apply(self, y: Tensor) -> Tensor:
        """The changed images, of y's shape (N, C, H, W), square."""
        y = torch.where(_column(self.mirrored) == 1, y.flip(3), y)
        y = torch.where(_column(self.overturned) == 1, y.flip(2), y)
        moved = (self.scale != 0) | (self.angle != 0) | (self.stretch != 0) | (self.shift_x != 0) | (self.shift_y != 0)
        where = F.affine_grid(self._sources(), list(y.shape), align_corners=False)
        sampled = F.grid_sample(y.to(torch.float64), where, "bicubic", "reflection", align_corners=False)
        return torch.where(_column(moved), sampled.to(y.dtype), y)

    def _sources(self) -> Tensor:
        """Where a place of the result comes from: the inverse map, (N, 2, 3), in half image widths off the middle."""
        shrink = torch.exp2(-_LOG_SCALE * self.scale)
        along, across = torch.exp2(-_LOG_SCALE * self.stretch), torch.exp2(_LOG_SCALE * self.stretch)
        there, back = _rotation(self.direction), _rotation(-self.direction)
        unstretch = there @ torch.diag_embed(torch.stack([along, across], dim=1)) @ back
        inverse = shrink[:, None, None] * _rotation(-self.angle) @ unstretch
        shift = 2 * _SHIFT * torch.stack([self.shift_x, self.shift_y], dim=1)
        return torch.cat([inverse, -inverse @ shift[:, :, None]], dim=2)


def draw_augmentation(seed: int, position: Tensor, p: float) -> Augmentation:
    """What is done to the images at positions of the stream, each by itself a function of (seed, position).

    Args:
        seed: of the training.
        position: int64 of shape (N,).
        p: the probability of each change but the mirroring, which half of the images get.
    """
    key = torch.full_like(position, seed)
    u = uniform(key, draw(AUGMENTATION, 0) + position, 13).unbind(1)
    gates = [(gate < p).to(torch.float64) for gate in u[8:13]]
    overturn, scale, rotate, stretch, shift = gates
    return Augmentation(
        mirrored=(u[0] < 0.5).to(torch.float64),
        overturned=overturn * (u[1] < 0.5),
        scale=scale * torch.special.ndtri(u[2]),
        angle=rotate * math.pi * (2 * u[3] - 1),
        stretch=stretch * torch.special.ndtri(u[4]),
        direction=stretch * math.pi * (2 * u[5] - 1),
        shift_x=shift * torch.special.ndtri(u[6]),
        shift_y=shift * torch.special.ndtri(u[7]),
    )


def _rotation(angle: Tensor) -> Tensor:
    """Matrices of shape (N, 2, 2)."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, -sin], dim=1), torch.stack([sin, cos], dim=1)], dim=1)


def _column(values: Tensor) -> Tensor:
    return values[:, None, None, None]
