"""DDPM++, the U-Net of the VP experiments, with the capacity as the EDM paper redistributed it.

Source: Song et al., arXiv 2011.13456, in the form of Karras et al., arXiv 2206.00364, table 7 and appendix F.2.
With the default settings it is the paper's network for CIFAR-10 (configurations C to F).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.networks.layers import (
    NEAR_ZERO,
    Block,
    Resample,
    check_shape,
    conv,
    group_norm,
    linear,
    one_hot,
    positional_embedding,
)


@dataclass(frozen=True)
class DDPMpp:
    """Settings of a DDPM++ U-Net.

    Args:
        model_channels: channels at the first level and width of the noise embedding; even.
        channel_mult: channels of each level in units of `model_channels`; every level has half the resolution of the
            one before.
        num_blocks: residual blocks a level; the decoder has one more.
        attn_resolutions: levels with self-attention. A number that is no level's resolution does nothing, so one
            list serves several image sizes. The middle of the network has attention always.
        channels_per_head: channels of one attention head; None is one head, as in the paper.
        dropout: probability in every block.
        channel_mult_emb: width of the embedding of noise level and label, in units of `model_channels`.

    Raises:
        ValueError: a value is out of its range.
    """

    kind: Literal["ddpmpp"] = "ddpmpp"
    model_channels: int = 128
    channel_mult: tuple[int, ...] = (2, 2, 2)
    num_blocks: int = 4
    attn_resolutions: tuple[int, ...] = (16,)
    channels_per_head: int | None = None
    dropout: float = 0.13
    channel_mult_emb: int = 4

    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.model_channels < 4 or self.model_channels % 2:
            raise ValueError(f"model_channels: must be even and at least 4 (got {self.model_channels})")
        if not self.channel_mult or min(self.channel_mult) < 1:
            raise ValueError(f"channel_mult: must be one or more positive numbers (got {self.channel_mult})")
        if self.num_blocks < 1:
            raise ValueError(f"num_blocks: must be at least 1 (got {self.num_blocks})")
        if self.attn_resolutions and min(self.attn_resolutions) < 1:
            raise ValueError(f"attn_resolutions: must be positive (got {self.attn_resolutions})")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: must be at least 0 and below 1 (got {self.dropout})")
        if self.channel_mult_emb < 1:
            raise ValueError(f"channel_mult_emb: must be at least 1 (got {self.channel_mult_emb})")
        self._check_heads()

    def _check_heads(self) -> None:
        size = self.channels_per_head
        if size is None:
            return
        if size < 1:
            raise ValueError(f"channels_per_head: must be at least 1 (got {size})")
        for mult in self.channel_mult:
            if (self.model_channels * mult) % size:
                raise ValueError(
                    f"channels_per_head: must divide the channels of every level, {self.model_channels * mult} of "
                    f"them at one (got {size})"
                )

    def build(self, resolution: int, channels: int, num_classes: int) -> nn.Module:
        """The network with fresh weights, drawn from torch's global generator.

        Args:
            resolution: height and width of the images.
            channels: of the images.
            num_classes: 0 for a network that ignores labels.

        Raises:
            ValueError: the resolution cannot be halved as often as the settings ask, or a number is not positive.
        """
        check_shape(resolution, channels, num_classes)
        factor = 2 ** (len(self.channel_mult) - 1)
        if resolution % factor:
            raise ValueError(
                f"channel_mult: {len(self.channel_mult)} levels need a resolution that is a multiple of {factor} "
                f"(got {resolution}): use fewer levels or resize the images"
            )
        return DDPMppNet(self, resolution, channels, num_classes)


@dataclass(frozen=True)
class _Level:
    """One resolution of the U-Net."""

    resolution: int
    width: int
    heads: int  # of attention in the middle of the network
    heads_in_blocks: int  # 0 where the level's blocks have no attention

    @property
    def name(self) -> str:
        return f"{self.resolution}x{self.resolution}"


def _levels(net: DDPMpp, resolution: int) -> list[_Level]:
    levels = []
    for index, mult in enumerate(net.channel_mult):
        size, width = resolution >> index, net.model_channels * mult
        num_heads = width // net.channels_per_head if net.channels_per_head else 1
        levels.append(_Level(size, width, num_heads, num_heads if size in net.attn_resolutions else 0))
    return levels


class DDPMppNet(nn.Module):
    """The network that `DDPMpp` describes. It runs in the type of its parameters, or as autocast has it."""

    def __init__(self, net: DDPMpp, resolution: int, channels: int, num_classes: int) -> None:
        super().__init__()
        self.net = net
        self.num_classes = num_classes
        self.num_emb = net.model_channels * net.channel_mult_emb
        levels = _levels(net, resolution)
        top = levels[0]
        self.map_label = linear(num_classes, net.model_channels) if num_classes else None
        self.map_layer0 = linear(net.model_channels, self.num_emb)
        self.map_layer1 = linear(self.num_emb, self.num_emb)

        first = conv(channels, net.model_channels, kernel=3)
        encoder, skips = self._encoder(levels)
        self.enc = nn.ModuleDict({f"{top.name}_conv": first, **encoder})

        decoder = self._decoder(levels, skips)
        self._takes_skip = tuple("_block" in name for name in decoder)
        norm, last = group_norm(top.width), conv(top.width, channels, kernel=3, gain=NEAR_ZERO)
        self.dec = nn.ModuleDict({**decoder, f"{top.name}_aux_norm": norm, f"{top.name}_aux_conv": last})

    def _block(self, num_in: int, num_out: int, num_heads: int = 0, resample: Resample = "none") -> Block:
        return Block(num_in, num_out, self.num_emb, resample=resample, num_heads=num_heads, dropout=self.net.dropout)

    def _encoder(self, levels: list[_Level]) -> tuple[dict[str, nn.Module], list[int]]:
        """The blocks by name; and the channels of each output that the decoder takes, the first convolution's too."""
        blocks: dict[str, nn.Module] = {}
        skips = [self.net.model_channels]
        for level in levels:
            if blocks:
                blocks[f"{level.name}_down"] = self._block(skips[-1], skips[-1], resample="down")
                skips.append(skips[-1])
            for index in range(self.net.num_blocks):
                blocks[f"{level.name}_block{index}"] = self._block(skips[-1], level.width, level.heads_in_blocks)
                skips.append(level.width)
        return blocks, skips

    def _decoder(self, levels: list[_Level], skips: list[int]) -> dict[str, nn.Module]:
        """The blocks by name: the two in the middle, then from the lowest resolution to the highest."""
        lowest = levels[-1]
        width, skips = lowest.width, list(skips)
        blocks: dict[str, nn.Module] = {
            f"{lowest.name}_in0": self._block(width, width, lowest.heads),
            f"{lowest.name}_in1": self._block(width, width),
        }
        for level in reversed(levels):
            if level is not lowest:
                blocks[f"{level.name}_up"] = self._block(width, width, resample="up")
            for index in range(self.net.num_blocks + 1):
                heads = level.heads_in_blocks if index == self.net.num_blocks else 0
                blocks[f"{level.name}_block{index}"] = self._block(width + skips.pop(), level.width, heads)
                width = level.width
        return blocks

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """The raw output F of the network.

        Args:
            x: scaled noisy images, shape (N, C, H, W).
            c_noise: noise condition, shape (N,).
            labels: classes, int64 of shape (N,), -1 for none; None is -1 for all. Ignored where num_classes is 0.
                They are not checked here, see `layers.one_hot`.

        Returns:
            Shape (N, C, H, W), in the type that the network runs in.
        """
        emb = self._embed(c_noise, labels)
        first, *encoder = self.enc.values()
        *decoder, norm, last = self.dec.values()

        x = first(x.to(self.map_layer0.weight.dtype))
        skips = [x]
        for block in encoder:
            x = block(x, emb)
            skips.append(x)
        for block, takes_skip in zip(decoder, self._takes_skip, strict=True):
            x = block(torch.cat([x, skips.pop()], dim=1) if takes_skip else x, emb)
        out: Tensor = last(F.silu(norm(x)))
        return out

    def _embed(self, c_noise: Tensor, labels: Tensor | None) -> Tensor:
        """The embedding of noise level and label, shape (N, num_emb)."""
        emb = positional_embedding(c_noise, self.net.model_channels).to(self.map_layer0.weight.dtype)
        if self.map_label is not None:
            emb = emb + self.map_label(one_hot(labels, self.num_classes, like=emb))
        return F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))
