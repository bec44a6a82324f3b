"""Which numbers may be ranked against each other."""

from dataclasses import replace

import pytest

from pipeline.metrics.protocol import EvaluationProtocol

BASE = EvaluationProtocol(
    distance="FID",
    extractor="0123456789abcdef" * 2,
    num_images=50_000,
    first_seed=0,
    reference="fedcba9876543210" * 2,
    reference_count=60_000,
    torch="2.13",
    torchmetrics="1.9",
)

OTHERS = {
    "different extractors": {"extractor": "1" * 32, "distance": "FD, other"},
    "references differ": {"reference": "2" * 32},
    "10,000 images": {"reference_count": 10_000},
    "50,000 and 49,999": {"num_images": 49_999},
    "from 0 and from 50000": {"first_seed": 50_000},
    "torch 2.14": {"torch": "2.14"},
    "torchmetrics 2.0": {"torchmetrics": "2.0"},
}


def test_like_protocols_are_comparable_whatever_the_distance_is_called() -> None:
    assert BASE.comparable_with(replace(BASE)) is None
    renamed = replace(BASE, distance="FD, the same network by another name")
    assert BASE.comparable_with(renamed) is None
    assert BASE.digest == renamed.digest


@pytest.mark.parametrize("words", OTHERS)
def test_unlike_protocols_say_in_one_sentence_why(words: str) -> None:
    other = replace(BASE, **OTHERS[words])
    reason = BASE.comparable_with(other)
    assert reason is not None
    assert words in reason
    assert "\n" not in reason
    assert other.comparable_with(BASE) is not None
    assert BASE.digest != other.digest


def test_the_label_says_what_was_measured() -> None:
    assert BASE.label() == "FID; 50,000 images, seeds 0-49999; reference fedcba98 (60,000 images)"


def test_the_versions_are_those_installed_without_patch_or_build() -> None:
    here = EvaluationProtocol.here("FID", BASE.extractor, 10, 0, BASE.reference, 10)
    import torch
    import torchmetrics

    assert torch.__version__.startswith(f"{here.torch}.")
    assert torchmetrics.__version__.startswith(f"{here.torchmetrics}.")
