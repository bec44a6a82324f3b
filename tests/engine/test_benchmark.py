"""A whole benchmark on a small network with random weights: what it tells, and that it computes nothing twice."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.config.benchmarks import TimingSettings
from pipeline.config.measuring import MetricSettings
from pipeline.data.samples import Execution
from pipeline.data.store import Store
from pipeline.diffusion.labels import Balanced
from pipeline.diffusion.sampling import Sampler
from pipeline.diffusion.solvers import Euler, Heun, Midpoint
from pipeline.diffusion.timesteps import EDMSteps
from pipeline.digests import sha256
from pipeline.engine.benchmark import benchmark
from pipeline.engine.benchmark_result import BenchmarkResult
from pipeline.engine.generation import Seeds
from pipeline.engine.measures import Measure, build_measures, trained_on
from pipeline.engine.pareto import pareto_front
from pipeline.engine.work import Actors, Point
from pipeline.errors import CheckpointError, SettingsError
from pipeline.metrics.extractors import File
from pipeline.reporting import MemoryReporter, MemoryRun
from pipeline.training.snapshot import CheckpointRef
from tests.engine.digits import CLASSIFIER, TRAINING, put_dataset, put_snapshot

EXECUTION = Execution(batch_size=20, chunk_size=40)
HERE = Actors(num_actors=0)
SEEDS = Seeds(0, 100)
TIMING = TimingSettings(images=8, repeats=2)
REF = CheckpointRef("tiny")
SETTINGS = {"euler-8": (Euler(), 8), "heun-4": (Heun(), 4), "midpoint-6": (Midpoint(), 6), "euler-1": (Euler(), 1)}
NFE = {"euler-8": 8.0, "heun-4": 7.0, "midpoint-6": 11.0, "euler-1": 1.0}
POINTS = [
    Point(name, REF, Sampler(timesteps=EDMSteps(num_steps=num_steps), solver=solver), Balanced())
    for name, (solver, num_steps) in SETTINGS.items()
]
Run = Callable[..., BenchmarkResult]


class Corners(torch.nn.Module):
    """Four pixels as features."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, 0, ::15, ::15].flatten(1).float()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("store"))
    put_dataset(store, "a", 0, 600)
    put_dataset(store, "b", 600, 1200)
    put_snapshot(store)
    return store


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> MetricSettings:
    path = tmp_path_factory.mktemp("extractor") / "corners.pt2"
    dynamic = {"images": {0: torch.export.Dim("batch", min=1, max=4096)}}
    example = torch.zeros(4, 3, 16, 16, dtype=torch.uint8)
    torch.export.save(torch.export.export(Corners(), (example,), dynamic_shapes=dynamic), path)
    corners = File(path=str(path), sha256=sha256(path.read_bytes()), name="Four corners")
    return MetricSettings(extractors=[CLASSIFIER, corners], classifier_dataset="b")


@pytest.fixture(scope="module")
def measures(store: Store, metrics: MetricSettings) -> tuple[Measure, ...]:
    return build_measures(store, metrics, trained_on(store, POINTS), EXECUTION, HERE, progress=False)


@pytest.fixture(scope="module")
def run(store: Store, measures: tuple[Measure, ...]) -> Run:
    def run(
        reporter: MemoryReporter, seeds: Seeds = SEEDS, name: str = "bench", namespace: str = ""
    ) -> BenchmarkResult:
        return benchmark(
            store, name, POINTS, seeds, measures, EXECUTION, HERE, reporter, TIMING, 10, namespace, progress=False
        )

    return run


@pytest.fixture(scope="module")
def reporter() -> MemoryReporter:
    return MemoryReporter()


@pytest.fixture(scope="module")
def result(run: Run, reporter: MemoryReporter) -> BenchmarkResult:
    return run(reporter)


def by_name(reporter: MemoryReporter) -> dict[str, MemoryRun]:
    return {run.name: run for run in reporter.runs.values()}


def values(run: MemoryRun) -> dict[str, float]:
    return {key: value for _, key, value in run.history}


def test_every_setting_is_one_finished_run(result: BenchmarkResult, reporter: MemoryReporter) -> None:
    runs = by_name(reporter)
    assert len(reporter.runs) == len(runs) == len(POINTS)
    assert set(runs) == set(SETTINGS)
    assert {run.status for run in runs.values()} == {"FINISHED"}
    for row in result.rows:
        tags = runs[row.name].all_tags
        assert tags["kind"] == "sampler"
        assert tags["benchmark"] == "bench"
        assert tags["checkpoint"] == row.checkpoint == f"{TRAINING}@1000/ema-1"
        assert tags["protocol"] == row.protocol
        assert tags["samples"] == row.samples_digest
        assert tags["pareto"] == ("yes" if row.pareto else "no")
        assert runs[row.name].all_params["sampler"]["solver"]["kind"] == row.solver


def test_evaluations_are_counted_exactly(result: BenchmarkResult, reporter: MemoryReporter) -> None:
    assert {row.name: row.nfe for row in result.rows} == NFE
    assert {name: values(run)["nfe"] for name, run in by_name(reporter).items()} == NFE


def test_every_extractor_has_its_distance_and_none_is_called_fid(
    result: BenchmarkResult, reporter: MemoryReporter
) -> None:
    for row in result.rows:
        told = values(by_name(reporter)[row.name])
        assert told["fd"] == told["fd_classifier"] == row.distance == row.distances["classifier"]
        assert told["fd_four_corners"] == row.distances["four_corners"]
        assert told["accuracy"] == row.accuracy
        assert told["seconds"] == row.seconds_per_1000
        assert told["images_per_second"] == pytest.approx(1000 / told["seconds"])
        assert not {key for key in told if key.startswith("fid")}
    assert result.titles["four_corners"] == "FD, Four corners"


def test_the_front_is_marked(result: BenchmarkResult) -> None:
    rows = result.rows
    assert [row.nfe for row in rows] == sorted(row.nfe for row in rows)
    assert [row.pareto for row in rows] == pareto_front([r.nfe for r in rows], [r.distance for r in rows])
    assert rows[0].pareto  # the cheapest one always is


def test_every_run_says_how_far_it_is_from_the_best_and_what_its_limit_is(
    result: BenchmarkResult, reporter: MemoryReporter
) -> None:
    best = min(result.rows, key=lambda row: row.distance)
    for row in result.rows:
        run = by_name(reporter)[row.name]
        told = values(run)
        assert run.all_tags["compared_with"] == best.name
        assert told["fd_low"] <= told["fd"] <= told["fd_high"]
        assert told["fd_limit_low"] <= told["fd_limit_high"]
        assert told["fd_limit"] < told["fd"]
        if row.name != best.name:
            assert told["difference"] == pytest.approx(row.distance - best.distance)
            assert 0 <= told["p_better"] <= 0.5
    assert len(json.loads(result.to_json())["comparisons"]) == 4
    assert f"difference: to {best.name}, the best here" in result.comparisons()


def test_the_table_names_all_settings(result: BenchmarkResult) -> None:
    table = result.table()
    lines = {line.split("|")[1].strip(): line for line in table.splitlines() if line.startswith("|")}
    for row in result.rows:
        assert f" {row.nfe:g} " in lines[row.name]
        assert ("*" in lines[row.name]) == row.pareto
    assert "held-out images of b" in table
    assert len(json.loads(result.to_json())["rows"]) == len(list(csv.DictReader(io.StringIO(result.to_csv())))) == 4


def test_pictures_show_the_same_seeds_in_the_same_places(result: BenchmarkResult, reporter: MemoryReporter) -> None:
    pictures = [run.images["samples", 0] for run in reporter.runs.values()]
    assert len({picture.shape for picture in pictures}) == 1
    assert result.picture.dtype == np.uint8
    assert result.picture.shape[2] == 3
    assert result.picture.shape[0] > 4 * 64
    assert result.picture.shape[1] > 10 * 64


def test_a_second_run_generates_nothing_and_tells_the_same_numbers(
    run: Run, result: BenchmarkResult, reporter: MemoryReporter
) -> None:
    assert result.generated == 4 * 120  # whole chunks
    keys = set(reporter.runs)
    again = run(reporter)
    assert again.generated == 0
    assert again.rows == result.rows
    np.testing.assert_array_equal(again.picture, result.picture)
    assert set(reporter.runs) == keys


def test_more_seeds_are_other_runs_and_cost_only_the_difference(run: Run, reporter: MemoryReporter) -> None:
    keys = set(reporter.runs)
    more = run(reporter, Seeds(0, 160))
    assert more.generated == 4 * 40
    assert len(set(reporter.runs) - keys) == 4


def test_another_namespace_generates_anew(run: Run, result: BenchmarkResult) -> None:
    other = MemoryReporter()
    again = run(other, namespace="tonight")
    assert again.generated == result.generated
    assert [row.distances for row in again.rows] == [row.distances for row in result.rows]
    assert {row.samples_digest for row in again.rows}.isdisjoint({row.samples_digest for row in result.rows})


def test_mistakes_are_told_before_anything_is_generated(store: Store, measures: tuple[Measure, ...]) -> None:
    def attempt(points: list[Point], some: tuple[Measure, ...] = measures) -> None:
        benchmark(store, "b", points, SEEDS, some, EXECUTION, HERE, MemoryReporter(), namespace="x", progress=False)

    with pytest.raises(SettingsError, match=r"same name \(euler-8\)"):
        attempt([POINTS[0], POINTS[0]])
    with pytest.raises(SettingsError, match="baseline: there is no setting heun-5; there are: euler-8, heun-4"):
        benchmark(
            store, "b", POINTS, SEEDS, measures, EXECUTION, HERE, MemoryReporter(), namespace="x", baseline="heun-5"
        )
    with pytest.raises(SettingsError, match="0 settings"):
        attempt([])
    with pytest.raises(SettingsError, match="0 measures"):
        attempt(POINTS, ())
    with pytest.raises(CheckpointError, match="no such training"):
        attempt([Point("x", CheckpointRef("nobody"), Sampler(), Balanced())])


def test_published_statistics_are_the_reference_of_the_first_extractor(
    store: Store, metrics: MetricSettings, measures: tuple[Measure, ...], tmp_path: Path
) -> None:
    measures[0].reference.export(tmp_path / "a.npz")
    from_file = metrics.model_copy(update={"reference_npz": str(tmp_path / "a.npz")})
    first, second = build_measures(store, from_file, "a", EXECUTION, HERE, progress=False)
    np.testing.assert_array_equal(first.reference.gaussian.mean, measures[0].reference.gaussian.mean)
    assert first.reference.digest != measures[0].reference.digest
    assert second.reference.digest == measures[1].reference.digest
