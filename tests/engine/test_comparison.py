"""Settings against the best one on the same seeds: real digits, and the same ones with noise on them."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.data.dataset import Dataset
from pipeline.data.features import features_key
from pipeline.data.store import Store
from pipeline.engine.comparison import NOTHING, against, compare_two, comparison_table
from pipeline.engine.evaluation import Evaluation, evaluate
from pipeline.engine.extractors import KeptClassifier, classifier_for
from pipeline.engine.generation import PointResult, Seeds
from pipeline.engine.references import Reference, reference_moments
from pipeline.errors import SettingsError
from tests.engine.digits import CLASSIFIER, Generated, balanced, mnist, put_dataset, put_snapshot

SEEDS = Seeds(50, 400)
NOISE = {"clean": 0, "noisy": 30, "noisier": 40}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("store"))
    put_dataset(store, "a", 0, 2500)
    put_snapshot(store)
    return store


@pytest.fixture(scope="module")
def classifier(store: Store) -> KeptClassifier:
    return classifier_for(store, "a", CLASSIFIER, progress=False)


@pytest.fixture(scope="module")
def reference(store: Store, classifier: KeptClassifier) -> Reference:
    return reference_moments(store, Dataset.open(store, "a"), classifier.plan, progress=False)


@pytest.fixture(scope="module")
def results(store: Store, classifier: KeptClassifier) -> list[PointResult]:
    digits = mnist()[0][balanced(2500, 5000)][:500].astype(np.int64)
    noise = np.random.default_rng(0).standard_normal(digits.shape)
    found = []
    for name, level in NOISE.items():
        images = (digits + level * noise).clip(0, 255).astype(np.uint8)
        found.append(Generated(store, classifier.plan, images, name).commit(range(5)))
    return found


@pytest.fixture(scope="module")
def evaluations(
    store: Store, classifier: KeptClassifier, reference: Reference, results: list[PointResult]
) -> list[Evaluation]:
    return evaluate(store, results, SEEDS, classifier.plan, reference)


def test_each_setting_is_compared_with_the_best_and_the_best_with_nobody(evaluations: list[Evaluation]) -> None:
    clean, noisy, noisier = against(evaluations)
    assert {row.baseline for row in (clean, noisy, noisier)} == {"clean"}
    assert clean.comparison is None
    assert clean.accuracy is None
    for row, evaluation in ((noisy, evaluations[1]), (noisier, evaluations[2])):
        assert row.comparison is not None
        difference = row.comparison.difference
        assert difference.value == pytest.approx(evaluation.distance - evaluations[0].distance)
        assert 0 < difference.low < difference.value < difference.high
        assert row.comparison.p_better < 0.001
        assert row.comparison.images < SEEDS.count
        assert row.accuracy is not None
        assert row.accuracy.value == pytest.approx(evaluation.accuracy - evaluations[0].accuracy)
    metrics = noisy.metrics("fd")
    assert {"fd_limit", "fd_limit_low", "fd_limit_high", "difference", "p_better", "images_to_tell"} <= set(metrics)


def test_the_limit_is_below_the_distance_of_few_images(evaluations: list[Evaluation]) -> None:
    for evaluation in evaluations:
        assert evaluation.uncertainty is not None
        assert evaluation.uncertainty.limit.value < evaluation.distance
        assert evaluation.half_width == evaluation.uncertainty.interval.half_width
        assert evaluation.uncertainty.influences.shape == (SEEDS.count,)


def test_what_two_settings_share_makes_their_difference_surer(evaluations: list[Evaluation]) -> None:
    row, _ = compare_two(evaluations[1], evaluations[2])
    assert row.comparison is not None
    assert row.comparison.correlation > 0.5
    halves = [evaluation.half_width or 0.0 for evaluation in evaluations[1:]]
    assert row.comparison.difference.half_width < 0.8 * np.hypot(*halves)


def test_a_baseline_can_be_named(evaluations: list[Evaluation]) -> None:
    clean, noisy, _ = against(evaluations, "noisy")
    assert noisy.comparison is None
    assert clean.comparison is not None
    assert clean.comparison.p_better > 0.999
    with pytest.raises(SettingsError, match="no setting noisiest; there are: clean, noisy, noisier"):
        against(evaluations, "noisiest")


def test_the_table_is_sorted_and_says_what_its_numbers_are(evaluations: list[Evaluation]) -> None:
    table = comparison_table(against(evaluations), "FD")
    names = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")]
    assert [names[0], *names[2:]] == ["setting", "clean", "noisy", "noisier"]
    assert "to clean, the best here, on the same seeds. It was chosen by these images" in table
    assert "chosen" not in comparison_table(against(evaluations, "clean"), "FD", chosen=False)


def test_settings_without_an_interval_are_said_to_have_none(
    store: Store, classifier: KeptClassifier, reference: Reference, results: list[PointResult]
) -> None:
    few = evaluate(store, results, Seeds(0, CLASSIFIER.num_features), classifier.plan, reference)
    table = comparison_table(against(few), "FD")
    assert NOTHING in table
    with pytest.raises(SettingsError, match=r"clean has no interval \(got 24 images\)"):
        compare_two(few[0], few[1])


def test_unlike_protocols_are_refused_in_one_sentence(
    store: Store, classifier: KeptClassifier, reference: Reference, evaluations: list[Evaluation],
    results: list[PointResult],
) -> None:  # fmt: skip
    [other] = evaluate(store, results[:1], Seeds(50, 300), classifier.plan, reference)
    with pytest.raises(SettingsError, match="the numbers of images differ"):
        compare_two(other, evaluations[1])
    with pytest.raises(SettingsError, match="the numbers of images differ"):
        against([*evaluations, other], "clean")
    with pytest.raises(SettingsError, match="is the same setting as the first, clean"):
        compare_two(evaluations[0], evaluations[0])


def test_unlike_protocols_stand_side_by_side_where_somebody_asks_for_it_by_name(
    store: Store, classifier: KeptClassifier, reference: Reference, evaluations: list[Evaluation],
    results: list[PointResult],
) -> None:  # fmt: skip
    [fewer] = evaluate(store, results[:1], Seeds(50, 300), classifier.plan, reference)
    row, below = compare_two(fewer, evaluations[1], legacy=True)
    assert row.comparison is row.accuracy is None  # of other seeds
    assert (row.distance, below.distance) == (fewer.uncertainty.interval, evaluations[1].uncertainty.interval)  # type: ignore[union-attr]
    [elsewhere] = evaluate(store, results[:1], SEEDS, classifier.plan, replace(reference, digest="other"))
    with pytest.raises(SettingsError, match="the references differ"):
        compare_two(elsewhere, evaluations[1])
    row, _ = compare_two(elsewhere, evaluations[1], legacy=True)
    assert row.comparison == compare_two(evaluations[0], evaluations[1])[0].comparison


def test_settings_whose_features_are_gone_are_compared_by_what_was_kept(
    store: Store, classifier: KeptClassifier, reference: Reference, results: list[PointResult],
    evaluations: list[Evaluation],
) -> None:  # fmt: skip
    other = replace(reference, digest="other")
    evaluate(store, results, SEEDS, classifier.plan, other, keep_moments=True)
    evaluate(store, results, SEEDS, classifier.plan, reference, keep_moments=True)  # beside what was kept before
    for result in results[:2]:
        for index in range(5):
            store.remove(store.manifest(features_key(result.samples_digest, classifier.plan.digest, index)))
    again = evaluate(store, results, SEEDS, classifier.plan, reference)
    assert again == evaluations
    for one, before in zip(against(again), against(evaluations), strict=True):
        assert one == before
    assert evaluate(store, results[:1], SEEDS, classifier.plan, other)[0].uncertainty is not None
    elsewhere = replace(reference, digest="another")
    assert evaluate(store, results[:1], SEEDS, classifier.plan, elsewhere)[0].uncertainty is None
