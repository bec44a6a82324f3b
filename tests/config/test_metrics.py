"""What metric settings take, and the protocols that they may follow by name."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config.benchmarks import BenchmarkJob
from pipeline.config.job import Job
from pipeline.config.load import load
from pipeline.config.measuring import EvaluateJob
from pipeline.errors import SettingsError
from pipeline.metrics.extractors import Inception
from pipeline.metrics.scores import KID, PrecisionRecall

CLASSIFIER = [{"kind": "classifier"}]


def job(folder: Path, metrics: dict[str, Any], count: int = 50_000, kind: type[Job] = EvaluateJob) -> Any:
    path = folder / "job.yaml"
    content = {"checkpoint": {"training": "net"}, "metrics": metrics, "seeds": {"count": count}, "name": "x"}
    path.write_text(yaml.safe_dump(content))
    return load(kind, path)


def test_scores_are_parts_and_none_by_default(tmp_path: Path) -> None:
    assert job(tmp_path, {"extractors": CLASSIFIER}).metrics.scores == []
    scores = [{"kind": "kid"}, {"kind": "precision_recall", "k": 5}]
    found = job(tmp_path, {"extractors": CLASSIFIER, "scores": scores})
    assert found.metrics.scores == [KID(), PrecisionRecall(k=5)]


@pytest.mark.parametrize("kind", [EvaluateJob, BenchmarkJob])
def test_edms_protocol_brings_its_extractor_and_holds_the_number_of_images(tmp_path: Path, kind: type[Job]) -> None:
    assert job(tmp_path, {"protocol": "edm"}, kind=kind).metrics.extractors == [Inception(antialias=False)]
    more = {"protocol": "edm", "extractors": [{"kind": "inception"}, *CLASSIFIER]}
    assert len(job(tmp_path, more, kind=kind).metrics.extractors) == 2
    with pytest.raises(SettingsError, match=r"seeds\.count: must be 50,000 for the protocol edm \(got 1,000\)"):
        job(tmp_path, {"protocol": "edm"}, 1000, kind)


def test_a_benchmark_that_names_no_protocol_is_free(tmp_path: Path) -> None:
    for protocol in (None, "legacy"):
        assert job(tmp_path, {"protocol": protocol, "extractors": CLASSIFIER}, 10).metrics.protocol == protocol


@pytest.mark.parametrize(
    ("metrics", "sentence"),
    [
        ({"extractors": CLASSIFIER, "scores": [{"kind": "kid"}, {"kind": "kid"}]}, "one of them is given twice"),
        ({"extractors": CLASSIFIER, "scores": [{"kind": "kidd"}]}, r"metrics\.scores"),
        ({"extractors": CLASSIFIER, "scores": [{"kind": "density_coverage", "k": 0}]}, "k: must be at least 1"),
        ({"protocol": "edm", "extractors": CLASSIFIER}, "metrics.extractors: the first one must be"),
        ({"protocol": "edm", "extractors": [{"kind": "inception", "antialias": True}]}, "antialias: false"),
        ({"protocol": "clean-fid"}, "clean-fid resizes with Pillow's antialiased bicubic"),
        ({"protocol": "emd", "extractors": CLASSIFIER}, r"must be one of edm, legacy \(got emd\)"),
        ({}, r"metrics\.extractors"),
    ],
)
def test_mistakes_are_told_in_one_sentence(tmp_path: Path, metrics: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        job(tmp_path, metrics)
