"""Numbers for generated images, from the features that lie in the store beside them. Nothing is generated here."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.data.features import (
    KeptMoments,
    commit_moments,
    committed_features,
    read_chunk_features,
    read_moments,
)
from pipeline.data.samples import spans
from pipeline.data.store import Store
from pipeline.engine.generation import PointResult, Seeds
from pipeline.engine.intervals import Uncertainty, strata_of, uncertainty
from pipeline.engine.references import Reference
from pipeline.engine.work import ExtractorPlan
from pipeline.errors import SettingsError, StoreError
from pipeline.metrics.accuracy import recognised
from pipeline.metrics.frechet import frechet_distance
from pipeline.metrics.moments import Moments
from pipeline.metrics.protocol import EvaluationProtocol, check_comparable
from pipeline.training.snapshot import Snapshot

_RECOGNISED = "recognised"


@dataclass(frozen=True)
class Evaluation:
    """What one extractor says of one point.

    Args:
        name: of the point.
        samples_digest: of its images.
        distance: the Frechet distance to the reference.
        half_width: half the 95 % interval of the distance (`pipeline.metrics.uncertainty`); None where it is of too few
            images to have one, or their features were not kept.
        rank_deficient: it is of too few images for the extractor's number of features.
        accuracy: the share of images that are recognised as their labels; None where the extractor does not know the
            classes, or the images have no labels.
        protocol: how it was measured; numbers of unlike protocols cannot be compared.
        uncertainty: the interval itself, that of the limit of many images, and what paired comparisons need; None where
            half_width is, and where only that was kept.
        recognised: whether each image is recognised as its label, bool (n,), where accuracy is known.
    """

    name: str
    samples_digest: str
    distance: float
    half_width: float | None
    rank_deficient: bool
    accuracy: float | None
    protocol: EvaluationProtocol
    uncertainty: Uncertainty | None = field(default=None, repr=False, compare=False)
    recognised: NDArray[np.bool_] | None = field(default=None, repr=False, compare=False)


def evaluate(
    store: Store,
    results: Sequence[PointResult],
    seeds: Seeds,
    plan: ExtractorPlan,
    reference: Reference,
    keep_moments: bool = False,
) -> list[Evaluation]:
    """Evaluates points whose images and features are in the store.

    Args:
        store: where they are.
        results: the points, as `generate` told them.
        seeds: which images of each; their number is the n of the distance.
        plan: the extractor whose features are read.
        reference: of the same extractor.
        keep_moments: the moments of each point are kept, so that its features need not be.

    Raises:
        StoreError: the store has the features of fewer images than are asked for.
        SettingsError: the reference is of another extractor or of images of another shape, or the classifier knows
            fewer classes than the labels.
    """
    if seeds.count < 2:
        raise SettingsError("seeds.count", f"must be at least 2 for a distance (got {seeds.count})")
    protocol = EvaluationProtocol.here(
        plan.distance_name,
        plan.digest,
        seeds.count,
        seeds.first,
        reference.digest,
        reference.count,
        plan.settings.resize,
    )
    return [_evaluate(store, result, seeds, plan, reference, protocol, keep_moments) for result in results]


def ranked(evaluations: Sequence[Evaluation], legacy: bool = False) -> list[Evaluation]:
    """Best first.

    Args:
        legacy: whatever their protocols; somebody asked for that by name.

    Raises:
        SettingsError: two of them were measured in ways that cannot be compared.
    """
    check_comparable([(evaluation.name, evaluation.protocol) for evaluation in evaluations], legacy)
    return sorted(evaluations, key=lambda evaluation: evaluation.distance)


def check_shape(reference: Reference, snapshot: Snapshot) -> None:
    """Raises:
    SettingsError: the reference is of images of another shape than those that the snapshot makes.
    """
    if reference.shape is not None and reference.shape != snapshot.model.shape:
        theirs, ours = ("x".join(map(str, shape)) for shape in (reference.shape, snapshot.model.shape))
        raise SettingsError(reference.title, f"its images are {theirs}, those of {snapshot.title} are {ours}")


def _evaluate(
    store: Store, result: PointResult, seeds: Seeds, plan: ExtractorPlan, reference: Reference,
    protocol: EvaluationProtocol, keep_moments: bool,
) -> Evaluation:  # fmt: skip
    check_shape(reference, result.snapshot)
    kept = _kept(store, result, seeds, plan)
    found = kept or _measured(store, result, seeds, plan)
    gaussian = found.moments.gaussian()
    if gaussian.num_features != reference.gaussian.num_features:
        sizes = f"{reference.gaussian.num_features} features, {plan.distance_name} has {gaussian.num_features}"
        raise SettingsError(reference.title, f"is no reference for this extractor: it is of {sizes}")
    distance = frechet_distance(gaussian, reference.gaussian)
    sure = found.sure.get(reference.digest)
    if sure is None and not distance.rank_deficient and _num_there(store, result, seeds, plan) == seeds.count:
        sure = uncertainty(
            store, result.samples_digest, plan.digest, seeds.first, seeds.count, result.chunk_size, distance.value,
            gaussian, reference.gaussian, _strata(result, seeds),
        )  # fmt: skip
    width = found.half_widths.get(reference.digest) if sure is None else sure.interval.half_width
    learnt = {} if sure is None or reference.digest in found.sure else {reference.digest: sure}
    if keep_moments and (kept is None or learnt):
        _keep(store, result, seeds, plan, found, {**found.sure, **learnt})
    return Evaluation(
        result.point.name, result.samples_digest, distance.value, width, distance.rank_deficient, found.accuracy,
        protocol, sure, found.recognised,
    )  # fmt: skip


class _Found(NamedTuple):
    """What is known of the images alone; how sure their distance is by the digest of the reference, where that was
    kept: all of it, or as before half the interval alone."""

    moments: Moments
    recognised: NDArray[np.bool_] | None
    accuracy: float | None
    sure: Mapping[str, Uncertainty]
    half_widths: Mapping[str, float]


def _strata(result: PointResult, seeds: Seeds) -> NDArray[np.int64] | None:
    return strata_of(result.point.labels, seeds.first, seeds.count, result.snapshot.model.num_classes)


def _kept(store: Store, result: PointResult, seeds: Seeds, plan: ExtractorPlan) -> _Found | None:
    """Where it was kept from before."""
    found = read_moments(store, result.samples_digest, plan.digest, seeds.first, seeds.count)
    if found is None:
        return None
    numbers = found.meta.get("uncertainty", {})
    strata = _strata(result, seeds)
    sure = {reference: Uncertainty.kept(of, found.arrays[reference], strata) for reference, of in numbers.items()}
    recognised = found.arrays.get(_RECOGNISED)
    return _Found(
        Moments.from_bytes(found.data), None if recognised is None else recognised.astype(bool),
        found.meta["accuracy"], sure, found.meta.get("half_widths", {}),
    )  # fmt: skip


def _keep(
    store: Store, result: PointResult, seeds: Seeds, plan: ExtractorPlan, found: _Found, sure: Mapping[str, Uncertainty]
) -> None:
    """4 bytes an image and reference, so that settings can be compared when their features are gone."""
    arrays: dict[str, NDArray[Any]] = {reference: of.influences for reference, of in sure.items()}
    if found.recognised is not None:
        arrays[_RECOGNISED] = found.recognised.astype(np.uint8)
    about = {
        "accuracy": found.accuracy,
        "half_widths": {**found.half_widths, **{reference: of.interval.half_width for reference, of in sure.items()}},
        "uncertainty": {reference: of.numbers() for reference, of in sure.items()},
    }
    kept = KeptMoments(found.moments.to_bytes(), about, arrays)
    commit_moments(store, result.samples_digest, plan.digest, seeds.first, seeds.count, kept)


def _measured(store: Store, result: PointResult, seeds: Seeds, plan: ExtractorPlan) -> _Found:
    """The same from the features."""
    _check_there(store, result, seeds, plan)
    logits: list[torch.Tensor] = []

    def parts() -> Iterator[Moments]:  # one at a time: those of 2,048 features are 32 MB
        for index, part in spans(seeds.first, seeds.count, result.chunk_size):
            found = read_chunk_features(store, result.samples_digest, plan.digest, index)
            if found.logits is not None:
                logits.append(torch.from_numpy(found.logits[part]))
            yield Moments.of(found.features[part])

    moments = reduce(add, parts())
    right = _recognised(result, seeds, torch.cat(logits)) if logits else None
    return _Found(moments, right, None if right is None else float(right.mean()), {}, {})


def _recognised(result: PointResult, seeds: Seeds, logits: torch.Tensor) -> NDArray[np.bool_] | None:
    """Labels are a function of the seed, so no image needs to be read for them."""
    all_seeds = torch.arange(seeds.first, seeds.first + seeds.count)
    labels = result.point.labels.of(all_seeds, result.snapshot.model.num_classes)
    if bool((labels < 0).all()):
        return None
    if int(labels.max()) >= logits.shape[1]:
        raise SettingsError(
            "classifier", f"knows {logits.shape[1]} classes, and {result.point.name} has images of {int(labels.max())}"
        )
    return recognised(logits, labels).numpy()


def _check_there(store: Store, result: PointResult, seeds: Seeds, plan: ExtractorPlan) -> None:
    found = _num_there(store, result, seeds, plan)
    if found < seeds.count:
        last = seeds.first + seeds.count - 1
        raise StoreError(
            f"samples/{result.samples_digest}",
            f"{found:,} of the {seeds.count:,} images asked for (seeds {seeds.first}-{last}) are there with features "
            f"of {plan.distance_name}: generate the others first, or ask for fewer",
        )


def _num_there(store: Store, result: PointResult, seeds: Seeds, plan: ExtractorPlan) -> int:
    """How many of the images have their features in the store."""
    there = committed_features(store, result.samples_digest, plan.digest)
    wanted = spans(seeds.first, seeds.count, result.chunk_size)
    return sum(part.stop - part.start for index, part in wanted if index in there)
