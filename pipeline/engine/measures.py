"""A measure is an extractor and the reference that its distance is to."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.config.measuring import MetricSettings
from pipeline.data.dataset import Dataset
from pipeline.data.samples import Execution
from pipeline.data.store import Store
from pipeline.engine.extractors import classifier_for, extractor_plan
from pipeline.engine.reference_features import ReferenceFeatures, reference_features
from pipeline.engine.references import Reference, published_reference, reference_moments
from pipeline.engine.score_extractors import scores_by_extractor
from pipeline.engine.work import Actors, ExtractorPlan, Point
from pipeline.errors import SettingsError
from pipeline.metrics.extractors import Classifier, ExtractorSettings, File
from pipeline.metrics.protocol import FID
from pipeline.metrics.published_protocols import PROTOCOLS
from pipeline.metrics.scores import Score, wants_reference
from pipeline.training.snapshot import find_snapshot


@dataclass(frozen=True, eq=False)
class Measure:
    """What is measured.

    Args:
        name: a word for keys of metrics: `inception`, `classifier`, or what a file is called.
        plan: the extractor.
        reference: its reference.
        note: one line that should stand by its numbers, or an empty text.
        scores: what is told beside the distance, of the same features.
        features: of the reference, where a score asks for them.
        held_out: features of images like the reference's that are not among them, where the settings name any.
        protocol: the published protocol that is followed, or `legacy`, by name; or an empty text.
    """

    name: str
    plan: ExtractorPlan
    reference: Reference
    note: str = ""
    scores: tuple[Score, ...] = ()
    features: ReferenceFeatures | None = None
    protocol: str = ""
    held_out: ReferenceFeatures | None = None


def build_measures(
    store: Store, metrics: MetricSettings, dataset: str, execution: Execution, actors: Actors, progress: bool = True
) -> tuple[Measure, ...]:
    """The measures that settings ask for, in their order. Classifiers are trained and references computed where the
    store does not have them. Published statistics are the reference of the first extractor; the others have a data set.

    Args:
        dataset: the name of the data set that is meant where the settings name none.

    Raises:
        UserError: a file or a data set cannot be used.
    """
    compared = metrics.dataset or dataset
    learnt = metrics.classifier_dataset or compared
    published = None if metrics.reference_npz is None else published_reference(metrics.reference_npz)
    if published is None or len(metrics.extractors) > 1:
        Dataset.open(store, compared)  # its errors come before anything is trained
    names, scores = _names(metrics.extractors), scores_by_extractor(metrics)
    found: list[Measure] = []
    for settings, name, asked in zip(metrics.extractors, names, scores, strict=True):
        note = ""
        if isinstance(settings, Classifier):
            classifier = classifier_for(store, learnt, settings, progress)
            plan, note = classifier.plan, str(classifier)
        else:
            plan = extractor_plan(store, settings)
        followed = "" if found else _protocol(metrics, plan)
        if published is not None and not found:
            found.append(Measure(name, plan, published, note, asked, protocol=followed))
            continue
        data, features, held_out = Dataset.open(store, compared), None, None
        if any(map(wants_reference, asked)):
            features = reference_features(store, data, plan, execution, actors, progress)
        if metrics.held_out is not None and any("held_out" in score.uses for score in asked):
            others = _held_out(store, metrics.held_out, data)
            held_out = reference_features(store, others, plan, execution, actors, progress)
        measured = reference_moments(store, data, plan, execution, actors, progress)
        found.append(Measure(name, plan, measured, note, asked, features, followed, held_out))
    return tuple(found)


def _held_out(store: Store, name: str, reference: Dataset) -> Dataset:
    """Raises:
    SettingsError: its images are the reference's, or of another shape.
    """
    found = Dataset.open(store, name)
    if found.info.digest == reference.info.digest:
        raise SettingsError("metrics.held_out", f"must be other images than the reference ({reference.info.name})")
    if found.info.shape != reference.info.shape:
        theirs, ours = ("x".join(map(str, data.info.shape)) for data in (found, reference))
        raise SettingsError("metrics.held_out", f"its images are {theirs}, those of {reference.info.name} are {ours}")
    return found


def _protocol(metrics: MetricSettings, plan: ExtractorPlan) -> str:
    """The name of the protocol that the first extractor follows; the weights are seen only now."""
    if metrics.protocol in PROTOCOLS and plan.distance_name != FID:
        raise SettingsError(
            "metrics.protocol",
            f"{metrics.protocol} asks for the published weights of Inception (got {plan.distance_name})",
        )
    return metrics.protocol or ""


def needs_dataset(metrics: MetricSettings) -> bool:
    """Whether something is measured against images, and not against published statistics alone."""
    learns = any(isinstance(settings, Classifier) for settings in metrics.extractors)
    return metrics.reference_npz is None or len(metrics.extractors) > 1 or learns


def check_reference(store: Store, metrics: MetricSettings, points: Sequence[Point]) -> None:
    """Raises:
    SettingsError: a published protocol compares with the training set, and the settings name another data set.
    """
    if metrics.protocol not in PROTOCOLS or metrics.dataset is None:
        return
    try:
        training_set = trained_on(store, points)
    except SettingsError:  # of an imported checkpoint nobody knows it; the user names it
        return
    if metrics.dataset != training_set:
        raise SettingsError(
            "metrics.dataset",
            f"must be the training set, {training_set}, for the protocol {metrics.protocol} (got {metrics.dataset})",
        )


def trained_on(store: Store, points: Sequence[Point]) -> str:
    """The name of the data set that the points' checkpoints were trained on.

    Raises:
        CheckpointError: a checkpoint is not there.
        SettingsError: they were trained on different ones, or nobody knows on what.
    """
    snapshots = {point.checkpoint: find_snapshot(store, point.checkpoint) for point in points}
    for snapshot in snapshots.values():
        if "name" not in snapshot.dataset:
            raise SettingsError(
                "metrics.dataset",
                f"must be given: {snapshot.training} was imported, and nothing says what it was trained on",
            )
    names = {str(snapshot.dataset["name"]) for snapshot in snapshots.values()}
    if len(names) != 1:
        raise SettingsError(
            "metrics.dataset",
            f"must be given: the checkpoints were trained on different data sets ({', '.join(sorted(names))})",
        )
    return names.pop()


def _names(extractors: Sequence[ExtractorSettings]) -> list[str]:
    names: list[str] = []
    for settings in extractors:
        title = (settings.name or settings.path.rsplit("/", 1)[-1]) if isinstance(settings, File) else settings.kind
        name = re.sub(r"[^a-z0-9]+", "_", title.removesuffix(".pt").removesuffix(".pt2").lower()).strip("_")
        names.append(f"{name}_{len(names) + 1}" if name in names else name)
    return names
