"""What makes two distances comparable. A number is never told without its protocol."""

from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Self

from pipeline import digests

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
    """

    distance: str
    extractor: str
    num_images: int
    first_seed: int
    reference: str
    reference_count: int
    torch: str
    torchmetrics: str

    @classmethod
    def here(
        cls, distance: str, extractor: str, num_images: int, first_seed: int, reference: str, reference_count: int
    ) -> Self:
        """The protocol with the versions that are installed here."""
        versions = (_minor("torch"), _minor("torchmetrics"))
        return cls(distance, extractor, num_images, first_seed, reference, reference_count, *versions)

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
        return None

    def label(self) -> str:
        """One line for tables and tags."""
        seeds = f"seeds {self.first_seed}-{self.first_seed + self.num_images - 1}"
        return f"{self.distance}; {self.num_images:,} images, {seeds}; reference {self._reference}"

    @property
    def _reference(self) -> str:
        count = f"{self.reference_count:,} images" if self.reference_count else "published statistics"
        return f"{self.reference[:8]} ({count})"

    @property
    def _versions(self) -> str:
        return f"torch {self.torch}, torchmetrics {self.torchmetrics}"


def _minor(package: str) -> str:
    return ".".join(version(package).split(".")[:2])
