"""Numbers for generated images, from the features that lie in the store beside them. Nothing is generated here."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import NamedTuple

import numpy as np
import torch

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
from pipeline.engine.references import Reference
from pipeline.engine.work import ExtractorPlan
from pipeline.errors import SettingsError, StoreError
from pipeline.metrics.accuracy import accuracy
from pipeline.metrics.frechet import frechet_distance
from pipeline.metrics.moments import Gaussian, Moments
from pipeline.metrics.protocol import EvaluationProtocol, check_comparable
from pipeline.metrics.uncertainty import Influence, half_width
from pipeline.training.snapshot import Snapshot


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
    """

    name: str
    samples_digest: str
    distance: float
    half_width: float | None
    rank_deficient: bool
    accuracy: float | None
    protocol: EvaluationProtocol


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
    width = found.half_widths.get(reference.digest)
    if width is None and not distance.rank_deficient:
        width = _half_width(store, result, seeds, plan, reference, gaussian)
    if keep_moments and kept is None:
        about = {"accuracy": found.accuracy, "half_widths": {} if width is None else {reference.digest: width}}
        data = KeptMoments(found.moments.to_bytes(), about)
        commit_moments(store, result.samples_digest, plan.digest, seeds.first, seeds.count, data)
    name, images = result.point.name, result.samples_digest
    return Evaluation(name, images, distance.value, width, distance.rank_deficient, found.accuracy, protocol)


class _Found(NamedTuple):
    """What is known of the images alone; half the interval of their distance by the digest of the reference."""

    moments: Moments
    accuracy: float | None
    half_widths: Mapping[str, float]


def _kept(store: Store, result: PointResult, seeds: Seeds, plan: ExtractorPlan) -> _Found | None:
    """Where it was kept from before."""
    found = read_moments(store, result.samples_digest, plan.digest, seeds.first, seeds.count)
    if found is None:
        return None
    return _Found(Moments.from_bytes(found.data), found.meta["accuracy"], found.meta.get("half_widths", {}))


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
    recognised = _accuracy(result, seeds, torch.cat(logits)) if logits else None
    return _Found(moments, recognised, {})


def _half_width(
    store: Store, result: PointResult, seeds: Seeds, plan: ExtractorPlan, reference: Reference, gaussian: Gaussian
) -> float | None:
    """By the influence of every image; None where their features are not kept. They are read again, since all of them
    may be more than memory holds."""
    if _num_there(store, result, seeds, plan) < seeds.count:
        return None
    influence = Influence.on(gaussian, reference.gaussian)
    parts = [
        influence.of(read_chunk_features(store, result.samples_digest, plan.digest, index).features[part])
        for index, part in spans(seeds.first, seeds.count, result.chunk_size)
    ]
    return half_width(np.concatenate(parts))


def _accuracy(result: PointResult, seeds: Seeds, logits: torch.Tensor) -> float | None:
    """Labels are a function of the seed, so no image needs to be read for them."""
    all_seeds = torch.arange(seeds.first, seeds.first + seeds.count)
    labels = result.point.labels.of(all_seeds, result.snapshot.model.num_classes)
    if bool((labels < 0).all()):
        return None
    if int(labels.max()) >= logits.shape[1]:
        raise SettingsError(
            "classifier", f"knows {logits.shape[1]} classes, and {result.point.name} has images of {int(labels.max())}"
        )
    return accuracy(logits, labels)


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
