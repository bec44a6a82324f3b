"""How certain a classifier is of each image, and how various its answers are.

exp( mean over images of KL( p(y | x) || p(y) ) ),        p(y) the mean of p(y | x)
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from scipy.special import log_softmax, logsumexp

from pipeline.metrics.scores.base import FeatureSet, Found, Need, Number, Prepared, at_least
from pipeline.metrics.scores.intervals import Strata, around, deviation_of_mean
from pipeline.metrics.scores.neighbours import Float64

_OF = "the mean score of so many images, its bias (of p(y) from few images) included"


@dataclass(frozen=True)
class InceptionScore:
    """Inception score (Salimans et al. 2016, arXiv 1606.03498), from logits alone; no reference is asked. With another
    network than the published Inception it is a score of that network's classes, and called class score.

    Args:
        splits: the images in the order of their seeds are cut into so many parts, and the scores of these averaged, as
            published (10 parts of 5,000).
    """

    kind: Literal["inception_score"] = "inception_score"
    splits: int = 10
    revision: ClassVar[int] = 2
    needs: ClassVar[frozenset[Need]] = frozenset({"logits"})
    uses: ClassVar[frozenset[Need]] = frozenset()
    numbers: ClassVar[tuple[Number, ...]] = (
        Number("inception_score", "Inception score", "more", _OF, plain_key="class_score", plain_title="class score"),
    )

    def __post_init__(self) -> None:
        at_least(splits=(self.splits, 1))

    @property
    def least(self) -> int:
        return 2 * self.splits

    def prepare(self, reference: FeatureSet) -> Prepared:
        return {}

    def measure(self, images: FeatureSet, reference: FeatureSet | None, prepared: Prepared) -> Found:
        assert images.logits is not None
        strata: list[Strata] = [None] * self.splits
        if images.strata is not None:
            strata = [*np.array_split(images.strata, self.splits)]
        parts = [_score(*part) for part in zip(np.array_split(images.logits, self.splits), strata, strict=True)]
        value = float(np.mean([score for score, _ in parts]))
        deviation = float(np.sqrt(sum(variance for _, variance in parts))) / self.splits
        return Found({"inception_score": around(value, deviation, least=1.0)})


def _score(logits: np.ndarray, strata: Strata) -> tuple[float, float]:
    """Of one part, and its variance: of the mean divergence, carried through exp. To first order p(y) adds none, since
    the mean divergence is least there."""
    log_p: Float64 = log_softmax(logits.astype(np.float64), axis=1)
    log_mean = logsumexp(log_p, axis=0) - np.log(len(log_p))  # finite where a class is next to impossible, too
    divergences = (np.exp(log_p) * (log_p - log_mean)).sum(axis=1)
    score = float(np.exp(divergences.mean()))
    return score, (score * deviation_of_mean(divergences, strata)) ** 2
