"""A network small enough to train in a moment: for tests, and for toy data of a few pixels."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.networks.layers import check_depth, check_shape, linear, one_hot, positional_embedding


@dataclass(frozen=True)
class MLP:
    """Settings of a residual network on the flattened image.

    Args:
        hidden: width of every layer and of the noise embedding; even.
        num_layers: residual layers between the first and the last.

    Raises:
        ValueError: a value is out of its range.
    """

    kind: Literal["mlp"] = "mlp"
    hidden: int = 64
    num_layers: int = 2

    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.hidden < 4 or self.hidden % 2:
            raise ValueError(f"hidden: must be even and at least 4 (got {self.hidden})")
        if self.num_layers < 0:
            raise ValueError(f"num_layers: must be at least 0 (got {self.num_layers})")
        check_depth("num_layers", self.num_layers)

    def build(self, resolution: int, channels: int, num_classes: int) -> nn.Module:
        """The network with fresh weights, drawn from torch's global generator.

        Args:
            resolution: height and width of the images.
            channels: of the images.
            num_classes: 0 for a network that ignores labels.

        Raises:
            ValueError: a number is out of its range.
        """
        check_shape(resolution, channels, num_classes)
        return MLPNet(self, channels * resolution**2, num_classes)


class MLPNet(nn.Module):
    """The network that `MLP` describes. It runs in the type of its parameters, or as autocast has it."""

    def __init__(self, net: MLP, num_pixels: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.hidden = net.hidden
        self.map_noise = linear(net.hidden, net.hidden)
        self.map_label = linear(num_classes, net.hidden) if num_classes else None
        self.first = linear(num_pixels, net.hidden)
        self.layers = nn.ModuleList(linear(net.hidden, net.hidden) for _ in range(net.num_layers))
        self.last = linear(net.hidden, num_pixels)

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """The raw output F of the network, of the shape (N, C, H, W) of x; the arguments are those of `UNet`."""
        dtype = self.first.weight.dtype
        emb = positional_embedding(c_noise, self.hidden).to(dtype)
        y = self.first(x.to(dtype).flatten(1)) + self.map_noise(emb)
        if self.map_label is not None:
            y = y + self.map_label(one_hot(labels, self.num_classes, like=emb))
        for layer in self.layers:
            y = y + layer(F.silu(y))
        out: Tensor = self.last(F.silu(y))
        return out.reshape(x.shape)
