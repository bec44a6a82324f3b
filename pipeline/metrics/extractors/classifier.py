"""A small convolutional classifier of the data set itself: an extractor that needs no download."""

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from pipeline.digests import digest, sha256
from pipeline.errors import DataError
from pipeline.metrics.extractors.base import Classes, Features, ImageShape, check_images, extraction


@dataclass(frozen=True)
class Classifier:
    """A classifier and how it is trained (AdamW, one-cycle learning rate, shifted images).

    Args:
        num_features: d, the width of the layer before the logits.
        width: channels of the first layer; the others have two and four times as many.
        epochs: passes over the training images.
        batch_size: images a step.
        learning_rate: the highest of the cycle.
        weight_decay: of AdamW.
        shift: images are shifted by up to this share of their size, in whole pixels, each its own way.
        validation_fraction: share of the images that are kept apart and only measured on.
        seed: of the initial weights, the split, the order and the shifts.
    """

    kind: Literal["classifier"] = "classifier"
    num_features: int = 64
    width: int = 32
    epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 4e-3
    weight_decay: float = 0.02
    shift: float = 0.08
    validation_fraction: float = 0.1
    seed: int = 0
    revision: ClassVar[int] = 1
    classes: ClassVar[Classes] = "own"

    def __post_init__(self) -> None:
        for name, least in (("num_features", 2), ("width", 1), ("epochs", 1), ("batch_size", 2), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: must be at least {least} (got {getattr(self, name)})")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate: must be positive (got {self.learning_rate})")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay: must not be negative (got {self.weight_decay})")
        if not 0 <= self.shift <= 0.5:
            raise ValueError(f"shift: must lie in [0, 0.5] (got {self.shift})")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction: must lie in (0, 1) (got {self.validation_fraction})")

    @property
    def resize(self) -> str:
        """In words."""
        return "none"

    def digest(self, data: bytes) -> str:
        return digest({"settings": self, "weights": sha256(data)})

    def distance_name(self, data: bytes) -> str:
        return f"FD, classifier {self.digest(data)[:8]}"

    def build(self, data: bytes, image_shape: ImageShape, device: torch.device | str = "cpu") -> "ClassifierExtractor":
        """The extractor for images of shape (C, H, W), from the bytes that `train_classifier` gave.

        Raises:
            DataError: the bytes are not of such a classifier, or of one for images of another shape.
        """
        extractor = ClassifierExtractor.from_bytes(self, data, device)
        if extractor.image_shape != image_shape:
            trained, asked = ("x".join(map(str, shape)) for shape in (extractor.image_shape, image_shape))
            raise DataError("classifier", f"was trained on images of shape {trained} and cannot take {asked}")
        return extractor


class ClassifierNetwork(nn.Module):
    """Three resolutions, batch norm, global average, features, logits. About 0.3 M parameters at width 32.

    Features are taken before the last nonlinearity: behind it some would always be zero, and their covariance singular.
    """

    image_shape: torch.Tensor

    def __init__(self, image_shape: ImageShape, num_classes: int, width: int, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features
        self.body = nn.Sequential(
            *_layer(image_shape[0], width, stride=1),
            *_layer(width, 2 * width, stride=2),
            *_layer(2 * width, 2 * width, stride=1),
            *_layer(2 * width, 4 * width, stride=2),
            *_layer(4 * width, 4 * width, stride=1),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * width, num_features),
        )
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(num_features, num_classes))
        # The shape travels with the weights; batch norm learns the scale of the pixels.
        self.register_buffer("image_shape", torch.tensor(image_shape))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (N, d) and logits (N, num_classes) of uint8 images (N, C, H, W)."""
        x = (images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        features = self.body(x)
        return features, self.head(features)


class ClassifierExtractor:
    """A trained classifier, ready on a device."""

    def __init__(self, network: ClassifierNetwork, digest: str, distance_name: str, device: torch.device) -> None:
        self.digest = digest
        self.distance_name = distance_name
        self.num_features = network.num_features
        channels, height, width = network.image_shape.tolist()
        self.image_shape: ImageShape = (channels, height, width)
        self._device = device
        self._network = network.to(device).eval()

    @classmethod
    def from_bytes(cls, settings: Classifier, data: bytes, device: torch.device | str = "cpu") -> Self:
        """Raises:
        DataError: the bytes are not weights of a classifier of these settings.
        """
        try:
            state = load(data)
            channels, height, width = state["image_shape"].tolist()
            network = ClassifierNetwork(
                (channels, height, width), len(state["head.1.bias"]), settings.width, settings.num_features
            )
            network.load_state_dict(state)
        except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
            raise DataError("classifier", "its weights are damaged, or were made with other settings") from error
        return cls(network, settings.digest(data), settings.distance_name(data), torch.device(device))

    def __call__(self, images: torch.Tensor) -> Features:
        check_images(images)
        if images.shape[1:] != self.image_shape:
            raise ValueError(f"images: must be of shape {self.image_shape} (got {tuple(images.shape[1:])})")
        with extraction():
            return Features(*self._network(images.to(self._device)))


def to_bytes(network: ClassifierNetwork) -> bytes:
    """The weights as a safetensors file; the same weights are the same bytes."""
    data: bytes = save({name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()})
    return data


def _layer(in_channels: int, out_channels: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(out_channels), nn.ReLU()]
