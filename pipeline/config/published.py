"""What a publication reports for settings like these: data to be held against one's own, never an input of the work."""

from pydantic import Field

from pipeline.metrics.protocol import EvaluationProtocol
from pipeline.metrics.published_protocols import EDM, LEGACY
from pipeline.training.settings import Frozen


class Published(Frozen):
    """A published figure.

    Args:
        fid: the Frechet distance of 50,000 images by the Inception network, in the publication's own protocol.
        nfe: network evaluations an image.
        source: where it stands.
    """

    fid: float = Field(gt=0)
    nfe: int | None = Field(default=None, gt=0)
    source: str = Field(min_length=1)

    def tags(self) -> dict[str, str]:
        """For the tracker."""
        nfe = {} if self.nfe is None else {"published_nfe": str(self.nfe)}
        return {"published_fid": f"{self.fid:g}", **nfe, "published_source": self.source}

    def beside(self, protocol: EvaluationProtocol, followed: str) -> str:
        """A line for the notes below a table of one's own numbers: the figure, where it may stand beside them.

        Args:
            protocol: of one's own numbers.
            followed: the published protocol that the settings name, or `legacy`; or an empty text.
        """
        reason = EDM.differs(protocol) or ("" if followed == EDM.name else f"metrics.protocol is not {EDM.name}")
        if not reason:
            return f"{self}, by the same protocol ({EDM.name})"
        if followed == LEGACY:
            return f"legacy comparison: {self}; {reason}"
        return f"the published figure is of another protocol ({reason}); metrics.protocol: {LEGACY} would show it here"

    def __str__(self) -> str:
        at = "" if self.nfe is None else f" at NFE {self.nfe}"
        return f"published: FID {self.fid:g}{at} ({self.source})"


class Expected(Frozen):
    """The images that settings were written for; those of another shape are refused.

    Args:
        size: side of the square.
        channels: 1 (grey) or 3 (RGB).
        num_classes: empty for any number; a network that is not conditional does not care.
    """

    size: int = Field(gt=0)
    channels: int = Field(gt=0)
    num_classes: int | None = Field(default=None, ge=0)

    def differs(self, shape: tuple[int, int, int], num_classes: int) -> str:
        """In words how images of another shape, or of other classes, differ; empty where they are as expected."""
        if shape != (self.channels, self.size, self.size):
            channels, height, width = shape
            return f"{channels}x{height}x{width} images and not {self.channels}x{self.size}x{self.size}"
        if self.num_classes not in (None, num_classes):
            return f"{num_classes} classes and not {self.num_classes}"
        return ""
