"""The Inception network of 2015-12-05: the published protocol of FID (Heusel et al. 2017, arXiv 1706.08500).

torchmetrics runs it on torch-fidelity's conversion of the weights. The paper's figures are made without antialiasing
in the resize to 299 x 299, which is not torchmetrics' default.
"""

import io
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.digests import digest, sha256
from pipeline.errors import DataError, SettingsError
from pipeline.metrics.extractors.base import Classes, Features, ImageShape, as_rgb, check_images, extraction

WEIGHTS_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
PUBLISHED = "6726825d"  # the first digits of the sha256 of the published weights
NUM_FEATURES = 2048


@dataclass(frozen=True)
class Inception:
    """The Inception network, 2048 features.

    Args:
        weights: path of torch-fidelity's weights; by default they are downloaded once, into torch's hub folder.
        antialias: in the resize. The published figures of the field are made without.
    """

    kind: Literal["inception"] = "inception"
    weights: str | None = None
    antialias: bool = False
    revision: ClassVar[int] = 1
    classes: ClassVar[Classes] = "other"

    @property
    def resize(self) -> str:
        """In words."""
        return f"bilinear to 299x299 {'with' if self.antialias else 'without'} antialiasing"

    def load(self) -> bytes:
        """The bytes of the weights.

        Raises:
            DataError: they cannot be read or downloaded.
        """
        path = _downloaded() if self.weights is None else Path(self.weights)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DataError(path, f"the weights of Inception cannot be read ({error.strerror})") from error
        if self.weights is None and not _are_published(data):
            raise DataError(path, f"is damaged: its sha256 does not begin with {PUBLISHED}; delete it and try again")
        return data

    def digest(self, data: bytes) -> str:
        return digest({"inception": sha256(data), "antialias": self.antialias, "revision": self.revision})

    def distance_name(self, data: bytes) -> str:
        """ "FID" is kept for the published weights and the published resize."""
        if not _are_published(data):
            return f"FD, Inception with weights {sha256(data)[:8]}" + (", antialiased" if self.antialias else "")
        return "FID, antialiased" if self.antialias else "FID"

    def logits(self, features: NDArray[np.float32], data: bytes) -> NDArray[np.float32]:
        """Of ImageNet's classes, shape (N, 1008), without the bias, as the published Inception score takes them: a
        product of the features (N, 2048) and weights of the last layer, so they need not be stored.

        Raises:
            DataError: the bytes are not weights of this network.
        """
        weight = _state(data, self.weights or WEIGHTS_URL).get("fc.weight")
        if not isinstance(weight, torch.Tensor) or weight.ndim != 2 or weight.shape[1] != features.shape[1]:
            raise DataError(self.weights or WEIGHTS_URL, "does not hold the weights of torch-fidelity's Inception")
        return np.asarray(features @ weight.float().numpy().T)

    def build(self, data: bytes, image_shape: ImageShape, device: torch.device | str = "cpu") -> "InceptionExtractor":
        """The extractor for images of shape (C, H, W).

        Raises:
            SettingsError: torch-fidelity is not installed, or cannot be imported.
            DataError: the bytes are not weights of this network.
        """
        check_images(torch.zeros(1, *image_shape, dtype=torch.uint8))
        return InceptionExtractor(self, data, torch.device(device))


class InceptionExtractor:
    """Inception, ready on a device. Its logits are of other classes than the data's, so it gives none."""

    num_features = NUM_FEATURES

    def __init__(self, settings: Inception, data: bytes, device: torch.device) -> None:
        self.digest = settings.digest(data)
        self.distance_name = settings.distance_name(data)
        self._device = device
        self._module = _network(data, settings).to(device)

    def __call__(self, images: torch.Tensor) -> Features:
        with extraction():
            return Features(self._module(as_rgb(images, self._device)).float())


def _network(data: bytes, settings: Inception) -> Any:
    network = _network_class()
    where = settings.weights or WEIGHTS_URL
    state = _state(data, where)
    # torch-fidelity unpickles whatever lies at a path, so it is given a file that was written here, of tensors alone.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pth"
        torch.save(state, path)
        try:
            return network("inception-v3-compat", [str(NUM_FEATURES)], str(path), antialias=settings.antialias)
        except (RuntimeError, TypeError, AttributeError) as error:
            raise DataError(where, "does not hold the weights of torch-fidelity's Inception") from error


def _state(data: bytes, where: str) -> Any:
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # the safe unpickler promises no types; whatever it is, these are no weights
        raise DataError(where, "does not hold the weights of a network, and nothing else") from error


def _network_class() -> Any:
    """torchmetrics imports torch-fidelity, and that torchvision, whose import fails beside another build of torch."""
    try:
        import torch_fidelity  # noqa: F401
        from torchmetrics.image.fid import NoTrainInceptionV3
    except (ImportError, RuntimeError, AttributeError) as error:
        raise SettingsError(
            "extractor: inception", f"needs the extra `inception` (pip install 'sigmasweep[inception]'): {error}"
        ) from error
    return NoTrainInceptionV3


def _downloaded() -> Path:
    path = Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS_URL.rpartition("/")[2]
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(WEIGHTS_URL, str(path), hash_prefix=PUBLISHED, progress=False)
        except (OSError, RuntimeError) as error:
            raise DataError(WEIGHTS_URL, f"cannot be downloaded ({error}); give `weights: <path>` instead") from error
    return path


def _are_published(data: bytes) -> bool:
    return sha256(data).startswith(PUBLISHED)
