"""Whether a point's guidance goes with its networks, found out before anything is computed."""

from pipeline.diffusion.guidance import ClassifierFree
from pipeline.engine.work import Point
from pipeline.errors import SettingsError
from pipeline.training.snapshot import Snapshot


def check_guidance(point: Point, snapshot: Snapshot, guide: Snapshot | None, is_labelled: bool) -> None:
    """Checks what the settings alone cannot tell.

    Args:
        point: with its guidance.
        snapshot: of the network that is guided.
        guide: the second network, if one was given.
        is_labelled: whether the samples have labels.

    Raises:
        SettingsError: a guide is missing, never asked, or does not fit; or there are no labels to guide by.
    """
    guidance = point.sampler.guidance
    if guidance.needs_guide != (guide is not None):
        problem = (
            f"is given, and {guidance.kind} guidance asks none" if guide else f"is missing: {guidance.kind} needs one"
        )
        raise SettingsError(f"{point.name}: guide", problem)
    if guide is not None:
        _check_guide(point, snapshot, guide)
    if isinstance(guidance, ClassifierFree):
        _check_classifier_free(point, snapshot, is_labelled)


def _check_guide(point: Point, snapshot: Snapshot, guide: Snapshot) -> None:
    where, ours, theirs = f"{point.name}: guide", snapshot.model, guide.model
    if theirs.shape != ours.shape:
        one, other = ("x".join(map(str, shape)) for shape in (theirs.shape, ours.shape))
        raise SettingsError(where, f"the images of {guide.title} are {one}, those of {snapshot.title} are {other}")
    if theirs.num_classes not in (0, ours.num_classes):
        raise SettingsError(
            where,
            f"{guide.title} knows {theirs.num_classes} classes and {snapshot.title} {ours.num_classes}: a guide needs "
            f"the same classes, or none",
        )
    try:
        ours.preconditioning.levels().common(theirs.preconditioning.levels())
    except ValueError as error:
        raise SettingsError(where, str(error).removeprefix("guide: ")) from error


def _check_classifier_free(point: Point, snapshot: Snapshot, is_labelled: bool) -> None:
    where = f"{point.name}: sampler.guidance"
    if not is_labelled:
        raise SettingsError(
            where, f"cfg guides by a label, and these samples have none ({snapshot.title}, labels {point.labels.kind})"
        )
    training = snapshot.manifest.meta.get("settings") or {}  # of an import, nobody knows how it was trained
    if training and training.get("kind") != "imported" and not training.get("label_dropout"):
        raise SettingsError(
            where,
            f"cfg asks the network without a label, and {snapshot.title} always had one: train with "
            f"training.label_dropout, or guide by a network without classes (autoguidance)",
        )
