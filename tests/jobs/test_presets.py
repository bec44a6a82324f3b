"""The published configurations: what they change, what they carry, and what they would cost."""

from pathlib import Path
from typing import Any

import pytest

from jobs import benchmark, train
from pipeline.config.benchmarks import BenchmarkJob
from pipeline.config.load import load, read
from pipeline.config.trainings import TrainJob
from pipeline.diffusion.preconditioning import IDDPMPreconditioning, VEPreconditioning, VPPreconditioning
from pipeline.diffusion.timesteps import grid
from tests.jobs.test_configs import ROOT, skip_if_ahead

PRESETS = ROOT / "presets"
SETS = [
    f"{data}-{column}-{letter}"
    for data, letters in (
        ("cifar10", "abcdef"),
        ("cifar10-uncond", "abcdef"),
        ("ffhq-64", "cdef"),
        ("afhqv2-64", "cdef"),
    )
    for column in ("vp", "ve")
    for letter in letters
]
CHANGES = {  # what a configuration changes of the one before it, beside its name and its published figure
    "b": {"model.network", "training.optimizer", "training.ema", "training.batch_size"},
    "c": {"model.network"},
    "d": {"model.preconditioning"},
    "e": {"training.noise", "training.weighting"},
    "f": {"model.network", "training.augment", "training.x_flip"},
}
CIFAR10_FID = {"a": 2.48, "b": 2.18, "c": 2.08, "d": 2.09, "e": 1.88, "f": 1.79}  # of Table 2, conditional, VP
LEVELS = {"vp": VPPreconditioning(), "ve": VEPreconditioning(), "iddpm": IDDPMPreconditioning()}


def preset(name: str, model: type[Any], tmp_path: Path) -> Any:
    path = PRESETS / f"{name}.yaml"
    skip_if_ahead(path)
    return load(model, path, [f"store={tmp_path}/store"])


def parts(name: str) -> dict[str, Any]:
    """The settings of a training two levels down, as they stand in its file and those it is based on."""
    content = read(PRESETS / f"{name}.yaml")
    return {f"{key}.{inner}": value for key in ("model", "training") for inner, value in content[key].items()}


@pytest.mark.parametrize("name", [name for name in SETS if name[:-1] + chr(ord(name[-1]) - 1) in SETS])
def test_a_configuration_changes_what_the_paper_changes(name: str) -> None:
    now, before = parts(name), parts(name[:-1] + chr(ord(name[-1]) - 1))
    assert {key for key in now | before if now.get(key) != before.get(key)} == CHANGES[name[-1]]


@pytest.mark.parametrize("name", [name for name in SETS if "uncond" in name])
def test_the_unconditional_one_changes_one_key(name: str) -> None:
    now, before = parts(name), parts(name.replace("-uncond", ""))
    assert {key for key in now | before if now.get(key) != before.get(key)} == {"model.conditional"}


@pytest.mark.parametrize("name", SETS)
def test_a_dry_run_of_a_training_tells_its_cost_and_the_published_figure(name: str, tmp_path: Path) -> None:
    settings = preset(name, TrainJob, tmp_path)
    assert settings.name == name
    lines = train.dry_run(settings)
    assert "parameters; 200,000" in lines[0]
    assert "GFLOP a forward pass of one image" in lines[1]
    assert "is not in the store yet" in lines[2]
    assert lines[-1].startswith(f"published: FID {settings.published.fid:g} at NFE {settings.published.nfe} (arXiv ")


def test_the_published_figures_are_those_of_the_paper(tmp_path: Path) -> None:
    for letter, fid in CIFAR10_FID.items():
        assert read(PRESETS / f"cifar10-vp-{letter}.yaml")["published"]["fid"] == fid
    settings = preset("cifar10-vp-e", TrainJob, tmp_path)
    tags = settings.published.tags()
    assert (tags["published_fid"], tags["published_nfe"]) == ("1.88", "35")


def test_the_network_of_configuration_c_is_the_published_one(tmp_path: Path) -> None:
    lines = train.dry_run(preset("cifar10-vp-c", TrainJob, tmp_path))
    assert lines[0].startswith("55,7")
    assert lines[1].startswith("42.")


@pytest.mark.parametrize("column", LEVELS)
def test_every_point_of_a_sampler_ablation_suits_its_network(column: str, tmp_path: Path) -> None:
    settings = preset(f"sampler-ablation-{column}", BenchmarkJob, tmp_path)
    samplers = [point.sampler for _, point in settings.points]
    kinds = [(item.solver.kind, item.timesteps.kind, item.schedule.kind, item.scaling.kind) for item in samplers]
    own = ("linear", "none") if column == "iddpm" else (column, "vp" if column == "vp" else "none")
    steps = [("euler", column, *own), ("heun", "edm", *own), ("heun", "edm", "linear", "none")]
    assert list(dict.fromkeys(kinds)) == list(dict.fromkeys(steps))
    for sampler in samplers:
        assert len(grid(sampler.timesteps, LEVELS[column].levels())) == sampler.timesteps.num_steps + 1


@pytest.mark.parametrize(
    ("name", "churn"),
    [
        ("stochastic-cifar10-vp", (30, 0.01, 1, 1.007)),
        ("stochastic-cifar10-ve", (80, 0.05, 1, 1.007)),
        ("stochastic-imagenet-64-pretrained", (80, 0.05, 50, 1.003)),
        ("stochastic-imagenet-64", (40, 0.05, 50, 1.003)),
    ],
)
def test_the_stochastic_samplers_are_the_published_ones(name: str, churn: tuple[float, ...], tmp_path: Path) -> None:
    settings = preset(name, BenchmarkJob, tmp_path)
    for _, point in settings.points:
        found = point.sampler.stochasticity
        assert (found.S_churn, found.S_min, found.S_max, found.S_noise) == churn
    lines = benchmark.dry_run(settings)
    assert "network evaluations, if the network takes all their noise levels" in lines[0]
    assert lines[1].startswith("not ready: ")
    assert f"{settings.checkpoint.training}: no such training" in lines[1]
    assert lines[2:] == ([str(settings.published)] if settings.published else [])


def test_the_most_expensive_published_sampler_costs_what_it_is_said_to(tmp_path: Path) -> None:
    settings = preset("stochastic-imagenet-64", BenchmarkJob, tmp_path)
    assert f"{511 * 50_000:,} network evaluations" in benchmark.dry_run(settings)[0]


def test_every_preset_is_known_to_these_tests() -> None:
    others = {"imagenet-64-adm", *(path.stem for path in PRESETS.glob("*-prepare.yaml"))}
    benchmarks = {path.stem for path in PRESETS.glob("s*.yaml")}
    assert {path.stem for path in PRESETS.glob("*.yaml")} == {*SETS, *others, *benchmarks}
