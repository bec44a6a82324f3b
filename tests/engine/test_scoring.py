"""Scores in a benchmark: told everywhere, of features alone, kept, and computed once."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from pipeline.config.measuring import MetricSettings
from pipeline.data.dataset import Dataset
from pipeline.data.features import read_features, read_reference_features, read_score, reference_features_key, score_key
from pipeline.data.samples import Execution, committed_chunks
from pipeline.data.store import Store
from pipeline.diffusion.labels import Balanced, Unlabelled
from pipeline.diffusion.sampling import Sampler
from pipeline.diffusion.solvers import Euler
from pipeline.diffusion.timesteps import EDMSteps
from pipeline.engine import references, scoring
from pipeline.engine.benchmark import benchmark
from pipeline.engine.benchmark_result import BenchmarkResult
from pipeline.engine.generation import Seeds
from pipeline.engine.measures import Measure, build_measures, check_reference
from pipeline.engine.reference_features import reference_features
from pipeline.engine.references import reference_moments
from pipeline.engine.score_extractors import scores_by_extractor
from pipeline.engine.scoring import headings, kept_names
from pipeline.engine.work import Actors, Point
from pipeline.errors import SettingsError
from pipeline.metrics.extractors import File, Inception
from pipeline.metrics.scores import (
    KID,
    DensityCoverage,
    FeatureSet,
    InceptionScore,
    Nearest,
    PerClass,
    PrecisionRecall,
    Score,
)
from pipeline.reporting import MemoryReporter
from pipeline.tracking import names
from pipeline.training.snapshot import CheckpointRef
from tests.engine.digits import CLASSIFIER, put_dataset, put_snapshot

EXECUTION = Execution(batch_size=20, chunk_size=40)
HERE = Actors(num_actors=0)
SEEDS = Seeds(20, 320)
SCORES = [kind() for kind in get_args(Score)]
POINTS = [
    Point(
        f"euler-{steps}",
        CheckpointRef("tiny"),
        Sampler(timesteps=EDMSteps(num_steps=steps), solver=Euler()),
        Balanced(),
    )
    for steps in (2, 3)
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    put_dataset(store, "a", 0, 600)
    put_snapshot(store)
    return store


def measures_of(store: Store, *scores: Score, held_out: str | None = None) -> tuple[Measure, ...]:
    settings = MetricSettings(extractors=[CLASSIFIER], scores=list(scores), held_out=held_out)
    return build_measures(store, settings, "a", EXECUTION, HERE, progress=False)


def run(
    store: Store, measures: tuple[Measure, ...], reporter: MemoryReporter | None = None, keep: str = "images",
    points: list[Point] = POINTS,
) -> BenchmarkResult:  # fmt: skip
    reporter = reporter or MemoryReporter()
    return benchmark(store, "b", points, SEEDS, measures, EXECUTION, HERE, reporter, progress=False, keep=keep)


def test_every_number_of_every_score_is_told_in_table_json_csv_and_tracker(store: Store) -> None:
    put_dataset(store, "held-out", 600, 900)
    measures = measures_of(store, *SCORES, held_out="held-out")
    reporter = MemoryReporter()
    result = run(store, measures, reporter)
    [run_of_2] = [run for run in reporter.runs.values() if run.name == "euler-2"]
    told = {key: value for _, key, value in run_of_2.history}
    [row] = [row for row in result.rows if row.name == "euler-2"]
    [json_row] = [row for row in json.loads(result.to_json())["rows"] if row["name"] == "euler-2"]
    [csv_row] = [row for row in csv.DictReader(io.StringIO(result.to_csv())) if row["name"] == "euler-2"]
    assert {heading.key for heading in result.headings} == {
        number.named(published=False)[0] for score in SCORES for number in score.numbers
    }
    assert set(row.scores) == {heading.key for heading in result.headings}
    known = {value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)}
    for heading in result.headings:
        assert heading.title in result.table()
        assert told[heading.key] == row.scores[heading.key].value == json_row["scores"][heading.key]["value"]
        assert float(csv_row[heading.key]) == told[heading.key]
        assert (f"{heading.key}_low" in told) == bool(heading.estimand)
        assert heading.key in known
    assert run_of_2.images[names.NEAREST_IMAGE, 0].ndim == 3
    classes = list(csv.DictReader(io.StringIO(run_of_2.texts[names.PER_CLASS_FILE])))
    assert [int(line["label"]) for line in classes] == list(range(10))
    assert len(list(csv.DictReader(io.StringIO(result.classes_csv())))) == 20


def test_they_are_those_of_the_stored_features(store: Store) -> None:
    put_dataset(store, "held-out", 600, 900)
    [measure] = measures_of(store, *SCORES, held_out="held-out")
    assert measure.held_out is not None
    row = next(row for row in run(store, (measure,)).rows if row.name == "euler-2")
    stored = read_features(store, row.samples_digest, measure.plan.digest, SEEDS.first, SEEDS.count, 40)
    dataset = Dataset.open(store, "a")
    labels = np.arange(SEEDS.first, SEEDS.first + SEEDS.count) % 10
    images = FeatureSet(stored.features, stored.logits, stored.logits, labels, strata=labels)
    reference = FeatureSet(
        measure.features.read().features,
        labels=dataset.labels(np.arange(600)),
        held_out=measure.held_out.read().features,
    )
    for score in SCORES:
        found = score.measure(images, reference, score.prepare(reference))
        for number in score.numbers:
            assert row.scores[number.named(published=False)[0]] == found.values[number.key]


def test_a_second_run_computes_nothing_and_tells_the_same(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    measures = measures_of(store, *SCORES)
    first_told, again_told = MemoryReporter(), MemoryReporter()
    first = run(store, measures, first_told)
    for module, name in ((scoring, "read_features"), (references, "MomentsWorker")):
        monkeypatch.setattr(module, name, lambda *_a, **_k: pytest.fail("computed again"))
    again = run(store, measures_of(store, *SCORES), again_told)
    assert again.rows == first.rows
    assert again.classes == first.classes
    for one, other in zip(first_told.runs.values(), again_told.runs.values(), strict=True):
        np.testing.assert_array_equal(one.images["nearest_pairs", 0], other.images["nearest_pairs", 0])


def test_what_depends_on_the_reference_alone_is_computed_once_a_store(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(store, measures_of(store, KID(), PrecisionRecall()), points=POINTS[:1])
    monkeypatch.setattr(PrecisionRecall, "prepare", lambda *_: pytest.fail("computed again"))
    monkeypatch.setattr(KID, "prepare", lambda *_: pytest.fail("computed again"))
    other = run(store, measures_of(store, KID(), PrecisionRecall()), points=POINTS[1:])
    assert {"kd", "precision"} <= set(other.rows[0].scores)


def test_a_new_score_generates_no_image(store: Store) -> None:
    first = run(store, measures_of(store))
    assert first.generated > 0
    assert first.headings == ()
    with_scores = run(store, measures_of(store, KID(), PrecisionRecall()))
    assert with_scores.generated == 0
    assert [row.distances for row in with_scores.rows] == [row.distances for row in first.rows]


def test_scores_stay_where_only_moments_are_kept_and_a_new_one_has_the_rest_computed_again(store: Store) -> None:
    measures = measures_of(store, KID(), Nearest())
    first = run(store, measures, keep="moments")  # of seeds 20 to 339: chunks of 40, half of the first and last
    assert {key.rpartition("-")[2] for key in read_chunks(store, first)} == {"000000", "000008"}
    told = MemoryReporter()
    again = run(store, measures, told, keep="moments")
    assert again.generated == 0
    assert again.rows == first.rows
    assert all(("nearest_pairs", 0) in run.images for run in told.runs.values())
    whole = run(store, measures_of(store, DensityCoverage()))
    assert whole.generated > 0
    assert [row.distance for row in whole.rows] == [row.distance for row in first.rows]
    assert all("density" in row.scores for row in whole.rows)


def read_chunks(store: Store, result: BenchmarkResult) -> list[str]:
    keys = store.committed("features")
    assert all(committed_chunks(store, row.samples_digest) for row in result.rows)
    return [key for key in keys if "/chunk-" in key]


def test_a_damaged_score_is_computed_again(store: Store) -> None:
    [measure] = measures_of(store, KID(), Nearest())
    first = run(store, (measure,))
    digest = first.rows[0].samples_digest
    for name in kept_names(measure, SEEDS):
        manifest = store.manifest(score_key(digest, measure.plan.digest, name))
        for blob in manifest.blobs.values():
            store.write(blob.key, b"\0" * blob.size)
        store.write(f"{manifest.key}.json", b"{}")
        assert read_score(store, digest, measure.plan.digest, name) is None
    assert run(store, (measure,)).rows == first.rows


def test_scores_of_other_seeds_settings_and_references_are_kept_apart(store: Store) -> None:
    [measure] = measures_of(store, KID(), PrecisionRecall(), PrecisionRecall(k=5))
    found = kept_names(measure, SEEDS)
    assert len(set(found)) == 3
    assert set(found).isdisjoint(kept_names(measure, replace(SEEDS, first=0)))
    put_dataset(store, "b", 600, 1200)
    other = replace(measure, features=reference_features(store, Dataset.open(store, "b"), measure.plan, progress=False))
    assert set(found).isdisjoint(kept_names(other, SEEDS))
    keys = [heading.key for heading in headings(measure)]
    assert keys == ["kd", "precision", "recall", "precision_k5", "recall_k5"]


def test_images_that_were_held_out_are_a_reference_of_their_own(store: Store) -> None:
    put_dataset(store, "b", 600, 900)
    plain, compared = measures_of(store, Nearest())[0], measures_of(store, Nearest(), held_out="b")[0]
    assert not {"copied_share", "copied_odds"} & set(run(store, (plain,)).rows[0].scores)
    assert set(kept_names(plain, SEEDS)).isdisjoint(kept_names(compared, SEEDS))
    scores = run(store, (compared,)).rows[0].scores
    assert 0 <= scores["copied_share"].value <= 1
    assert 0 <= scores["copied_odds"].value <= 1
    with pytest.raises(SettingsError, match=r"held_out: must be other images than the reference \(a\)"):
        measures_of(store, Nearest(), held_out="a")
    with pytest.raises(ValueError, match=r"held_out: b is named and never looked at: add .kind: nearest"):
        measures_of(store, KID(), held_out="b")


def test_the_features_of_a_reference_give_its_moments_without_a_second_look(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(references, "CHUNK", 256)
    plan = measures_of(store)[0].plan
    dataset = put_dataset(store, "b", 600, 1200)
    plain = reference_moments(store, dataset, plan, progress=False)
    store.remove(store.manifest(f"references/{dataset.info.digest}/{plan.digest}"))
    found = reference_features(store, dataset, plan, progress=False)
    assert found.read().features.shape == (600, CLASSIFIER.num_features)
    monkeypatch.setattr(references, "MomentsWorker", lambda *_a: pytest.fail("computed again"))
    again = reference_moments(store, dataset, plan, progress=False)
    np.testing.assert_array_equal(again.gaussian.covariance, plain.gaussian.covariance)


def test_a_damaged_or_missing_piece_of_a_references_features_is_computed_again_alone(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(references, "CHUNK", 256)
    plan = measures_of(store)[0].plan
    dataset = Dataset.open(store, "a")
    whole = reference_features(store, dataset, plan, progress=False).read()
    manifest = store.manifest(reference_features_key(dataset.info.digest, plan.digest, 1))
    [blob] = manifest.blobs.values()
    store.write(blob.key, b"\0" * blob.size)
    asked: list[range] = []
    worker = references.MomentsWorker.features
    monkeypatch.setattr(
        references.MomentsWorker, "features", lambda self, chunk: asked.append(chunk) or worker(self, chunk)
    )
    again = reference_features(store, dataset, plan, progress=False)
    assert asked == [range(256, 512)]
    np.testing.assert_array_equal(again.read().features, whole.features)
    np.testing.assert_array_equal(
        read_reference_features(store, dataset.info.digest, plan.digest, 2).logits, whole.logits[512:]
    )


@pytest.mark.usefixtures("ray_session")
def test_actors_give_the_same_bits(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "CHUNK", 64)
    plan = measures_of(store)[0].plan
    here, there = (
        reference_features(
            Store(tmp_path / str(count)), Dataset.open(store, "a"), plan, Execution(), Actors(count), False
        )
        for count in (0, 2)
    )
    np.testing.assert_array_equal(here.read().features, there.read().features)


def test_what_cannot_be_had_is_said_before_anything_is_generated(store: Store) -> None:
    unlabelled = [replace(POINTS[0], labels=Unlabelled())]
    with pytest.raises(SettingsError, match=r"per_class: needs labels, and the images of 'euler-2' have none"):
        run(store, measures_of(store, PerClass()), points=unlabelled)
    with pytest.raises(SettingsError, match=r"kid: needs at least 400 images \(seeds.count\) \(got 320\)"):
        run(store, measures_of(store, KID(subset_size=400)))
    with pytest.raises(SettingsError, match=r"precision_recall: needs at least 601 images of the reference a"):
        benchmark(
            store, "b", POINTS, Seeds(0, 1000), measures_of(store, PrecisionRecall(k=600)), EXECUTION, HERE,
            MemoryReporter(), progress=False,
        )  # fmt: skip
    assert not store.committed("samples")


def test_a_score_is_taken_of_the_first_extractor_that_has_all_for_it() -> None:
    file = File(path="x.pt", sha256="0" * 64)
    scores = [KID(), InceptionScore(), PerClass()]

    def chosen(*extractors: object, **more: object) -> list[list[str]]:
        settings = MetricSettings(extractors=list(extractors), scores=scores, **more)
        return [[score.kind for score in some] for some in scores_by_extractor(settings)]

    assert chosen(CLASSIFIER) == [["kid", "inception_score", "per_class"]]
    assert chosen(file, CLASSIFIER) == [["kid"], ["inception_score", "per_class"]]
    assert chosen(Inception(), CLASSIFIER) == [["kid", "inception_score"], ["per_class"]]
    assert chosen(Inception(), CLASSIFIER, reference_npz="a.npz") == [["inception_score"], ["kid", "per_class"]]
    with pytest.raises(SettingsError, match="inception_score needs logits, which no extractor here gives"):
        chosen(file)
    with pytest.raises(SettingsError, match=r"kid needs the features of reference images, .* reference_npz"):
        chosen(Inception(), reference_npz="a.npz")


def test_the_protocol_is_told_whole_in_table_json_csv_and_tags(store: Store) -> None:
    [measure] = measures_of(store)
    reporter = MemoryReporter()
    result = run(store, (measure,), reporter)
    sentence = result.protocol.sentence()
    assert f"- {sentence}" in result.table().splitlines()
    assert json.loads(result.to_json())["rows"][0]["protocols"] == {"classifier": sentence}
    assert next(csv.DictReader(io.StringIO(result.to_csv())))["protocol_classifier"] == sentence
    known = {value for name, value in vars(names).items() if name.startswith("PROTOCOL")}
    for told in reporter.runs.values():
        assert result.protocol.tags().items() <= told.all_tags.items()
        assert {tag for tag in told.all_tags if tag.startswith("protocol")} <= known
        assert told.all_tags["protocol_extractor"] == measure.plan.digest
        assert told.all_tags["protocol_reference"] == measure.reference.digest


def test_a_protocol_that_is_named_is_a_tag_and_asks_for_published_weights(store: Store, tmp_path: Path) -> None:
    settings = MetricSettings(extractors=[CLASSIFIER], protocol="legacy")
    measures = build_measures(store, settings, "a", EXECUTION, HERE, progress=False)
    reporter = MemoryReporter()
    assert run(store, measures, reporter).followed == "legacy"
    assert {told.all_tags[names.PROTOCOL_NAME] for told in reporter.runs.values()} == {"legacy"}
    (tmp_path / "weights.pth").write_bytes(b"others")
    other = MetricSettings(extractors=[Inception(weights=str(tmp_path / "weights.pth"))], protocol="edm")
    with pytest.raises(SettingsError, match=r"metrics\.protocol: edm asks for the published weights of Inception"):
        build_measures(store, other, "a", EXECUTION, HERE, progress=False)
    with pytest.raises(SettingsError, match=r"must be the training set, a, for the protocol edm \(got b\)"):
        check_reference(store, MetricSettings(protocol="edm", dataset="b"), POINTS)
    check_reference(store, MetricSettings(protocol="edm", dataset="a"), POINTS)
