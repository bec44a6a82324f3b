"""The U-Net of Song et al. (arXiv 2011.13456), which DDPM++ and NCSN++ are settings of."""

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.networks.block import Style
from pipeline.networks.layers import (
    BOX,
    FIR,
    NEAR_ZERO,
    FourierEmbedding,
    as_condition,
    conv,
    group_norm,
    linear,
    one_hot,
    positional_embedding,
)
from pipeline.networks.unet import FilteredConv, UNet, UNetSettings, decoder, encoder, levels_of


class SongUNet(UNet):
    """The U-Net of the VP and VE experiments.

    Args:
        net: settings.
        resolution: height and width of the images.
        channels: of the images.
        num_classes: 0 for a network that ignores labels.
        num_noise: width of the embedding of the noise level.
        ncsn: Fourier embedding, residual encoder and FIR resampling, instead of positional embedding, plain encoder and
            box resampling.
    """

    def __init__(
        self, net: UNetSettings, resolution: int, channels: int, num_classes: int, num_noise: int, *, ncsn: bool
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.num_noise = num_noise
        self.augment_dim = net.augment_dim
        num_emb = net.model_channels * net.channel_mult_emb
        style = Style(num_emb, net.dropout, FIR if ncsn else BOX)
        levels = levels_of(net, resolution)
        self.map_noise = FourierEmbedding(num_noise) if ncsn else None
        self.map_label = linear(num_classes, num_noise) if num_classes else None
        self.map_augment = linear(net.augment_dim, num_noise, bias=False) if net.augment_dim else None
        self.map_layer0 = linear(num_noise, num_emb)
        self.map_layer1 = linear(num_emb, num_emb)

        first = conv(channels, net.model_channels, kernel=3)
        aux = partial(FilteredConv, taps=style.taps) if ncsn else None
        self.enc, skips = encoder(levels, net.num_blocks, style, first, aux)
        blocks = decoder(levels, net.num_blocks, style, skips, attention_in_all=False)
        top = levels[0]
        norm, last = group_norm(top.width), conv(top.width, channels, kernel=3, gain=NEAR_ZERO)
        self.dec = nn.ModuleDict({**blocks, f"{top.name}_aux_norm": norm, f"{top.name}_aux_conv": last})

    def embed(self, c_noise: Tensor, labels: Tensor | None, augment: Tensor | None) -> Tensor:
        if self.map_noise is not None:
            emb: Tensor = self.map_noise(c_noise)
        else:
            emb = positional_embedding(c_noise, self.num_noise)
        emb = emb.to(self.map_layer0.weight.dtype)
        if self.map_label is not None:
            emb = emb + self.map_label(one_hot(labels, self.num_classes, like=emb))
        if self.map_augment is not None:
            emb = emb + self.map_augment(as_condition(augment, self.augment_dim, like=emb))
        return F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))

    def output(self, x: Tensor) -> Tensor:
        *_, norm, last = self.dec.values()
        out: Tensor = last(norm(x, silu=True))
        return out
