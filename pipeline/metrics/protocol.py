"""What makes two distances comparable. A number is never told without its protocol."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Self

from pipeline import digests
from pipeline.diffusion.decoding import QUANTIZATION
from pipeline.errors import SettingsError

FID = "FID"  # what the distance of the published protocol is called


@dataclass(frozen=True)
class EvaluationProtocol:
    """How a distance was measured.

    Args:
        distance: what the number is called: "FID", or "FD, " and the name of the extractor.
        extractor: the digest of the extractor; it covers weights and resize mode.
        num_images: of generated images.
        first_seed: their seeds are first_seed ... first_seed + num_images - 1.
        reference: the digest of the data set that they are compared with.
        reference_count: how many of its images were taken; 0 where published statistics do not say.
        torch: major and minor version.
        torchmetrics: major and minor version.
        resize: how images get to the size that the extractor takes, in words; its digest covers it.
        quantization: how images became whole numbers, in words. The digest leaves the usual way out, so that runs from
            before it was told keep their keys.
        libraries: versions of what else computes, of which a number depends to rounding alone.
    """

    distance: str
    extractor: str
    num_images: int
    first_seed: int
    reference: str
    reference_count: int
    torch: str
    torchmetrics: str
    resize: str = field(default="", metadata={digests.LABEL: True})
    quantization: str = field(default=QUANTIZATION, metadata={digests.SINCE: 2})
    libraries: str = field(default="", metadata={digests.LABEL: True})

    @classmethod
    def here(
        cls, distance: str, extractor: str, num_images: int, first_seed: int, reference: str, reference_count: int,
        resize: str = "",
    ) -> Self:  # fmt: skip
        """The protocol with the versions that are installed here."""
        versions = (_minor("torch"), _minor("torchmetrics"))
        libraries = ", ".join(f"{name} {_minor(name)}" for name in ("numpy", "scipy"))
        return cls(
            distance, extractor, num_images, first_seed, reference, reference_count, *versions, resize,
            libraries=libraries,
        )  # fmt: skip

    @property
    def digest(self) -> str:
        """Equal for two protocols exactly where they are comparable; what a distance is called does not matter."""
        return digests.digest(replace(self, distance=""))

    def comparable_with(self, other: "EvaluationProtocol") -> str | None:
        """None where the two numbers may be ranked, else one sentence that says why they may not."""
        if self.extractor != other.extractor:
            one, two = f"{self.distance} ({self.extractor[:8]})", f"{other.distance} ({other.extractor[:8]})"
            return f"the features come from different extractors: {one} and {two}"
        if (self.reference, self.reference_count) != (other.reference, other.reference_count):
            return f"the references differ: {self._reference} and {other._reference}"
        if self.num_images != other.num_images:
            counts = f"{self.num_images:,} and {other.num_images:,}"
            return f"the numbers of images differ, and the distance depends on them: {counts}"
        if self.first_seed != other.first_seed:
            return f"the images are of different seeds: from {self.first_seed} and from {other.first_seed}"
        if self._versions != other._versions:
            return f"the numbers are from different versions: {self._versions} and {other._versions}"
        if self.quantization != other.quantization:
            return f"the images were quantized in different ways: {self.quantization} and {other.quantization}"
        return None

    def label(self) -> str:
        """One line in short, by which runs are found again: it never changes."""
        return f"{self.distance}; {self.num_images:,} images, seeds {self._seeds}; reference {self._reference}"

    def sentence(self) -> str:
        """All of it in one line, for tables."""
        resize = f"resize {self.resize}; " if self.resize else ""
        versions = ", ".join(part for part in (self._versions, self.libraries) if part)
        return f"{self.label()}; extractor {self.extractor[:8]}; {resize}{self.quantization}; {versions}"

    def tags(self) -> dict[str, str]:
        """All of it for the tracker, with whole digests."""
        return {
            "protocol": self.label(),
            "protocol_digest": self.digest,
            "protocol_extractor": self.extractor,
            "protocol_resize": self.resize,
            "protocol_quantization": self.quantization,
            "protocol_num_images": str(self.num_images),
            "protocol_seeds": self._seeds,
            "protocol_reference": self.reference,
            "protocol_reference_count": str(self.reference_count),
            "protocol_versions": ", ".join(part for part in (self._versions, self.libraries) if part),
        }

    @property
    def _seeds(self) -> str:
        return f"{self.first_seed}-{self.first_seed + self.num_images - 1}"

    @property
    def _reference(self) -> str:
        count = f"{self.reference_count:,} images" if self.reference_count else "published statistics"
        return f"{self.reference[:8]} ({count})"

    @property
    def _versions(self) -> str:
        return f"torch {self.torch}, torchmetrics {self.torchmetrics}"


def check_comparable(protocols: Sequence[tuple[str, EvaluationProtocol]], legacy: bool = False) -> str:
    """Whether numbers may stand side by side.

    Args:
        protocols: of each number, with what it is called.
        legacy: unlike ones may too. Somebody asked for that by name.

    Returns:
        A sentence that must stand by numbers of unlike protocols; else an empty text.

    Raises:
        SettingsError: two are unlike, and `legacy` was not asked for.
    """
    for name, other in protocols[1:]:
        reason = protocols[0][1].comparable_with(other)
        if reason is not None and not legacy:
            raise SettingsError(f"{protocols[0][0]} and {name}", f"cannot be ranked: {reason}")
        if reason is not None:
            return f"legacy comparison of {protocols[0][0]} and {name}: {reason}"
    return ""


def _minor(package: str) -> str:
    return ".".join(version(package).split(".")[:2])
