"""DDPM++, the U-Net of the VP experiments, with the capacity as the EDM paper redistributed it.

Source: Song et al., arXiv 2011.13456, in the form of Karras et al., arXiv 2206.00364, table 7 and appendix F.2.
With the default settings it is the paper's network for CIFAR-10 (configurations C to F).
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import nn

from pipeline.networks.song_unet import SongUNet
from pipeline.networks.unet import check_fit, check_unet


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
        augment_dim: numbers that tell the network how an image was augmented; 9 for a training with `augment`.

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
    augment_dim: int = field(default=0, metadata={"since": 2})

    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_unet(self)

    def build(self, resolution: int, channels: int, num_classes: int) -> nn.Module:
        """The network with fresh weights, drawn from torch's global generator.

        Args:
            resolution: height and width of the images.
            channels: of the images.
            num_classes: 0 for a network that ignores labels.

        Raises:
            ValueError: the resolution cannot be halved as often as the settings ask, or a number is not positive.
        """
        check_fit(self, resolution, channels, num_classes)
        return SongUNet(self, resolution, channels, num_classes, self.model_channels, ncsn=False)
