"""Of which extractor a score is taken: the first one that has all that it can use, else the first that has what it
needs."""

from collections.abc import Sequence

from pipeline.config.measuring import MetricSettings
from pipeline.errors import SettingsError
from pipeline.metrics.extractors import ExtractorSettings
from pipeline.metrics.scores import Need, Score

_WORDS: dict[Need, str] = {
    "features": "features",
    "logits": "logits",
    "class_logits": "logits of the data set's classes",
    "labels": "labels of the images",
    "reference": "the features of reference images",
    "reference_labels": "labels of reference images",
}


def scores_by_extractor(metrics: MetricSettings) -> list[tuple[Score, ...]]:
    """The scores that are taken of each extractor, in the order of the settings.

    Raises:
        SettingsError: no extractor has what a score needs.
    """
    has = [_has(settings, metrics, is_first=number == 0) for number, settings in enumerate(metrics.extractors)]
    chosen = [_choose(score, has) for score in metrics.scores]
    return [
        tuple(score for score, number in zip(metrics.scores, chosen, strict=True) if number == mine)
        for mine in range(len(has))
    ]


def _has(settings: ExtractorSettings, metrics: MetricSettings, is_first: bool) -> frozenset[Need]:
    """What an extractor can give; whether images have labels is theirs to say, and seen later."""
    found: set[Need] = {"features", "labels"}
    if settings.classes != "none":
        found.add("logits")
    if settings.classes == "own":
        found.add("class_logits")
    if metrics.reference_npz is None or not is_first:
        found |= {"reference", "reference_labels"}
        if metrics.held_out:
            found.add("held_out")
    return frozenset(found)


def _choose(score: Score, has: Sequence[frozenset[Need]]) -> int:
    for wanted in (score.needs | score.uses, score.needs):
        for number, there in enumerate(has):
            if wanted <= there:
                return number
    missing = " and ".join(_WORDS[need] for need in sorted(score.needs - frozenset().union(*has)))
    published = ": reference_npz has only their moments, so leave it out" if "reference" in missing else ""
    raise SettingsError("metrics.scores", f"{score.kind} needs {missing}, which no extractor here gives{published}")
