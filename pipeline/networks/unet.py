"""What the U-Nets share: the checks of their settings, and the encoder and decoder with their skip connections.

Names of blocks are the published ones, `<height>x<width>_<role>`: a decoder's `_block` takes the output of an encoder's
part as more channels, the others do not.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from pipeline.networks.block import Block, Style
from pipeline.networks.layers import SKIP_SCALE, Filter, check_depth, check_shape


class UNetSettings(Protocol):
    """The settings that all U-Nets have."""

    @property
    def model_channels(self) -> int: ...

    @property
    def channel_mult(self) -> tuple[int, ...]: ...

    @property
    def num_blocks(self) -> int: ...

    @property
    def attn_resolutions(self) -> tuple[int, ...]: ...

    @property
    def channels_per_head(self) -> int | None: ...

    @property
    def dropout(self) -> float: ...

    @property
    def channel_mult_emb(self) -> int: ...

    @property
    def augment_dim(self) -> int: ...


def check_unet(net: UNetSettings) -> None:
    """Raises ValueError where a value is out of its range."""
    if net.model_channels < 4 or net.model_channels % 2:
        raise ValueError(f"model_channels: must be even and at least 4 (got {net.model_channels})")
    if not net.channel_mult or min(net.channel_mult) < 1:
        raise ValueError(f"channel_mult: must be one or more positive numbers (got {net.channel_mult})")
    if net.attn_resolutions and min(net.attn_resolutions) < 1:
        raise ValueError(f"attn_resolutions: must be positive (got {net.attn_resolutions})")
    if not 0 <= net.dropout < 1:
        raise ValueError(f"dropout: must be at least 0 and below 1 (got {net.dropout})")
    for key, least in (("num_blocks", 1), ("channel_mult_emb", 1), ("augment_dim", 0)):
        if getattr(net, key) < least:
            raise ValueError(f"{key}: must be at least {least} (got {getattr(net, key)})")
    check_depth("num_blocks", net.num_blocks)
    check_depth("channel_mult", len(net.channel_mult))
    _check_heads(net)


def _check_heads(net: UNetSettings) -> None:
    size = net.channels_per_head
    if size is None:
        return
    if size < 1:
        raise ValueError(f"channels_per_head: must be at least 1 (got {size})")
    for mult in net.channel_mult:
        if (net.model_channels * mult) % size:
            raise ValueError(
                f"channels_per_head: must divide the channels of every level, {net.model_channels * mult} of "
                f"them at one (got {size})"
            )


def check_fit(net: UNetSettings, resolution: int, channels: int, num_classes: int) -> None:
    """Raises ValueError where the network cannot be built for images and labels of this shape."""
    check_shape(resolution, channels, num_classes)
    factor = 2 ** (len(net.channel_mult) - 1)
    if resolution % factor:
        raise ValueError(
            f"channel_mult: {len(net.channel_mult)} levels need a resolution that is a multiple of {factor} "
            f"(got {resolution}): use fewer levels or resize the images"
        )


@dataclass(frozen=True)
class Level:
    """One resolution of the U-Net."""

    resolution: int
    width: int
    heads: int  # of attention in the middle of the network
    heads_in_blocks: int  # 0 where the level's blocks have no attention

    @property
    def name(self) -> str:
        return f"{self.resolution}x{self.resolution}"


def levels_of(net: UNetSettings, resolution: int) -> list[Level]:
    """From the images' resolution to the lowest."""
    levels = []
    for index, mult in enumerate(net.channel_mult):
        size, width = resolution >> index, net.model_channels * mult
        num_heads = width // net.channels_per_head if net.channels_per_head else 1
        levels.append(Level(size, width, num_heads, num_heads if size in net.attn_resolutions else 0))
    return levels


MakeAux = Callable[[int, int], nn.Module]


def encoder(
    levels: list[Level], num_blocks: int, style: Style, first: nn.Conv2d, aux: MakeAux | None = None
) -> tuple[nn.ModuleDict, list[int]]:
    """The encoder's parts by name, and the channels of each output that the decoder takes.

    Args:
        levels: from the highest resolution.
        num_blocks: a level.
        style: of the blocks.
        first: the convolution that the images go through.
        aux: makes the path by which a residual encoder hands the images down a level, from channels in to channels out.
    """
    parts: dict[str, nn.Module] = {f"{levels[0].name}_conv": first}
    skips, num_aux = [first.out_channels], first.in_channels
    for level in levels:
        if level is not levels[0]:
            parts[f"{level.name}_down"] = Block(skips[-1], skips[-1], style, resample="down")
            skips.append(skips[-1])
            if aux is not None:
                parts[f"{level.name}_aux_residual"] = aux(num_aux, skips[-1])
                num_aux = skips[-1]
        for index in range(num_blocks):
            parts[f"{level.name}_block{index}"] = Block(skips[-1], level.width, style, level.heads_in_blocks)
            skips.append(level.width)
    return nn.ModuleDict(parts), skips


def decoder(
    levels: list[Level], num_blocks: int, style: Style, skips: list[int], *, attention_in_all: bool
) -> dict[str, nn.Module]:
    """The blocks by name: the two in the middle, then from the lowest resolution to the highest.

    Args:
        levels: from the highest resolution.
        num_blocks: a level of the encoder; the decoder has one more.
        style: of the blocks.
        skips: from `encoder`.
        attention_in_all: of a level with attention all blocks have it, or only the last.
    """
    lowest, skips = levels[-1], list(skips)
    width = lowest.width
    blocks: dict[str, nn.Module] = {
        f"{lowest.name}_in0": Block(width, width, style, lowest.heads),
        f"{lowest.name}_in1": Block(width, width, style),
    }
    for level in reversed(levels):
        if level is not lowest:
            blocks[f"{level.name}_up"] = Block(width, width, style, resample="up")
        for index in range(num_blocks + 1):
            heads = level.heads_in_blocks if attention_in_all or index == num_blocks else 0
            blocks[f"{level.name}_block{index}"] = Block(width + skips.pop(), level.width, style, heads)
            width = level.width
    return blocks


class FilteredConv(nn.Conv2d):
    """A 3x3 convolution, then a filter that halves the resolution, as one operation.

    Zeros are put around the image once, for both, so the filter meets what the convolution answers beyond the border.
    The bias is added at the end.
    """

    def __init__(self, num_in: int, num_out: int, taps: tuple[int, ...]) -> None:
        super().__init__(num_in, num_out, 3, padding=len(taps) // 2)
        self.filter = Filter("down", taps, overlap=0)
        nn.init.xavier_uniform_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, num_in, H, W) -> (N, num_out, H/2, W/2)."""
        y: Tensor = self.filter(nn.functional.conv2d(x, self.weight, padding=self.padding))
        return y if self.bias is None else y + self.bias[:, None, None]


class UNet(nn.Module):
    """A U-Net without its ends, which its kinds add: `embed` and `output`. It runs in the type of its parameters, or as
    autocast has it."""

    enc: nn.ModuleDict
    dec: nn.ModuleDict

    def embed(self, c_noise: Tensor, labels: Tensor | None, augment: Tensor | None) -> Tensor:
        """The embedding of noise level, label and augmentation, shape (N, num_emb), in the network's type."""
        raise NotImplementedError

    def output(self, x: Tensor) -> Tensor:
        """From the last block's output to F."""
        raise NotImplementedError

    def forward(
        self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None, augment: Tensor | None = None
    ) -> Tensor:
        """The raw output F of the network.

        Args:
            x: scaled noisy images, shape (N, C, H, W).
            c_noise: noise condition, shape (N,).
            labels: classes, int64 of shape (N,), -1 for none; None is -1 for all. Ignored where num_classes is 0.
                They are not checked here, see `layers.one_hot`.
            augment: what was done to the images, shape (N, augment_dim); None is nothing. Ignored where augment_dim
                is 0.

        Returns:
            Shape (N, C, H, W), in the type that the network runs in.
        """
        emb = self.embed(c_noise, labels, augment)
        x, skips = self._encode(x.to(emb.dtype), emb)
        for name, block in self.dec.items():
            if isinstance(block, Block):
                x = block(torch.cat([x, skips.pop()], dim=1) if "_block" in name else x, emb)
        return self.output(x)

    def _encode(self, x: Tensor, emb: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The encoder's output, and all outputs that the decoder takes."""
        aux = x
        skips: list[Tensor] = []
        for part in self.enc.values():
            if isinstance(part, FilteredConv):
                # Joins the output before it: the decoder takes their sum.
                aux = x = skips[-1] = (x + part(aux)) * SKIP_SCALE
            else:
                x = part(x, emb) if isinstance(part, Block) else part(x)
                skips.append(x)
        return x, skips
