"""Evaluation on images whose answer is known: real digits, put into the store as if they had been generated."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.data.dataset import Dataset
from pipeline.data.features import read_features
from pipeline.data.store import Store
from pipeline.diffusion.labels import Fixed, Unlabelled
from pipeline.engine.evaluation import evaluate, ranked
from pipeline.engine.extractors import KeptClassifier, classifier_for
from pipeline.engine.generation import Seeds
from pipeline.engine.references import Reference, reference_moments
from pipeline.errors import SettingsError, StoreError
from pipeline.metrics.moments import Gaussian
from tests.engine.digits import CHUNK_SIZE, CLASSIFIER, Generated, balanced, mnist, put_dataset, put_snapshot
from tests.metrics.conftest import torchvision_imports  # noqa: F401

SPLIT = 2500  # digits below it are the data set, those above it play the generated ones
THOUSAND = Seeds(0, 1000)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("store"))
    put_dataset(store, "a", 0, SPLIT)
    put_snapshot(store)
    return store


@pytest.fixture(scope="module")
def classifier(store: Store) -> KeptClassifier:
    return classifier_for(store, "a", CLASSIFIER, progress=False)


@pytest.fixture(scope="module")
def reference(store: Store, classifier: KeptClassifier) -> Reference:
    return reference_moments(store, Dataset.open(store, "a"), classifier.plan, progress=False)


@pytest.fixture(scope="module")
def real(store: Store, classifier: KeptClassifier) -> Generated:
    generated = Generated(store, classifier.plan, mnist()[0][balanced(SPLIT, 5000)])
    generated.commit(range(10))
    return generated


def test_real_digits_are_recognised_as_the_classifier_promised(
    store: Store, classifier: KeptClassifier, reference: Reference, real: Generated
) -> None:
    [found] = evaluate(store, [real.result()], THOUSAND, classifier.plan, reference)
    deviation = np.sqrt(classifier.accuracy * (1 - classifier.accuracy) * (1 / classifier.num_validation + 1 / 1000))
    assert found.accuracy == pytest.approx(classifier.accuracy, abs=3 * deviation + 0.01)
    shifted = replace(real.result(), point=replace(real.result().point, labels=Fixed(label=3)))
    [of_one_class] = evaluate(store, [shifted], THOUSAND, classifier.plan, reference)
    assert of_one_class.accuracy == pytest.approx(0.1, abs=0.02)


def test_images_without_labels_have_no_accuracy(
    store: Store, classifier: KeptClassifier, reference: Reference, real: Generated
) -> None:
    unlabelled = replace(real.result(), point=replace(real.result().point, labels=Unlabelled()))
    [found] = evaluate(store, [unlabelled], THOUSAND, classifier.plan, reference)
    assert found.accuracy is None


def test_the_distance_is_that_of_torchmetrics(
    store: Store,
    classifier: KeptClassifier,
    reference: Reference,
    real: Generated,
    torchvision_imports: None,  # noqa: F811
) -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Given(torch.nn.Module):
        num_features = CLASSIFIER.num_features

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images

    metric = FrechetInceptionDistance(feature=Given())
    dataset = Dataset.open(store, "a")
    images = torch.from_numpy(dataset.images(np.arange(len(dataset))))
    extractor = classifier.plan.build((1, 16, 16), "cpu")
    for batch in torch.split(images, 256):
        metric.update(extractor(batch).features.double(), real=True)
    generated = read_features(store, real.digest, classifier.plan.digest, 150, 650, CHUNK_SIZE).features
    metric.update(torch.from_numpy(generated).double(), real=False)
    [found] = evaluate(store, [real.result()], Seeds(150, 650), classifier.plan, reference)
    assert found.distance == pytest.approx(float(metric.compute()), rel=1e-6)


def test_real_images_are_near_themselves_and_noise_is_far(
    store: Store, classifier: KeptClassifier, reference: Reference, real: Generated
) -> None:
    same = Generated(store, classifier.plan, mnist()[0][:SPLIT], "same")
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1, 16, 16), np.uint8)
    results = [
        same.commit(range(25)), real.result(), Generated(store, classifier.plan, noise, "noise").commit(range(10))
    ]  # fmt: skip
    [itself] = evaluate(store, results[:1], Seeds(0, SPLIT), classifier.plan, reference)
    others, noisy = evaluate(store, results[1:], THOUSAND, classifier.plan, reference)
    size = np.trace(reference.gaussian.covariance)
    assert itself.distance < 1e-4 * size
    assert 0 < others.distance < 0.1 * size
    assert noisy.distance > 0.5 * size
    assert noisy.accuracy is not None
    assert noisy.accuracy < 0.2


def test_more_images_are_evaluated_as_they_come(
    store: Store, classifier: KeptClassifier, reference: Reference, real: Generated
) -> None:
    growing = Generated(store, classifier.plan, real.images, "growing")
    result = growing.commit(range(3))
    [at_250] = evaluate(store, [result], Seeds(0, 250), classifier.plan, reference)
    with pytest.raises(StoreError, match=r"300 of the 500 images asked for \(seeds 0-499\) are there"):
        evaluate(store, [result], Seeds(0, 500), classifier.plan, reference)
    growing.commit(range(3, 5))
    [at_500] = evaluate(store, [result], Seeds(0, 500), classifier.plan, reference)
    assert evaluate(store, [result], Seeds(0, 250), classifier.plan, reference) == [at_250]
    assert at_500.distance < at_250.distance  # the bias of few images
    [of_real] = evaluate(store, [real.result()], Seeds(0, 500), classifier.plan, reference)
    assert of_real.distance == at_500.distance


def test_too_few_images_for_the_features_are_marked(
    store: Store, classifier: KeptClassifier, reference: Reference, real: Generated
) -> None:
    few, enough = CLASSIFIER.num_features, CLASSIFIER.num_features + 20
    for count, expected in ((few, True), (enough, False)):
        [found] = evaluate(store, [real.result()], Seeds(0, count), classifier.plan, reference)
        assert found.rank_deficient == expected
    with pytest.raises(SettingsError, match="at least 2"):
        evaluate(store, [real.result()], Seeds(0, 1), classifier.plan, reference)


def test_numbers_of_unlike_protocols_are_not_ranked(
    store: Store, classifier: KeptClassifier, reference: Reference, real: Generated
) -> None:
    [small] = evaluate(store, [real.result()], Seeds(0, 500), classifier.plan, reference)
    [large] = evaluate(store, [real.result()], THOUSAND, classifier.plan, reference)
    [later] = evaluate(store, [real.result()], Seeds(500, 500), classifier.plan, reference)
    other = replace(reference, digest="another")
    [elsewhere] = evaluate(store, [real.result()], Seeds(0, 500), classifier.plan, other)
    for unlike, reason in ((large, "numbers of images"), (later, "seeds"), (elsewhere, "references")):
        with pytest.raises(SettingsError, match=f"cannot be ranked: .*{reason}"):
            ranked([small, unlike])
    worse = replace(small, distance=small.distance + 1)
    assert ranked([worse, small, worse]) == [small, worse, worse]


def test_a_reference_of_another_extractor_is_refused(
    store: Store, classifier: KeptClassifier, reference: Reference, real: Generated
) -> None:
    wrong = replace(reference, gaussian=Gaussian(np.zeros(3), np.eye(3)), title="ref.npz")
    with pytest.raises(SettingsError, match=r"ref\.npz: is no reference for this extractor: it is of 3 features"):
        evaluate(store, [real.result()], THOUSAND, classifier.plan, wrong)


def test_a_reference_of_images_of_another_shape_is_refused(
    store: Store, classifier: KeptClassifier, reference: Reference, real: Generated
) -> None:
    wrong = replace(reference, shape=(1, 28, 28))
    with pytest.raises(SettingsError, match=r"a: its images are 1x28x28, those of tiny-.* are 1x16x16"):
        evaluate(store, [real.result()], THOUSAND, classifier.plan, wrong)
