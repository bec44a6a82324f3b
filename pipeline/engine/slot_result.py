"""What a slot keeps of each setting that it measured: all that later slots need in order to compare themselves with it.

The influences of the images go with it (4 bytes an image), so a comparison needs neither images nor features.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pipeline.engine.evaluation import Evaluation

BLOB = "influences.safetensors"


@dataclass(frozen=True, eq=False)
class Measured:
    """One setting.

    Args:
        name: of the setting.
        title: what the distance is called.
        distance: of `count` images.
        low: the lower end of its 95 % interval; None where it has none, and then it is compared with nothing.
        high: the upper end.
        first_seed: of the images.
        count: of the images.
        protocol: a digest of how it was measured, but for the seeds.
        samples: the digest of the samples.
        influences: of the images in the order of their seeds, float32 (count,).
        strata: the class of each image where every class has its share by design, (count,).
    """

    name: str
    title: str
    distance: float
    low: float | None
    high: float | None
    first_seed: int
    count: int
    protocol: str
    samples: str
    influences: NDArray[np.float32] | None = field(default=None, repr=False)
    strata: NDArray[np.int32] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, evaluation: "Evaluation") -> "Measured":
        sure, protocol = evaluation.uncertainty, evaluation.protocol
        return cls(
            evaluation.name, protocol.distance, evaluation.distance,
            None if sure is None else sure.interval.low, None if sure is None else sure.interval.high,
            protocol.first_seed, protocol.num_images, replace(protocol, first_seed=0).digest,
            evaluation.samples_digest, None if sure is None else sure.influences,
            None if sure is None or sure.strata is None else sure.strata.astype(np.int32),
        )  # fmt: skip

    def numbers(self) -> dict[str, Any]:
        """As JSON, without the arrays."""
        bare = asdict(replace(self, influences=None, strata=None))
        del bare["influences"], bare["strata"]
        return bare


def to_blobs(measured: Iterable[Measured]) -> dict[str, bytes]:
    """The arrays of all settings, as a commit keeps them."""
    arrays: dict[str, NDArray[Any]] = {}
    for index, setting in enumerate(measured):
        if setting.influences is not None:
            arrays[f"{index:03d}-influences"] = np.ascontiguousarray(setting.influences)
        if setting.strata is not None:
            arrays[f"{index:03d}-strata"] = np.ascontiguousarray(setting.strata)
    return {BLOB: safetensors.numpy.save(arrays)} if arrays else {}


def from_record(numbers: Iterable[Mapping[str, Any]], blob: bytes | None) -> list[Measured]:
    """The inverse of `numbers` and `to_blobs`."""
    arrays = {} if blob is None else safetensors.numpy.load(blob)
    return [
        Measured(**setting, influences=arrays.get(f"{index:03d}-influences"), strata=arrays.get(f"{index:03d}-strata"))
        for index, setting in enumerate(numbers)
    ]
