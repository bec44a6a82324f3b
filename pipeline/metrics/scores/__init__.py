"""Scores: numbers beside the Frechet distance, each from stored features, none from an image.

A score is a frozen dataclass with a `kind`, joined in the union at the end. It says what it needs, which way is better,
and what its interval is of, or that it has none.
"""

from pipeline.metrics.scores.base import (
    ClassRow,
    Estimate,
    FeatureSet,
    Found,
    Need,
    Number,
    Pair,
    ScoreShape,
    suffix,
    wants_reference,
)
from pipeline.metrics.scores.density_coverage import DensityCoverage
from pipeline.metrics.scores.inception_score import InceptionScore
from pipeline.metrics.scores.kid import KID
from pipeline.metrics.scores.nearest import Nearest
from pipeline.metrics.scores.per_class import PerClass
from pipeline.metrics.scores.precision_recall import PrecisionRecall

Score = KID | InceptionScore | PrecisionRecall | DensityCoverage | PerClass | Nearest

__all__ = [
    "KID",
    "ClassRow",
    "DensityCoverage",
    "Estimate",
    "FeatureSet",
    "Found",
    "InceptionScore",
    "Nearest",
    "Need",
    "Number",
    "Pair",
    "PerClass",
    "PrecisionRecall",
    "Score",
    "ScoreShape",
    "suffix",
    "wants_reference",
]
