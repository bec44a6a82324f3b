"""ADM, the U-Net of the ImageNet-64 experiments.

Source: Dhariwal and Nichol, arXiv 2105.05233, in the form of Karras et al., arXiv 2206.00364, table 7 and appendix F.2.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.networks.block import Style
from pipeline.networks.layers import as_condition, conv, group_norm, linear, one_hot, positional_embedding
from pipeline.networks.unet import UNet, check_fit, check_unet, decoder, encoder, levels_of

_NORM_EPS = 1e-5


@dataclass(frozen=True)
class ADM:
    """Settings of an ADM U-Net: attention at several levels, and norms that the embedding scales and shifts.

    Args:
        model_channels: channels at the first level and width of the noise embedding; even.
        channel_mult: channels of each level in units of `model_channels`; every level has half the resolution of the
            one before.
        num_blocks: residual blocks a level; the decoder has one more.
        attn_resolutions: levels with self-attention; the middle of the network has it always.
        channels_per_head: channels of one attention head; None is one head.
        dropout: probability in every block.
        channel_mult_emb: width of the embedding of noise level and label, in units of `model_channels`.
        augment_dim: numbers that tell the network how an image was augmented; 9 for a training with `augment`.

    Raises:
        ValueError: a value is out of its range.
    """

    kind: Literal["adm"] = "adm"
    model_channels: int = 192
    channel_mult: tuple[int, ...] = (1, 2, 3, 4)
    num_blocks: int = 3
    attn_resolutions: tuple[int, ...] = (32, 16, 8)
    channels_per_head: int | None = 64
    dropout: float = 0.10
    channel_mult_emb: int = 4
    augment_dim: int = 0

    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_unet(self)

    def build(self, resolution: int, channels: int, num_classes: int) -> nn.Module:
        """The network with fresh weights, drawn from torch's global generator; as `DDPMpp.build`."""
        check_fit(self, resolution, channels, num_classes)
        return ADMNet(self, resolution, channels, num_classes)


class ADMNet(UNet):
    """The network that `ADM` describes."""

    def __init__(self, net: ADM, resolution: int, channels: int, num_classes: int) -> None:
        super().__init__()
        self.net = net
        self.num_classes = num_classes
        num_emb = net.model_channels * net.channel_mult_emb
        style = Style(
            num_emb, net.dropout, adaptive=True, project=False, skip_scale=1.0, norm_eps=_NORM_EPS, init="fan_in",
            init_attention=1.0, init_last=0.0,
        )  # fmt: skip
        levels = levels_of(net, resolution)
        self.map_augment = (
            linear(net.augment_dim, net.model_channels, 0.0, "fan_in", bias=False) if net.augment_dim else None
        )
        self.map_layer0 = linear(net.model_channels, num_emb, init="fan_in")
        self.map_layer1 = linear(num_emb, num_emb, init="fan_in")
        self.map_label = linear(num_classes, num_emb, bias=False) if num_classes else None
        if self.map_label is not None:
            nn.init.normal_(self.map_label.weight)

        top = levels[0]
        first = conv(channels, top.width, kernel=3, init="fan_in")
        self.enc, skips = encoder(levels, net.num_blocks, style, first)
        self.dec = nn.ModuleDict(decoder(levels, net.num_blocks, style, skips, attention_in_all=True))
        self.out_norm = group_norm(top.width, _NORM_EPS)
        self.out_conv = conv(top.width, channels, kernel=3, gain=0.0, init="fan_in")

    def embed(self, c_noise: Tensor, labels: Tensor | None, augment: Tensor | None) -> Tensor:
        sines, cosines = positional_embedding(c_noise, self.net.model_channels, endpoint=False).chunk(2, dim=1)
        emb = torch.cat([cosines, sines], dim=1).to(self.map_layer0.weight.dtype)
        if self.map_augment is not None:
            emb = emb + self.map_augment(as_condition(augment, self.net.augment_dim, like=emb))
        emb = self.map_layer1(F.silu(self.map_layer0(emb)))
        if self.map_label is not None:
            emb = emb + self.map_label(one_hot(labels, self.num_classes, like=emb, entry=1.0))
        return F.silu(emb)

    def output(self, x: Tensor) -> Tensor:
        out: Tensor = self.out_conv(self.out_norm(x, silu=True))
        return out
