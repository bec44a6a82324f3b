"""Training on a GPU: the gradients of the CPU, and steps by every path that lead where a CPU's lead."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.data.dataset import Dataset
from pipeline.networks import ADM, EDM2, DDPMpp, NCSNpp
from pipeline.training import checkpoint
from pipeline.training.loop import train
from pipeline.training.place import Place
from pipeline.training.trainer import Trainer
from tests.training.toys import make_dataset, make_job, make_model, make_settings, quiet, store_at

SMALL: dict[str, Any] = {"model_channels": 32, "channel_mult": (1, 2), "num_blocks": 1, "attn_resolutions": (8,)}
NETWORKS = {
    "ddpmpp": DDPMpp(**SMALL, dropout=0.0),
    "ncsnpp": NCSNpp(**SMALL, dropout=0.0),
    "adm": ADM(**SMALL, channels_per_head=16, dropout=0.0),
    "edm2": EDM2(**SMALL, channels_per_head=16),
}
GPU, CPU = (Place(device=torch.device(device)) for device in ("cuda", "cpu"))
STEPS = 8


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_dataset(store_at(tmp_path_factory.mktemp("data")), shape=(3, 16, 16))


def _trainer(dataset: Dataset, place: Place, network: str = "ddpmpp", **fields: Any) -> Trainer:
    return Trainer(make_model(dataset, NETWORKS[network]), make_settings(STEPS, **fields), dataset, place)


@pytest.mark.parametrize("network", NETWORKS)
def test_gradients_are_those_of_the_cpu(dataset: Dataset, network: str) -> None:
    gradients = []
    for place in (CPU, GPU):
        trainer = _trainer(dataset, place, network)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            trainer._backward()
        gradients.append([p.grad.cpu() for p in trainer._network.parameters() if p.grad is not None])
    for here, there in zip(*gradients, strict=True):
        assert float((there - here).norm()) <= 1e-3 * float(here.norm()) + 1e-6


@pytest.mark.timeout(600)
@pytest.mark.parametrize("microbatch", [None, 6])
@pytest.mark.parametrize("how", [False, True, "reduce-overhead"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_path_comes_where_the_cpu_comes(dataset: Dataset, precision: Any, how: Any, microbatch: Any) -> None:
    torch._dynamo.reset()
    losses = []
    for place, fields in ((CPU, {}), (GPU, {"precision": precision, "compile": how, "microbatch": microbatch})):
        trainer = _trainer(dataset, place, **fields)
        for _ in range(STEPS):
            trainer.step()
        losses.append(trainer.summary().mean)
        assert trainer.num_updates == STEPS
    assert losses[1] == pytest.approx(losses[0], rel={"fp32": 1e-3, "bf16": 0.02, "fp16": 0.02}[precision])


@pytest.mark.parametrize("how", [False, "reduce-overhead"])
def test_a_training_that_was_prolonged_is_nearly_the_longer_one(tmp_path: Path, how: Any) -> None:
    """To rounding: on a GPU, sums of gradients have no fixed order."""
    weights = []
    for parts in ((6,), (2, 6)):
        store = store_at(tmp_path / str(len(parts)))
        for steps in parts:
            torch._dynamo.reset()
            job = make_job(store, make_settings(steps, compile=how), DDPMpp(**{**SMALL, "model_channels": 16}))
            train(job, GPU, quiet())
        weights.append(Trainer(job.model, job.settings, job.dataset, CPU))
        weights[-1].restore(checkpoint.newest(store, job.folder, print))
    one, other = (trainer.weights()["raw"] for trainer in weights)
    assert weights[0].position == weights[1].position
    for name in one:
        torch.testing.assert_close(other[name], one[name], rtol=1e-2, atol=2e-4)
