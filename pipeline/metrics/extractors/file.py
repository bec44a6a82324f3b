"""Any network in a file: TorchScript (`.pt`) or torch.export (`.pt2`), from uint8 images (N, 3, H, W) to features."""

import io
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch.export.passes import move_to_device_pass

from pipeline.digests import digest, sha256
from pipeline.errors import DataError
from pipeline.metrics.extractors.base import Classes, Features, ImageShape, as_rgb, extraction

SUFFIXES = (".pt", ".pt2")


@dataclass(frozen=True, kw_only=True)
class File:
    """An extractor in a file. Such a file is a program: it runs only if the settings name its sha256.

    Args:
        path: of the `.pt` or `.pt2` file.
        sha256: of the file, 64 hex digits.
        return_features: call it with `return_features=True`, as NVIDIA's TorchScript Inception wants it.
        name: what people call the network; by default the name of the file.
    """

    kind: Literal["file"] = "file"
    path: str
    sha256: str
    return_features: bool = False
    name: str | None = None
    revision: ClassVar[int] = 1
    classes: ClassVar[Classes] = "none"

    def __post_init__(self) -> None:
        if Path(self.path).suffix not in SUFFIXES:
            raise ValueError(f"path: must end in .pt (TorchScript) or .pt2 (torch.export) (got {self.path!r})")
        if re.fullmatch("[0-9a-f]{64}", self.sha256) is None:
            raise ValueError(f"sha256: must be 64 hex digits in lower case (got {self.sha256!r})")

    @property
    def resize(self) -> str:
        """In words."""
        return "by the program in the file, if any"

    def load(self) -> bytes:
        """The file's bytes.

        Raises:
            DataError: it cannot be read, or is not the file that the settings name.
        """
        try:
            data = Path(self.path).read_bytes()
        except OSError as error:
            raise DataError(self.path, f"the extractor cannot be read ({error.strerror})") from error
        self._check(data)
        return data

    def digest(self, data: bytes) -> str:
        return digest({"file": sha256(data), "return_features": self.return_features, "revision": self.revision})

    def distance_name(self, data: bytes) -> str:
        return f"FD, {self.name or Path(self.path).stem}"

    def build(self, data: bytes, image_shape: ImageShape, device: torch.device | str = "cpu") -> "FileExtractor":
        """The extractor, tried on two black images of the given shape (C, H, W).

        Raises:
            DataError: the bytes are not the named file, no such program, or one that cannot take these images.
        """
        self._check(data)
        return FileExtractor(self, data, image_shape, torch.device(device))

    def _check(self, data: bytes) -> None:
        found = sha256(data)
        if found != self.sha256:
            raise DataError(self.path, f"does not run: its sha256 is {found}, and the settings name {self.sha256}")


class FileExtractor:
    """A program from a file, ready on a device."""

    def __init__(self, settings: File, data: bytes, image_shape: ImageShape, device: torch.device) -> None:
        self.digest = settings.digest(data)
        self.distance_name = settings.distance_name(data)
        self._path = settings.path
        self._keywords = {"return_features": True} if settings.return_features else {}
        self._device = device
        try:
            self._module = _module(data, Path(settings.path).suffix, device)
        except Exception as error:  # torch promises no types here; every failure is of the file
            raise DataError(self._path, f"holds no program that torch can load ({_first_line(error)})") from error
        self.num_features = self._try(image_shape)

    def __call__(self, images: torch.Tensor) -> Features:
        """Raises:
        DataError: what comes out is not a finite float matrix with a row for every image.
        """
        with extraction():
            out = self._module(as_rgb(images, self._device), **self._keywords)
            return Features(self._checked(out, len(images)))

    def _try(self, image_shape: ImageShape) -> int:
        try:
            return self(torch.zeros(2, *image_shape, dtype=torch.uint8)).features.shape[1]
        except (RuntimeError, AssertionError, TypeError, ValueError) as error:
            shape = "x".join(str(size) for size in image_shape)
            raise DataError(self._path, f"cannot take images of shape {shape} ({_first_line(error)})") from error

    def _checked(self, out: object, num_images: int) -> torch.Tensor:
        if not isinstance(out, torch.Tensor) or out.ndim != 2 or not out.is_floating_point() or len(out) != num_images:
            found = f"{out.dtype} {tuple(out.shape)}" if isinstance(out, torch.Tensor) else type(out).__name__
            raise DataError(self._path, f"must give a float matrix with a row an image (got {found})")
        features = out.float()
        if not bool(features.isfinite().all()):
            raise DataError(self._path, "gives features that are not finite")
        return features


def _module(data: bytes, suffix: str, device: torch.device) -> Any:
    if suffix == ".pt2":
        program = torch.export.load(io.BytesIO(data))
        if device.type != "cpu":
            program = move_to_device_pass(program, device)
        return program.module()  # exported from eval mode or not: it cannot be switched
    with warnings.catch_warnings():  # TorchScript is deprecated, and the networks of the field come in it
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.load(io.BytesIO(data), map_location=device).eval()  # type: ignore[no-untyped-call]


def _first_line(error: Exception) -> str:
    """The last line of a TorchScript error is the one that tells; others begin with it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    line = lines[-1] if "TorchScript" in lines[0] else lines[0]
    return line[:200]
