"""Code that is compiled here: once, in a folder of the user's own, the same images by any number of actors."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.data.native import load_operators
from pipeline.data.samples import Execution, samples_key
from pipeline.diffusion.labels import Balanced
from pipeline.diffusion.sampling import Sampler
from pipeline.digests import digest
from pipeline.engine import placement
from pipeline.engine.denoisers import load_denoiser
from pipeline.engine.placement import place
from pipeline.engine.work import Actors
from pipeline.errors import SettingsError
from pipeline.networks import DDPMpp
from pipeline.training.snapshot import weights_bytes
from tests.engine.tiny import MODEL

WINOGRAD = Execution(batch_size=4, chunk_size=4, convolution="winograd")
ROOT = Path(__file__).parents[2]
LOAD = """
from pipeline.data.native import load_operators
from pipeline.networks.winograd import KERNEL
load_operators(KERNEL, "execution.convolution")
import torch
print(torch.ops.sigmasweep.conv3x3(torch.ones(1, 32, 4, 4), torch.ones(36, 32, 32), torch.zeros(32)).shape[1])
"""


def _in_a_process(cache: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    known = {**os.environ, "XDG_CACHE_HOME": str(cache), **environment}
    return subprocess.run(
        [sys.executable, "-c", LOAD], env=known, cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_it_is_compiled_once_and_again_only_where_it_was_damaged(tmp_path: Path) -> None:
    assert _in_a_process(tmp_path).stdout == "32\n"
    (made,) = (tmp_path / "sigmasweep" / "compiled").rglob("*.so")
    written = made.stat().st_mtime_ns
    assert _in_a_process(tmp_path, PATH="/nowhere").stdout == "32\n"  # needs no compiler now
    assert made.stat().st_mtime_ns == written
    made.chmod(0o600)
    made.write_bytes(b"\x7fELF, but not what was made")
    again = _in_a_process(tmp_path)
    assert again.stdout == "32\n", again.stderr
    assert "set aside" in again.stderr


def test_without_a_compiler_that_is_said_in_one_sentence(tmp_path: Path) -> None:
    error = _in_a_process(tmp_path, CXX="no-such-compiler").stderr.splitlines()[-1]
    assert "execution.convolution: needs a C++ compiler on this machine" in error
    assert "no-such-compiler" in error


def test_what_no_compiler_takes_is_said_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = tmp_path / "wrong.cpp"
    source.write_text("int main( {")
    with pytest.raises(SettingsError, match=r"convolution: wrong\.cpp cannot be compiled on this machine \(.*error"):
        load_operators(source, "execution.convolution")


@pytest.mark.parametrize("native", [{"convolution": "winograd"}, {"norm": "native"}], ids=str)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_denoiser_on_this_path_answers_as_the_plain_one(precision: str, native: dict[str, Any]) -> None:
    network = DDPMpp(model_channels=32, channel_mult=(1, 1), num_blocks=1, attn_resolutions=())
    model = MODEL.model_copy(update={"network": network})
    torch.manual_seed(0)
    built = network.build(model.resolution, model.channels, model.num_classes)
    for parameter in built.parameters():
        if parameter.dim() == 4:
            torch.nn.init.xavier_uniform_(parameter)
    weights = weights_bytes(built.state_dict())
    execution = replace(WINOGRAD, precision=precision, convolution="direct")
    x, sigma = torch.randn(4, *model.shape, dtype=torch.float64), torch.full((4,), 0.5, dtype=torch.float64)
    with torch.inference_mode():
        plain = load_denoiser(model, weights, execution, "cpu")(x, sigma, None)
        fast = load_denoiser(model, weights, replace(execution, **native), "cpu")(x, sigma, None)
    apart = float((fast - plain).abs().max())
    assert 0 < apart < (1e-5 if precision == "fp32" else 0.05)


def test_the_key_of_samples_names_it_and_is_as_it_was_without() -> None:
    def key(execution: Execution) -> dict[str, object]:
        return samples_key("0" * 64, MODEL, Sampler(), Balanced(), execution, {"kind": "cpu"}, "2.13")

    direct = key(replace(WINOGRAD, convolution="direct"))
    native = replace(WINOGRAD, convolution="direct", norm="native")
    assert not {"convolution", "norm"} & set(direct["execution"])  # type: ignore[call-overload]
    assert (
        len({digest(named) for named in (direct, key(WINOGRAD), key(native), key(replace(WINOGRAD, norm="native")))})
        == 4
    )


def test_it_is_refused_where_it_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"convolution: winograd is for fp32 and bf16 on a CPU \(got precision fp16"):
        replace(WINOGRAD, precision="fp16")
    with pytest.raises(ValueError, match="device cuda"):
        replace(WINOGRAD, device="cuda")
    with pytest.raises(ValueError, match=r"norm: native is for fp32 and bf16 on a CPU \(.*\); set it to torch"):
        Execution(norm="native", precision="fp16")
    monkeypatch.setattr(placement, "local_device", lambda _: "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(SettingsError, match="winograd is for CPUs, and the work would be done on GPUs"):
        place(WINOGRAD, Actors(num_actors=0))
