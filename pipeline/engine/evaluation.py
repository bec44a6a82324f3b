"""Numbers for generated images, from the features that lie in the store beside them. Nothing is generated here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

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
from pipeline.metrics.moments import Moments
from pipeline.metrics.protocol import EvaluationProtocol
from pipeline.training.snapshot import Snapshot


@dataclass(frozen=True)
class Evaluation:
    """What one extractor says of one point.

    Args:
        name: of the point.
        samples_digest: of its images.
        distance: the Frechet distance to the reference.
        rank_deficient: it is of too few images for the extractor's number of features.
        accuracy: the share of images that are recognised as their labels; None where the extractor does not know the
            classes, or the images have no labels.
        protocol: how it was measured; numbers of unlike protocols cannot be compared.
    """

    name: str
    samples_digest: str
    distance: float
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
        plan.distance_name, plan.digest, seeds.count, seeds.first, reference.digest, reference.count
    )
    return [_evaluate(store, result, seeds, plan, reference, protocol, keep_moments) for result in results]


def ranked(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Best first.

    Raises:
        SettingsError: two of them were measured in ways that cannot be compared.
    """
    for other in evaluations[1:]:
        reason = evaluations[0].protocol.comparable_with(other.protocol)
        if reason is not None:
            raise SettingsError(f"{evaluations[0].name} and {other.name}", f"cannot be ranked: {reason}")
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
    moments, recognised = _kept(store, result, seeds, plan) or _measured(store, result, seeds, plan, keep_moments)
    gaussian = moments.gaussian()
    if gaussian.num_features != reference.gaussian.num_features:
        sizes = f"{reference.gaussian.num_features} features, {plan.distance_name} has {gaussian.num_features}"
        raise SettingsError(reference.title, f"is no reference for this extractor: it is of {sizes}")
    distance = frechet_distance(gaussian, reference.gaussian)
    name, images = result.point.name, result.samples_digest
    return Evaluation(name, images, distance.value, distance.rank_deficient, recognised, protocol)


def _kept(
    store: Store, result: PointResult, seeds: Seeds, plan: ExtractorPlan
) -> tuple[Moments, float | None] | None:  # fmt: skip
    """The moments and the accuracy, where they were kept from before."""
    found = read_moments(store, result.samples_digest, plan.digest, seeds.first, seeds.count)
    return None if found is None else (Moments.from_bytes(found.data), found.meta["accuracy"])


def _measured(
    store: Store, result: PointResult, seeds: Seeds, plan: ExtractorPlan, keep: bool
) -> tuple[Moments, float | None]:
    """The same from the features, and kept if asked for."""
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
    if keep:
        kept = KeptMoments(moments.to_bytes(), {"accuracy": recognised})
        commit_moments(store, result.samples_digest, plan.digest, seeds.first, seeds.count, kept)
    return moments, recognised


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
    there = committed_features(store, result.samples_digest, plan.digest)
    wanted = spans(seeds.first, seeds.count, result.chunk_size)
    found = sum(part.stop - part.start for index, part in wanted if index in there)
    if found < seeds.count:
        last = seeds.first + seeds.count - 1
        raise StoreError(
            f"samples/{result.samples_digest}",
            f"{found:,} of the {seeds.count:,} images asked for (seeds {seeds.first}-{last}) are there with features "
            f"of {plan.distance_name}: generate the others first, or ask for fewer",
        )
