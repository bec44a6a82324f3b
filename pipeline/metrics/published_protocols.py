"""Protocols that published figures were measured by, as far as they can be followed here."""

from dataclasses import dataclass

from pipeline.metrics.extractors import ExtractorSettings, Inception
from pipeline.metrics.protocol import FID, EvaluationProtocol

LEGACY = "legacy"  # the name under which numbers of unlike protocols may stand side by side


@dataclass(frozen=True)
class PublishedProtocol:
    """A protocol with a name.

    Args:
        name: as settings give it.
        num_images: of generated images.
        antialias: in the resize to Inception's 299 x 299.
        source: where it is from.
    """

    name: str
    num_images: int
    antialias: bool
    source: str

    def extractor(self) -> Inception:
        return Inception(antialias=self.antialias)

    def refuses(self, extractor: ExtractorSettings, num_images: int) -> str:
        """In one sentence why settings do not follow it; empty where they do."""
        if not isinstance(extractor, Inception) or extractor.antialias != self.antialias:
            wanted = f"kind: inception, antialias: {str(self.antialias).lower()}"
            return f"extractors: the first one must be {{{wanted}}} for the protocol {self.name} (got {extractor.kind})"
        if num_images != self.num_images:
            return f"seeds.count: must be {self.num_images:,} for the protocol {self.name} (got {num_images:,})"
        return ""

    def differs(self, protocol: EvaluationProtocol) -> str:
        """In one sentence why a number was not measured by it; empty where it was, the reference being the training
        set, which a protocol does not say."""
        if protocol.distance != FID:
            return f"{self.name} measures {FID}, and this is {protocol.distance}"
        if protocol.num_images != self.num_images:
            return f"{self.name} measures {self.num_images:,} images, and these are {protocol.num_images:,}"
        return ""


EDM = PublishedProtocol(
    "edm",
    50_000,
    antialias=False,
    source="Karras et al. 2022, arXiv 2206.00364: the published Inception network, resize without antialiasing, 50,000 "
    "images against the whole training set",
)
PROTOCOLS = {protocol.name: protocol for protocol in (EDM,)}
UNLIKE = {
    "clean-fid": "resizes with Pillow's antialiased bicubic filter (Parmar et al. 2022, arXiv 2104.11222), which no "
    "extractor here does: its numbers cannot be made here, and are not to be compared with those of edm",
}
