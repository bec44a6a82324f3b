"""A vision transformer of random weights with DINOv2's interface, as a file. The published weights are not run here."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import DataError
from pipeline.metrics.extractors import File, export_extractor
from pipeline.metrics.extractors.exporting import IMAGENET_MEAN, IMAGENET_STD, Prepared


class TinyViT(nn.Module):
    """Patches of 14 pixels, a class token, learned positions: the class token after the last norm is the feature."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 14, 14)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, 257, width) * 0.1)
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), tokens], dim=1) + self.positions
        q, k, v = (part.unflatten(2, (4, -1)).transpose(1, 2) for part in self.qkv(self.before(tokens)).chunk(3, dim=2))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.after(tokens + self.dropout(self.out(mixed)))[:, 0]


@pytest.fixture(scope="module")
def network() -> TinyViT:
    torch.manual_seed(0)
    return TinyViT()


def images(num: int, channels: int = 3, size: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    small = torch.randint(0, 256, (num, channels, size // 8, size // 8), generator=generator)
    return small.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3).to(torch.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_what_was_exported_is_the_network_on_resized_and_normalized_images(
    network: TinyViT, tmp_path: Path, channels: int
) -> None:
    settings = export_extractor(network, tmp_path / "vit.pt2", (channels, 32, 32), 224, "Tiny ViT")
    extractor = settings.build(settings.load(), (channels, 32, 32))
    assert extractor.distance_name == "FD, Tiny ViT"
    assert settings.classes == "none"
    x = images(5, channels)
    with torch.inference_mode():
        expected = Prepared(network.eval(), 224)(x.expand(-1, 3, -1, -1))
    found = extractor(x).features
    assert found.shape == (5, 32)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    one_by_one = torch.cat([extractor(image).features for image in torch.split(x, 1)])
    torch.testing.assert_close(found, one_by_one, rtol=1e-4, atol=1e-5)


def test_the_resize_is_pillows_antialiased_bicubic_to_a_level_of_grey() -> None:
    class Identity(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    x = images(3, size=64) // 2 + 64  # Pillow clips between its two passes, which no image of these levels reaches
    for size in (24, 224):
        found = Prepared(Identity(), size)(x)
        pixels = (found * torch.tensor(IMAGENET_STD)[:, None, None] + torch.tensor(IMAGENET_MEAN)[:, None, None]) * 255
        pillow = [Image.fromarray(image.permute(1, 2, 0).numpy()).resize((size, size), Image.BICUBIC) for image in x]
        expected = np.stack([np.asarray(image) for image in pillow]).transpose(0, 3, 1, 2)
        assert np.abs(pixels.numpy() - expected).max() < 1.1


def test_the_network_is_left_as_it_was_and_the_file_names_its_sha256(network: TinyViT, tmp_path: Path) -> None:
    network.train()
    settings = export_extractor(network, tmp_path / "vit.pt2", (3, 32, 32), 224)
    assert network.training
    assert isinstance(settings, File)
    assert settings.distance_name(settings.load()) == "FD, vit"
    (tmp_path / "vit.pt2").write_bytes(b"another")
    with pytest.raises(DataError, match="does not run: its sha256 is"):
        settings.load()


def test_what_cannot_be_exported_is_told_in_one_sentence(tmp_path: Path) -> None:
    class Wild(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(DataError, match=r"wild\.pt2: the network cannot be exported"):
        export_extractor(Wild(), tmp_path / "wild.pt2", (3, 32, 32), 28)
