"""Classifiers and references: computed once, the same whoever computes them, and equal to the plain formula."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.data.dataset import Dataset
from pipeline.data.samples import Execution
from pipeline.data.store import Store
from pipeline.engine import extractors, references, starting
from pipeline.engine.extractors import KeptClassifier, classifier_for, extractor_plan
from pipeline.engine.references import published_reference, reference_moments
from pipeline.engine.work import Actors
from pipeline.errors import DataError, SettingsError
from pipeline.metrics.extractors import Classifier
from tests.engine.digits import CLASSIFIER, put_dataset
from tests.engine.processes import stop_once

NUM_IMAGES = 1150  # no multiple of a chunk


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("store"))
    put_dataset(store, "a", 0, NUM_IMAGES)
    put_dataset(store, "b", NUM_IMAGES, 2000)
    return store


@pytest.fixture(scope="module")
def classifier(store: Store) -> KeptClassifier:
    return classifier_for(store, "a", CLASSIFIER, progress=False)


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, whoever would train or extract fails."""

    def fail(*_args: object, **_keywords: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(extractors, "train_classifier", fail)
    monkeypatch.setattr(references, "MomentsWorker", fail)


def features_of(dataset: Dataset, classifier: KeptClassifier) -> np.ndarray:
    images = torch.from_numpy(dataset.images(np.arange(len(dataset))))
    return classifier.plan.build((1, 16, 16), "cpu")(images).features.double().numpy()


def test_a_reference_is_mean_and_covariance_of_all_features(store: Store, classifier: KeptClassifier) -> None:
    dataset = Dataset.open(store, "a")
    found = reference_moments(store, dataset, classifier.plan, progress=False)
    x = features_of(dataset, classifier)
    np.testing.assert_allclose(found.gaussian.mean, x.mean(axis=0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.gaussian.covariance, np.cov(x, rowvar=False), rtol=1e-3, atol=1e-3)
    assert (found.count, found.digest) == (NUM_IMAGES, dataset.info.digest)


@pytest.mark.usefixtures("nothing_runs")
def test_what_is_in_the_store_is_not_computed_again(store: Store, classifier: KeptClassifier) -> None:
    again = classifier_for(store, "a", CLASSIFIER, progress=False)
    assert again == classifier
    with pytest.raises(AssertionError, match="computed again"):
        classifier_for(store, "b", CLASSIFIER, progress=False)
    with pytest.raises(AssertionError, match="computed again"):
        classifier_for(store, "a", replace(CLASSIFIER, seed=1), progress=False)


def test_a_reference_is_read_from_the_store_the_second_time(
    store: Store, classifier: KeptClassifier, request: pytest.FixtureRequest
) -> None:
    dataset = Dataset.open(store, "a")
    first = reference_moments(store, dataset, classifier.plan, progress=False)
    request.getfixturevalue("nothing_runs")
    second = reference_moments(store, dataset, classifier.plan, progress=False)
    np.testing.assert_array_equal(first.gaussian.covariance, second.gaussian.covariance)
    with pytest.raises(AssertionError, match="computed again"):
        reference_moments(store, Dataset.open(store, "b"), classifier.plan, progress=False)


def test_a_damaged_reference_is_computed_again(store: Store, classifier: KeptClassifier) -> None:
    dataset = Dataset.open(store, "b")
    first = reference_moments(store, dataset, classifier.plan, progress=False)
    manifest = store.manifest(f"references/{dataset.info.digest}/{classifier.plan.digest}")
    [blob] = manifest.blobs.values()
    store.write(blob.key, b"\0" * blob.size)
    second = reference_moments(store, dataset, classifier.plan, progress=False)
    np.testing.assert_array_equal(first.gaussian.covariance, second.gaussian.covariance)


@pytest.mark.usefixtures("ray_session")
def test_actors_give_the_same_bits(
    store: Store, classifier: KeptClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(references, "CHUNK", 128)
    dataset = Dataset.open(store, "a")
    here, there = (
        reference_moments(Store(tmp_path / str(count)), dataset, classifier.plan, Execution(), Actors(count), False)
        for count in (0, 2)
    )
    np.testing.assert_array_equal(here.gaussian.mean, there.gaussian.mean)
    np.testing.assert_array_equal(here.gaussian.covariance, there.gaussian.covariance)


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("stopped", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_actors_that_are_stopped_while_they_start_hold_up_nobody(
    stopped: int, store: Store, classifier: KeptClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = [tmp_path / f"stopped {number}" for number in range(stopped)]

    class StopsAtItsStart(references.MomentsWorker):
        def __init__(self, *arguments: Any) -> None:
            stop_once(marks)
            super().__init__(*arguments)

    monkeypatch.setattr(references, "CHUNK", 128)
    dataset, execution = Dataset.open(store, "a"), Execution()
    here = reference_moments(Store(tmp_path / "here"), dataset, classifier.plan, execution, Actors(0), False)
    monkeypatch.setattr(references, "MomentsWorker", StopsAtItsStart)
    monkeypatch.setattr(starting, "LEAST_S", 15.0)
    actors = Actors(2, hang_after_s=15)
    there = reference_moments(Store(tmp_path / "there"), dataset, classifier.plan, execution, actors, False)
    assert all(mark.exists() for mark in marks)
    np.testing.assert_array_equal(here.gaussian.covariance, there.gaussian.covariance)


def test_a_reference_goes_to_an_npz_file_and_back(store: Store, classifier: KeptClassifier, tmp_path: Path) -> None:
    found = reference_moments(store, Dataset.open(store, "a"), classifier.plan, progress=False)
    found.export(tmp_path / "a.npz")
    again = published_reference(tmp_path / "a.npz")
    np.testing.assert_array_equal(found.gaussian.covariance, again.gaussian.covariance)
    assert again.count == 0
    assert again.digest != found.digest
    with pytest.raises(DataError, match="cannot be written"):
        found.export(tmp_path / "missing" / "a.npz")
    with pytest.raises(DataError, match="is not there"):
        published_reference(tmp_path / "none.npz")


def test_the_accuracy_on_held_out_images_is_kept(store: Store, classifier: KeptClassifier) -> None:
    [key] = store.committed("cache/classifiers")[:1]
    meta = store.manifest(key).meta
    assert meta["accuracy"] == classifier.accuracy
    assert meta["num_validation"] == classifier.num_validation == 115
    assert meta["dataset"]["name"] == "a"
    assert classifier.accuracy > 0.8
    assert str(classifier).endswith("of 115 held-out images of a")


def test_a_classifier_needs_a_data_set(store: Store) -> None:
    with pytest.raises(SettingsError, match="needs the name of a data set"):
        extractor_plan(store, Classifier())
    with pytest.raises(DataError, match="no data set 'c' in the store"):
        extractor_plan(store, Classifier(), "c")


def test_a_damaged_data_set_becomes_no_reference_and_no_classifier(tmp_path: Path, classifier: KeptClassifier) -> None:
    store = Store(tmp_path)
    put_dataset(store, "a", 0, 100)
    path = store.local_path(store.manifest("datasets/a"), "images.arrow")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1  # one pixel
    path.write_bytes(data)
    with pytest.raises(DataError, match="is damaged"):
        reference_moments(store, Dataset.open(store, "a"), classifier.plan, progress=False)
    with pytest.raises(DataError, match="is damaged"):
        classifier_for(store, "a", CLASSIFIER, progress=False)
    assert store.committed("references") == store.committed("cache") == []
