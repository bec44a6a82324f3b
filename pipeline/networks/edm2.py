"""The magnitude-preserving U-Net of EDM2.

Source: Karras et al., "Analyzing and Improving the Training Dynamics of Diffusion Models", arXiv 2312.02696,
configuration G, figure 21 and appendix B.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from pipeline.networks.edm2_layers import Flavor, MPBlock, MPConv, MPFourier, mp_cat, mp_silu, mp_sum
from pipeline.networks.layers import Resample, check_depth, check_shape, one_hot

_BALANCES = ("label_balance", "concat_balance", "res_balance", "attn_balance")


@dataclass(frozen=True)
class EDM2:
    """Settings of a magnitude-preserving U-Net.

    The published sizes XS, S, M, L, XL, XXL have 128, 192, 256, 320, 384, 448 `model_channels`, and a dropout of 0.1
    from M on where they were trained with one. Forced weight normalization is the training's.

    Args:
        model_channels: channels at the first level.
        channel_mult: channels of each level in units of `model_channels`; every level has half the resolution of the
            one before.
        num_blocks: residual blocks a level; the decoder has one more.
        attn_resolutions: levels with self-attention. A number that is no level's resolution does nothing. The middle
            of the network has attention always.
        channels_per_head: channels of one attention head.
        dropout: probability in every block.
        channel_mult_noise: Fourier features of the noise level in units of `model_channels`; empty: as at the first
            level.
        channel_mult_emb: width of the embedding of noise level and label likewise; empty: as at the widest level.
        label_balance: the label's share in the embedding.
        concat_balance: the skip connection's share in the decoder's concatenations.
        res_balance: the residual branch's share in a block.
        attn_balance: the attention's share in a block.
        clip: activations are cut off at this size.

    Raises:
        ValueError: a value is out of its range.
    """

    kind: Literal["edm2"] = "edm2"
    model_channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 3, 4)
    num_blocks: int = 3
    attn_resolutions: tuple[int, ...] = (16, 8)
    channels_per_head: int = 64
    dropout: float = 0.0
    channel_mult_noise: int | None = None
    channel_mult_emb: int | None = None
    label_balance: float = 0.5
    concat_balance: float = 0.5
    res_balance: float = 0.3
    attn_balance: float = 0.3
    clip: float = 256.0

    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        for name in ("model_channels", "num_blocks", "channels_per_head", "channel_mult_noise", "channel_mult_emb"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: must be at least 1 (got {value})")
        if not self.channel_mult or min(self.channel_mult) < 1:
            raise ValueError(f"channel_mult: must be one or more positive numbers (got {self.channel_mult})")
        if self.attn_resolutions and min(self.attn_resolutions) < 1:
            raise ValueError(f"attn_resolutions: must be positive (got {self.attn_resolutions})")
        check_depth("num_blocks", self.num_blocks)
        check_depth("channel_mult", len(self.channel_mult))
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: must be at least 0 and below 1 (got {self.dropout})")
        for name in _BALANCES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: must be from 0 to 1 (got {getattr(self, name)})")
        if not self.clip > 0:
            raise ValueError(f"clip: must be positive (got {self.clip})")

    def build(self, resolution: int, channels: int, num_classes: int) -> nn.Module:
        """The network with fresh weights and Fourier features, drawn from torch's global generator.

        Args:
            resolution: height and width of the images.
            channels: of the images.
            num_classes: 0 for a network that ignores labels.

        Raises:
            ValueError: the resolution cannot be halved as often as the settings ask, the heads do not fit a level
                with attention, or a number is not positive.
        """
        check_shape(resolution, channels, num_classes)
        factor = 2 ** (len(self.channel_mult) - 1)
        if resolution % factor:
            raise ValueError(
                f"channel_mult: {len(self.channel_mult)} levels need a resolution that is a multiple of {factor} "
                f"(got {resolution}): use fewer levels or resize the images"
            )
        levels = _levels(self, resolution)
        for level in levels:
            if (level.has_attention or level is levels[-1]) and level.width % self.channels_per_head:
                raise ValueError(
                    f"channels_per_head: must divide the channels of every level with attention, {level.width} of "
                    f"them at {level.name} (got {self.channels_per_head})"
                )
        return EDM2Net(self, levels, channels, num_classes)


@dataclass(frozen=True)
class _Level:
    """One resolution of the U-Net."""

    resolution: int
    width: int
    has_attention: bool

    @property
    def name(self) -> str:
        return f"{self.resolution}x{self.resolution}"


def _levels(net: EDM2, resolution: int) -> list[_Level]:
    sizes = [resolution >> index for index in range(len(net.channel_mult))]
    return [
        _Level(size, net.model_channels * mult, size in net.attn_resolutions)
        for size, mult in zip(sizes, net.channel_mult, strict=True)
    ]


class EDM2Net(nn.Module):
    """The network that `EDM2` describes. It runs in the type of its parameters, or as autocast has it."""

    def __init__(self, net: EDM2, levels: list[_Level], channels: int, num_classes: int) -> None:
        super().__init__()
        self.net = net
        self.num_classes = num_classes
        widest = max(level.width for level in levels)
        num_noise = net.model_channels * net.channel_mult_noise if net.channel_mult_noise else levels[0].width
        self.num_emb = net.model_channels * net.channel_mult_emb if net.channel_mult_emb else widest
        self.emb_fourier = MPFourier(num_noise)
        self.emb_noise = MPConv(num_noise, self.num_emb)
        self.emb_label = MPConv(num_classes, self.num_emb) if num_classes else None
        encoder, skips = self._encoder(levels, channels)
        decoder = self._decoder(levels, skips)
        self._takes_skip = tuple("_block" in name for name in decoder)
        self.enc = nn.ModuleDict(encoder)
        self.dec = nn.ModuleDict(decoder)
        self.out_conv = MPConv(levels[0].width, channels, kernel=3)
        self.out_gain = nn.Parameter(torch.zeros(()))

    def _block(
        self, num_in: int, num_out: int, flavor: Flavor, attention: bool = False, resample: Resample = "none"
    ) -> MPBlock:
        net = self.net
        return MPBlock(
            num_in, num_out, self.num_emb, flavor=flavor, resample=resample, dropout=net.dropout, clip=net.clip,
            num_heads=num_out // net.channels_per_head if attention else 0,
            res_balance=net.res_balance, attn_balance=net.attn_balance,
        )  # fmt: skip

    def _encoder(self, levels: list[_Level], channels: int) -> tuple[dict[str, nn.Module], list[int]]:
        """The blocks by name, and the channels of each one's output, which the decoder takes."""
        top = levels[0]
        blocks: dict[str, nn.Module] = {f"{top.name}_conv": MPConv(channels + 1, top.width, kernel=3)}
        skips = [top.width]
        for level in levels:
            if level is not top:
                blocks[f"{level.name}_down"] = self._block(skips[-1], skips[-1], "enc", resample="down")
                skips.append(skips[-1])
            for index in range(self.net.num_blocks):
                blocks[f"{level.name}_block{index}"] = self._block(skips[-1], level.width, "enc", level.has_attention)
                skips.append(level.width)
        return blocks, skips

    def _decoder(self, levels: list[_Level], skips: list[int]) -> dict[str, nn.Module]:
        """The blocks by name: the two in the middle, then from the lowest resolution to the highest."""
        lowest = levels[-1]
        width, skips = lowest.width, list(skips)
        blocks: dict[str, nn.Module] = {
            f"{lowest.name}_in0": self._block(width, width, "dec", attention=True),
            f"{lowest.name}_in1": self._block(width, width, "dec"),
        }
        for level in reversed(levels):
            if level is not lowest:
                blocks[f"{level.name}_up"] = self._block(width, width, "dec", resample="up")
            for index in range(self.net.num_blocks + 1):
                num_in = width + skips.pop()
                blocks[f"{level.name}_block{index}"] = self._block(num_in, level.width, "dec", level.has_attention)
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
        x = x.to(self.out_conv.weight.dtype)
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)  # in place of biases
        first, *encoder = self.enc.values()
        x = first(x)
        skips = [x]
        for block in encoder:
            x = block(x, emb)
            skips.append(x)
        for block, takes_skip in zip(self.dec.values(), self._takes_skip, strict=True):
            x = block(mp_cat(x, skips.pop(), self.net.concat_balance) if takes_skip else x, emb)
        out: Tensor = self.out_conv(x, self.out_gain)
        return out

    def _embed(self, c_noise: Tensor, labels: Tensor | None) -> Tensor:
        """The embedding of noise level and label, shape (N, num_emb). No label is the label zero."""
        emb = self.emb_noise(self.emb_fourier(c_noise).to(self.emb_noise.weight.dtype))
        if self.emb_label is not None:
            label = self.emb_label(one_hot(labels, self.num_classes, like=emb))
            emb = mp_sum(emb, label, self.net.label_balance)
        return mp_silu(emb)
