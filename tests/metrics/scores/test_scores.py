"""What all scores have in common."""

import inspect
import re
from collections import Counter
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from pipeline.metrics.scores import (
    KID,
    DensityCoverage,
    InceptionScore,
    Nearest,
    PrecisionRecall,
    Score,
    neighbours,
    suffix,
    wants_reference,
)
from tests.metrics.scores.sets import full, measured

SCORES = [kind() for kind in get_args(Score)]
each = pytest.mark.parametrize("score", SCORES, ids=lambda score: score.kind)


@each
def test_every_number_has_an_interval_and_says_of_what_or_says_why_it_has_none(score: Score) -> None:
    reference = replace(full(150, seed=1), held_out=full(90, seed=2).features)
    found = measured(score, full(120), reference)
    assert set(found.values) == {number.key for number in score.numbers}
    for number in score.numbers:
        estimate = found.values[number.key]
        assert np.isfinite(estimate.value)
        if number.estimand:
            assert estimate.low is not None
            assert estimate.high is not None
            assert estimate.low <= estimate.value <= estimate.high
        else:
            assert number.why_none
            assert estimate.low is None
            assert estimate.high is None


@each
def test_the_size_of_the_blocks_and_the_second_time_change_nothing(
    score: Score, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, reference = full(120), full(150, seed=1)
    first = measured(score, images, reference)
    assert measured(score, images, reference) == first
    monkeypatch.setattr(neighbours, "BLOCK", 37)
    again = measured(score, images, reference)
    for key, estimate in first.values.items():
        assert again.values[key].value == pytest.approx(estimate.value, rel=1e-12, abs=1e-13)
        if estimate.low is not None:
            assert again.values[key].low == pytest.approx(estimate.low, rel=1e-9, abs=1e-12)
    assert [(pair.image, pair.reference) for pair in again.pairs] == [(p.image, p.reference) for p in first.pairs]


@each
def test_a_score_without_what_it_only_uses_tells_less_and_what_it_needs_is_enough(score: Score) -> None:
    images, reference = full(120), full(150, seed=1)
    if "class_logits" not in score.needs:
        images = replace(images, class_logits=None)
    if "labels" not in score.needs:
        images = replace(images, labels=None)
    if "logits" not in score.needs:
        images = replace(images, logits=None)
    found = measured(score, images, reference if "reference" in score.needs else None)
    assert set(found.values) <= {number.key for number in score.numbers}


@each
def test_the_docstring_names_the_paper(score: Score) -> None:
    assert re.search(r"arXiv\s+\d{4}\.\d{5}", inspect.getdoc(type(score)) or "")


def test_no_two_numbers_of_all_scores_have_the_same_key() -> None:
    keys = Counter(key for score in SCORES for number in score.numbers for key in {number.key, number.plain_key} - {""})
    assert set(keys.values()) == {1}


def test_only_the_published_network_lends_its_name() -> None:
    [kid] = KID.numbers
    assert kid.named(published=True) == ("kid", "KID")
    assert kid.named(published=False) == ("kd", "KD")
    assert InceptionScore.numbers[0].named(published=False)[0] == "class_score"
    assert PrecisionRecall.numbers[0].named(published=False) == PrecisionRecall.numbers[0].named(published=True)


def test_unusual_settings_have_keys_of_their_own() -> None:
    assert {suffix(score) for score in SCORES} == {""}
    assert suffix(PrecisionRecall(k=5)) == "_k5"
    assert suffix(KID(subset_size=1000)) == "_subset_size1000"


def test_who_asks_for_the_features_of_a_reference() -> None:
    assert {score.kind for score in SCORES if not wants_reference(score)} == {"inception_score"}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: KID(subset_size=1), "subset_size: must be at least 2"),
        (lambda: KID(num_subsets=0), "num_subsets: must be at least 1"),
        (lambda: InceptionScore(splits=0), "splits: must be at least 1"),
        (lambda: PrecisionRecall(k=0), "k: must be at least 1"),
        (lambda: DensityCoverage(k=0), "k: must be at least 1"),
        (lambda: Nearest(quantile=0), "quantile: must lie in"),
    ],
)
def test_impossible_settings_are_refused(make: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()  # type: ignore[operator]
