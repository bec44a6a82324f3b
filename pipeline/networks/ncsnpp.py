"""NCSN++, the U-Net of the VE experiments, with the capacity as the EDM paper redistributed it.

Source: Song et al., arXiv 2011.13456, in the form of Karras et al., arXiv 2206.00364, table 7 and appendix F.2.
With the default settings it is the paper's network for CIFAR-10 (configurations C to F).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from pipeline.networks.song_unet import SongUNet
from pipeline.networks.unet import check_fit, check_unet


@dataclass(frozen=True)
class NCSNpp:
    """Settings of an NCSN++ U-Net: DDPM++ with a Fourier embedding, residual encoder and FIR [1, 3, 3, 1] resampling.

    Args:
        model_channels: channels at the first level; even.
        channel_mult: channels of each level in units of `model_channels`; every level has half the resolution of the
            one before.
        num_blocks: residual blocks a level; the decoder has one more.
        attn_resolutions: levels with self-attention; the middle of the network has it always.
        channels_per_head: channels of one attention head; None is one head, as in the paper.
        dropout: probability in every block.
        channel_mult_emb: width of the embedding of noise level and label, in units of `model_channels`.
        channel_mult_noise: width of the embedding of the noise level alone, likewise.
        augment_dim: numbers that tell the network how an image was augmented; 9 for a training with `augment`.

    Raises:
        ValueError: a value is out of its range.
    """

    kind: Literal["ncsnpp"] = "ncsnpp"
    model_channels: int = 128
    channel_mult: tuple[int, ...] = (2, 2, 2)
    num_blocks: int = 4
    attn_resolutions: tuple[int, ...] = (16,)
    channels_per_head: int | None = None
    dropout: float = 0.13
    channel_mult_emb: int = 4
    channel_mult_noise: int = 2
    augment_dim: int = 0

    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_unet(self)
        if self.channel_mult_noise < 1:
            raise ValueError(f"channel_mult_noise: must be at least 1 (got {self.channel_mult_noise})")

    def build(self, resolution: int, channels: int, num_classes: int) -> nn.Module:
        """The network with fresh weights and frequencies, drawn from torch's global generator; as `DDPMpp.build`."""
        check_fit(self, resolution, channels, num_classes)
        num_noise = self.model_channels * self.channel_mult_noise
        return SongUNet(self, resolution, channels, num_classes, num_noise, ncsn=True)
