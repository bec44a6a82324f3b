"""Feature sets for the tests of scores."""

import numpy as np

from pipeline.metrics.scores import FeatureSet, Found, Score


def gaussian(n: int, d: int = 6, seed: int = 0, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(shift, scale, (n, d))).astype(np.float32)


def full(n: int, d: int = 6, seed: int = 0, shift: float = 0.0, num_classes: int = 3) -> FeatureSet:
    """Features that tell of their classes, with logits and labels."""
    random = np.random.default_rng([seed, 1])
    labels = np.arange(n) % num_classes
    features = gaussian(n, d, seed, shift)
    features[:, :num_classes] += 2 * np.eye(num_classes, dtype=np.float32)[labels]
    logits = (features[:, :num_classes] + random.normal(0, 0.5, (n, num_classes))).astype(np.float32)
    return FeatureSet(features, logits, logits, labels)


def measured(score: Score, images: FeatureSet | np.ndarray, reference: FeatureSet | np.ndarray | None = None) -> Found:
    if isinstance(images, np.ndarray):
        images = FeatureSet(images)
    if isinstance(reference, np.ndarray):
        reference = FeatureSet(reference)
    return score.measure(images, reference, {} if reference is None else score.prepare(reference))
