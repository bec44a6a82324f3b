"""From the sampler's states at sigma = 0 to images: decoded first (pixels are images already), then quantized."""

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor


class DecoderShape(Protocol):
    def decode(self, states: Tensor) -> Tensor:
        """Images of shape (N, C, H, W), float, in the range [-1, 1] of the model, of states of shape (N, ...)."""
        ...


@dataclass(frozen=True)
class PixelDecoder:
    """The states are the images."""

    kind: Literal["pixels"] = "pixels"
    revision: ClassVar[int] = 1

    def decode(self, states: Tensor) -> Tensor:
        return states


Decoder = PixelDecoder


QUANTIZATION = "uint8 of x * 127.5 + 128, truncated"  # in words: part of what a number was measured of


def quantize(images: Tensor) -> Tensor:
    """uint8 images as the published figures are made: x * 127.5 + 128, clipped to 0 ... 255, truncated."""
    return (images * 127.5 + 128).clip(0, 255).to(torch.uint8)
