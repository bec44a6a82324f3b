"""The `UNet2DModel` of the library diffusers, so that networks trained with it can be sampled here.

The network is diffusers' own class, built from the settings in a checkpoint's config.json (the extra `diffusers`).
"""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from pipeline.errors import SettingsError
from pipeline.networks.layers import check_shape

DownBlock = Literal[
    "DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D", "SkipDownBlock2D", "AttnSkipDownBlock2D"
]
UpBlock = Literal["UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D", "SkipUpBlock2D", "AttnSkipUpBlock2D"]


@dataclass(frozen=True)
class DiffusersUNet2D:
    """Settings of a diffusers `UNet2DModel`, under its own names and with its own defaults.

    It is the U-Net of DDPM (Ho et al. 2020, arXiv 2006.11239). Left out are those that images and labels give
    (`sample_size`, `in_channels`, `num_class_embeds`). The time embedding is positional and of the level's index. A
    label of none adds nothing to the embedding.

    Args:
        out_channels: empty for as many as the image has; twice as many where a variance was learned, which is not used.

    Raises:
        ValueError: a value is out of its range.
    """

    kind: Literal["diffusers_unet2d"] = "diffusers_unet2d"
    out_channels: int | None = None
    center_input_sample: bool = False
    time_embedding_dim: int | None = None
    freq_shift: float = 0
    flip_sin_to_cos: bool = True
    down_block_types: tuple[DownBlock, ...] = ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D")
    mid_block_type: Literal["UNetMidBlock2D"] | None = "UNetMidBlock2D"
    up_block_types: tuple[UpBlock, ...] = ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D")
    block_out_channels: tuple[int, ...] = (224, 448, 672, 896)
    layers_per_block: int = 2
    mid_block_scale_factor: float = 1
    downsample_padding: int = 1
    downsample_type: Literal["conv", "resnet"] = "conv"
    upsample_type: Literal["conv", "resnet"] = "conv"
    dropout: float = 0.0
    act_fn: Literal["silu", "swish", "mish", "gelu", "relu"] = "silu"
    attention_head_dim: int | None = 8
    norm_num_groups: int = 32
    attn_norm_num_groups: int | None = None
    norm_eps: float = 1e-5
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    add_attention: bool = True

    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not 1 <= len(self.block_out_channels) <= 16 or min(self.block_out_channels) < 1:
            raise ValueError(f"block_out_channels: must be 1 to 16 positive numbers (got {self.block_out_channels})")
        for name in ("down_block_types", "up_block_types"):
            if len(getattr(self, name)) != len(self.block_out_channels):
                raise ValueError(f"{name}: must be as many as block_out_channels (got {getattr(self, name)})")
        if not 1 <= self.layers_per_block <= 64:
            raise ValueError(f"layers_per_block: must be 1 to 64 (got {self.layers_per_block})")
        if self.norm_num_groups < 1:
            raise ValueError(f"norm_num_groups: must be at least 1 (got {self.norm_num_groups})")

    def build(self, resolution: int, channels: int, num_classes: int) -> nn.Module:
        """The network with fresh weights, drawn from torch's global generator.

        Raises:
            SettingsError: diffusers is not installed.
            ValueError: the settings do not go together, or not with this resolution.
        """
        check_shape(resolution, channels, num_classes)
        factor = 2 ** (len(self.block_out_channels) - 1)
        if resolution % factor:
            raise ValueError(
                f"block_out_channels: needs a resolution that is a multiple of {factor} (got {resolution})"
            )
        return DiffusersUNet2DNet(self, resolution, channels, num_classes)


class DiffusersUNet2DNet(nn.Module):
    """The network that `DiffusersUNet2D` describes; its parameters have diffusers' names after `unet.`."""

    def __init__(self, net: DiffusersUNet2D, resolution: int, channels: int, num_classes: int) -> None:
        super().__init__()
        config = {name: value for name, value in asdict(net).items() if name not in ("kind", "out_channels")}
        self.num_classes = num_classes
        self.unet: Any = _unet2d_class()(
            sample_size=resolution, in_channels=channels, out_channels=net.out_channels or channels,
            num_class_embeds=num_classes or None, **config,
        )  # fmt: skip
        if num_classes:
            self.unet.class_embedding = _Labels(num_classes, self.unet.class_embedding.embedding_dim)

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """The raw output F of the network; the arguments are those of `DDPMppNet`, c_noise the index of the level."""
        if self.num_classes and labels is None:
            labels = torch.full((len(x),), -1, device=x.device)
        out: Tensor = self.unet(x, c_noise, labels if self.num_classes else None, return_dict=False)[0]
        return out


class _Labels(nn.Embedding):
    """One row a class; zeros for a label of -1."""

    def forward(self, input: Tensor) -> Tensor:
        rows = super().forward(input.clamp(min=0))
        return rows * (input >= 0)[:, None].to(rows.dtype)


def _unet2d_class() -> Any:
    """Raises:
    SettingsError: diffusers is not installed.
    """
    try:
        from diffusers import UNet2DModel
    except (ImportError, RuntimeError) as error:
        raise SettingsError(
            "network: diffusers_unet2d", f"needs the extra `diffusers` (pip install 'sigmasweep[diffusers]'): {error}"
        ) from error
    return UNet2DModel
