"""Scores of points, from the features that lie in the store. What a score told is kept beside the features, under

    features/<samples digest>/<extractor digest>/score-<kind>-<digest of score, seeds and reference>

so it is computed once, and stays where features are given up. Nothing is generated here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray

from pipeline.data.cache import Kept, kept
from pipeline.data.features import KeptScore, StoredFeatures, commit_score, prepared_key, read_features, read_score
from pipeline.data.pictures import comparison_picture
from pipeline.data.samples import read_samples
from pipeline.data.store import Store
from pipeline.digests import digest
from pipeline.engine.intervals import strata_of
from pipeline.engine.measures import Measure
from pipeline.engine.run import PointResult
from pipeline.engine.work import ExtractorPlan, Seeds
from pipeline.errors import ImagesNotKeptError
from pipeline.metrics.extractors import Inception
from pipeline.metrics.protocol import FID
from pipeline.metrics.scores import ClassRow, Estimate, FeatureSet, Found, Number, Pair, Score, suffix
from pipeline.metrics.scores.base import Prepared

_PREPARED = "prepared.safetensors"
_SHOWN = ("generated", "nearest")  # the two rows of a picture of pairs


@dataclass(frozen=True)
class Heading:
    """What a number is called, before it is measured.

    Args:
        key: in the tracker, and in JSON and CSV.
        title: for people.
        better: "less", "more" or "neither".
        estimand: what its interval is of; empty where it has none.
        why_none: why not.
        extractor: what a distance of the same features is called.
    """

    key: str
    title: str
    better: str
    estimand: str
    why_none: str
    extractor: str


@dataclass(frozen=True, eq=False)
class Scored:
    """What all scores of one measure tell of one point.

    Args:
        values: by `Heading.key`.
        classes: class by class, where a score goes by class.
        pairs: the nearest pairs, if a score knows any: `image` is a seed, `reference` an index of the reference.
        picture: of these pairs, uint8 (H, W, 3); None where there are none, or their images were given up before.
    """

    values: Mapping[str, Estimate]
    classes: tuple[ClassRow, ...] = ()
    pairs: tuple[Pair, ...] = ()
    picture: NDArray[np.uint8] | None = field(default=None, repr=False)


def headings(measure: Measure) -> list[Heading]:
    """Of all numbers of a measure's scores."""
    return [_heading(measure, score, number) for score in measure.scores for number in score.numbers]


def kept_names(measure: Measure, seeds: Seeds) -> tuple[str, ...]:
    """Under which names the store keeps what the measure's scores tell of these seeds."""
    return tuple(_name(measure, score, seeds) for score in measure.scores)


@dataclass(eq=False)
class Scorer:
    """Scores points by one measure; what depends on the reference alone is computed once."""

    store: Store
    measure: Measure
    seeds: Seeds
    _prepared: dict[Score, Prepared] = field(default_factory=dict)

    def score(self, result: PointResult) -> Scored:
        """Of a point whose features are in the store.

        Raises:
            StoreError: they are not, or are damaged.
        """
        images: FeatureSet | None = None
        values: dict[str, Estimate] = {}
        told: list[tuple[Found, Mapping[str, NDArray[np.uint8]]]] = []
        for score in self.measure.scores:
            kept = self._kept(result, score)
            if kept is None:
                images = images or self._images(result)
                kept = self._measure(result, score, images)
            told.append(kept)
            values |= {
                _heading(self.measure, score, number).key: kept[0].values[number.key]
                for number in score.numbers
                if number.key in kept[0].values
            }
        classes = next((found.classes for found, _ in told if found.classes), ())
        pairs = next((found.pairs for found, _ in told if found.pairs), ())
        shown = next((pictures for _, pictures in told if pictures), None)
        return Scored(values, classes, pairs, None if shown is None else _picture(shown, pairs))

    @cached_property
    def _reference(self) -> FeatureSet | None:
        features = self.measure.features
        if features is None:
            return None
        found = _feature_set(self.measure.plan, features.read(), features.labels())
        held_out = self.measure.held_out
        return found if held_out is None else replace(found, held_out=held_out.read().features)

    def _kept(self, result: PointResult, score: Score) -> tuple[Found, Mapping[str, NDArray[np.uint8]]] | None:
        name = _name(self.measure, score, self.seeds)
        kept = read_score(self.store, result.samples_digest, self.measure.plan.digest, name)
        return None if kept is None else (_found(kept.meta["found"]), kept.images)

    def _measure(
        self, result: PointResult, score: Score, images: FeatureSet
    ) -> tuple[Found, Mapping[str, NDArray[np.uint8]]]:
        reference = self._reference
        prepared = {} if reference is None else self._prepare(score, reference)
        found = _by_seed(score.measure(images, reference, prepared), self.seeds.first)
        pictures = self._pictures(result, found.pairs)
        meta = {"score": score, "found": asdict(found), "extractor": self.measure.plan.distance_name}
        name = _name(self.measure, score, self.seeds)
        kept = KeptScore(meta, pictures)
        commit_score(self.store, result.samples_digest, self.measure.plan.digest, name, kept)
        return found, pictures

    def _prepare(self, score: Score, reference: FeatureSet) -> Prepared:
        """What depends on the reference alone, once a store."""
        if score not in self._prepared:
            assert self.measure.features is not None
            names = self.measure.features.dataset.info.digest, self.measure.plan.digest
            held_out = _held_out(self.measure, score)
            name = digest({"score": score, **held_out}) if held_out else digest(score)

            def make() -> Kept:
                arrays = {name: np.ascontiguousarray(array) for name, array in score.prepare(reference).items()}
                return Kept(safetensors.numpy.save(arrays), {"score": score})

            whole = kept(self.store, prepared_key(*names, f"{score.kind}-{name}"), _PREPARED, make)
            self._prepared[score] = safetensors.numpy.load(whole.data)
        return self._prepared[score]

    def _images(self, result: PointResult) -> FeatureSet:
        first, count = self.seeds.first, self.seeds.count
        stored = read_features(
            self.store, result.samples_digest, self.measure.plan.digest, first, count, result.chunk_size
        )
        classes = result.snapshot.model.num_classes
        labels = result.point.labels.of(torch.arange(first, first + count), classes).numpy()
        found = _feature_set(self.measure.plan, stored, None if (labels < 0).all() else labels)
        return replace(found, strata=strata_of(result.point.labels, first, count, classes))

    def _pictures(self, result: PointResult, pairs: Sequence[Pair]) -> dict[str, NDArray[np.uint8]]:
        """Of each pair both images; none where those that were generated are not kept any more."""
        if not pairs or self.measure.features is None:
            return {}
        dataset = self.measure.features.dataset
        try:
            made = [read_samples(self.store, result.samples_digest, pair.image, 1).images for pair in pairs]
        except ImagesNotKeptError:
            return {}
        nearest = dataset.images(np.array([pair.reference for pair in pairs], np.int64))
        return dict(zip(_SHOWN, (np.concatenate(made), nearest), strict=True))


def _heading(measure: Measure, score: Score, number: Number) -> Heading:
    name = measure.plan.distance_name
    key, title = number.named(published=name == FID)
    unusual = suffix(score)
    title += f" ({unusual.strip('_').replace('_', ' ')})" if unusual else ""
    return Heading(key + unusual, title, number.better, number.estimand, number.why_none, name)


def _name(measure: Measure, score: Score, seeds: Seeds) -> str:
    reference = "" if measure.features is None else measure.features.dataset.info.digest
    about = {"score": score, "seeds": [seeds.first, seeds.count], "reference": reference}
    return f"score-{score.kind}-{digest(about | _held_out(measure, score))}"


def _held_out(measure: Measure, score: Score) -> dict[str, str]:
    """Which images were held out, where a score looks at them."""
    if measure.held_out is None or "held_out" not in score.uses:
        return {}
    return {"held_out": measure.held_out.dataset.info.digest}


def _feature_set(plan: ExtractorPlan, stored: StoredFeatures, labels: NDArray[np.int64] | None) -> FeatureSet:
    """With the logits that the extractor keeps, or that follow from the features."""
    if isinstance(plan.settings, Inception):
        return FeatureSet(stored.features, plan.settings.logits(stored.features, plan.data), None, labels)
    return FeatureSet(stored.features, stored.logits, stored.logits, labels)


def _by_seed(found: Found, first: int) -> Found:
    pairs = tuple(Pair(pair.image + first, pair.reference, pair.distance) for pair in found.pairs)
    return Found(found.values, found.classes, pairs)


def _found(meta: Mapping[str, Any]) -> Found:
    """What was kept, as it was."""
    rows = [
        row | {name: None if row[name] is None else _estimate(row[name]) for name in ("accuracy", "distance")}
        for row in meta["classes"]
    ]
    return Found(
        {key: _estimate(value) for key, value in meta["values"].items()},
        tuple(ClassRow(**row) for row in rows),
        tuple(Pair(pair["image"], pair["reference"], float(pair["distance"])) for pair in meta["pairs"]),
    )


def _estimate(value: Mapping[str, float | None]) -> Estimate:
    """A whole number's point is lost in the store."""
    low, high = (None if value[end] is None else float(value[end] or 0) for end in ("low", "high"))
    return Estimate(float(value["value"] or 0), low, high)


def _picture(shown: Mapping[str, NDArray[np.uint8]], pairs: Sequence[Pair]) -> NDArray[np.uint8]:
    """The nearest pairs in columns, the nearest at the left: generated above, its nearest reference image below."""
    label = f"distance {pairs[0].distance:.3g} to {pairs[-1].distance:.3g}"
    made, nearest = (shown[name] for name in _SHOWN)
    return comparison_picture([(f"generated ({label})", made), ("nearest of the reference", nearest)])
