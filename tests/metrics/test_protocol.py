"""Which numbers may be ranked against each other."""

from dataclasses import replace

import pytest

from pipeline.config.published import Published
from pipeline.errors import SettingsError
from pipeline.metrics.extractors import Classifier, Inception
from pipeline.metrics.protocol import EvaluationProtocol, check_comparable
from pipeline.metrics.published_protocols import EDM

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
    "quantized in different ways": {"quantization": "rounded"},
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


def test_the_sentence_and_the_tags_say_all_of_it() -> None:
    whole = replace(BASE, resize="bilinear", libraries="numpy 2.4, scipy 1.17")
    sentence = whole.sentence()
    assert sentence.startswith(f"{BASE.label()}; extractor 01234567; resize bilinear; uint8 ")
    assert sentence.endswith("; torch 2.13, torchmetrics 1.9, numpy 2.4, scipy 1.17")
    tags = whole.tags()
    assert tags["protocol_extractor"] == BASE.extractor
    assert tags["protocol_reference"] == BASE.reference
    assert tags["protocol_seeds"] == "0-49999"
    assert tags["protocol_digest"] == BASE.digest


def test_the_digest_that_finds_runs_again_is_that_of_before_more_was_told() -> None:
    """Of the version that first had protocols."""
    assert BASE.digest == "ce84e8901da8f172802e1edd41e7b3f3"


def test_unlike_numbers_stand_side_by_side_by_name_only() -> None:
    other = replace(BASE, num_images=10_000)
    assert check_comparable([("a", BASE), ("b", replace(BASE, distance="x"))]) == ""
    with pytest.raises(SettingsError, match=r"a and b: cannot be ranked: the numbers of images differ"):
        check_comparable([("a", BASE), ("b", other)])
    told = check_comparable([("a", BASE), ("b", other)], legacy=True)
    assert told.startswith("legacy comparison of a and b: the numbers of images differ")


def test_a_published_figure_stands_beside_numbers_of_its_own_protocol_alone() -> None:
    published = Published(fid=1.79, nfe=35, source="Table 2")
    assert published.beside(BASE, "edm") == "published: FID 1.79 at NFE 35 (Table 2), by the same protocol (edm)"
    few = replace(BASE, num_images=1000)
    for protocol, followed in ((few, "edm"), (BASE, ""), (replace(BASE, distance="FD, x"), "")):
        told = published.beside(protocol, followed)
        assert "1.79" not in told
        assert "another protocol" in told
    told = published.beside(few, "legacy")
    assert told.startswith("legacy comparison: published: FID 1.79")
    assert told.endswith("edm measures 50,000 images, and these are 1,000")


def test_edms_protocol_is_inception_without_antialiasing_and_50000_images() -> None:
    assert EDM.refuses(Inception(), 50_000) == ""
    assert "antialias: false" in EDM.refuses(Inception(antialias=True), 50_000)
    assert "(got classifier)" in EDM.refuses(Classifier(), 50_000)
    assert "must be 50,000" in EDM.refuses(Inception(), 1000)


def test_the_versions_are_those_installed_without_patch_or_build() -> None:
    here = EvaluationProtocol.here("FID", BASE.extractor, 10, 0, BASE.reference, 10)
    import torch
    import torchmetrics

    assert torch.__version__.startswith(f"{here.torch}.")
    assert torchmetrics.__version__.startswith(f"{here.torchmetrics}.")
