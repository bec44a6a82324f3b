"""Networks compiled ahead of time: their own answers, one artifact for all that can share it, nothing foreign."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.data.store import Store
from pipeline.engine import ahead
from pipeline.engine.ahead import AheadNetwork, compiled_ahead
from pipeline.engine.denoisers import load_denoiser
from pipeline.engine.devices import as_dtype, fixed_arithmetic
from pipeline.engine.generation import generate
from pipeline.engine.work import Actors, Seeds
from pipeline.errors import SettingsError, StoreError
from pipeline.networks import ADM, EDM2, MLP, NCSNpp
from pipeline.networks.group_norm import NativeGroupNorm
from pipeline.networks.winograd import WinogradConv2d
from pipeline.training.settings import ModelSpec
from pipeline.training.snapshot import CheckpointRef, find_snapshot, read_weights
from tests.engine.tiny import EXECUTION, MODEL, contents, put_snapshot, tiny_points, tiny_store

AHEAD = replace(EXECUTION, compile="ahead")
ROOT = Path(__file__).parents[2]
BY_TWO_ACTORS = """
import sys
from pipeline.data.store import Store
from pipeline.engine.generation import generate
from pipeline.engine.session import session
from pipeline.engine.work import Actors, Seeds
from tests.engine.test_ahead import AHEAD
from tests.engine.tiny import tiny_points
with session(num_cpus=2):
    generate(Store(sys.argv[1]), tiny_points(2, (3,)), Seeds(0, 64), AHEAD, Actors(num_actors=2), progress=False)
"""
SMALL: dict[str, Any] = {"model_channels": 8, "channel_mult": (1, 2), "num_blocks": 1, "attn_resolutions": (8,)}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sigmasweep" / "compiled"


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Counts what is really compiled."""
    counted: list[int] = []
    build = ahead._build

    def counting(*arguments: Any) -> bytes:
        counted.append(1)
        return build(*arguments)

    monkeypatch.setattr(ahead, "_build", counting)
    with fixed_arithmetic(1):
        yield counted


def denoiser_of(store: Store, name: str, **changes: Any) -> Any:
    snapshot = find_snapshot(store, CheckpointRef(name))
    return load_denoiser(snapshot.model, read_weights(store, snapshot), replace(EXECUTION, **changes), "cpu")


def ask(denoiser: Any, size: int = 8, labelled: bool = True) -> torch.Tensor:
    random = torch.Generator().manual_seed(3)
    x = torch.randn(size, *MODEL.shape, dtype=torch.float64, generator=random)
    sigma, labels = torch.logspace(-1, 1, size, dtype=torch.float64), torch.arange(size) % 10
    with torch.inference_mode():
        answer: torch.Tensor = denoiser(x, sigma, labels if labelled else None)
    return answer


@pytest.mark.slow
def test_one_artifact_serves_every_checkpoint_of_a_model_with_its_own_weights(
    tmp_path: Path, builds: list[int]
) -> None:
    store = tiny_store(tmp_path)
    answers = []
    for name in ("net0", "net1"):
        compiled, plain = denoiser_of(store, name, compile="ahead"), denoiser_of(store, name)
        assert isinstance(compiled.network, AheadNetwork)
        for size, labelled in ((8, True), (8, False), (3, True), (19, True)):  # cut and filled up to batches of 8
            expected = ask(plain, size, labelled)
            torch.testing.assert_close(ask(compiled, size, labelled), expected, rtol=1e-4, atol=1e-4)
            assert ask(compiled, size, labelled).equal(ask(compiled, size, labelled))
        answers.append(ask(compiled))
        assert compiled.dtype == torch.float32
    assert len(builds) == 1
    assert not torch.allclose(*answers, rtol=0.1, atol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "near"), [("fp32", 1e-4), ("bf16", 0.05)])
def test_code_with_kernels_of_our_own_answers_as_the_definition_does(
    tmp_path: Path, builds: list[int], precision: str, near: float
) -> None:
    store = tiny_store(tmp_path)
    for name in ("net0", "net1"):
        fast: Any = {"compile": "ahead", "convolution": "winograd", "norm": "native", "precision": precision}
        compiled = denoiser_of(store, name, **fast)
        assert isinstance(compiled.network, AheadNetwork)
        kinds = {type(layer) for layer in compiled.network.network.modules()}
        assert {WinogradConv2d, NativeGroupNorm} <= kinds
        exact = ask(denoiser_of(store, name))
        for size in (8, 3):
            assert (ask(compiled, size) - ask(denoiser_of(store, name), size)).abs().max() < near * exact.abs().max()
    assert len(builds) == 1


@pytest.mark.slow
@pytest.mark.parametrize("how", [True, "reduce-overhead"])
def test_networks_that_an_actor_compiles_for_itself_answer_alike_too(
    tmp_path: Path, builds: list[int], how: Any
) -> None:
    store = tiny_store(tmp_path, 1)
    torch._dynamo.reset()
    compiled, plain = denoiser_of(store, "net0", compile=how), denoiser_of(store, "net0")
    torch.testing.assert_close(ask(compiled), ask(plain), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ask(compiled, labelled=False), ask(plain, labelled=False), rtol=1e-4, atol=1e-4)
    assert not builds


@pytest.mark.slow
def test_half_precision_stays_near_and_an_artifact_that_was_damaged_is_made_again(
    tmp_path: Path, builds: list[int], cache: Path
) -> None:
    store = tiny_store(tmp_path, 1)
    exact = ask(denoiser_of(store, "net0"))
    first = ask(denoiser_of(store, "net0", compile="ahead", precision="bf16"))
    assert (first - exact).abs().max() < 0.05 * exact.abs().max()
    [package] = cache.glob("*.pt2")
    data = bytearray(package.read_bytes())
    data[len(data) // 2] ^= 1
    package.write_bytes(data)
    assert ask(denoiser_of(store, "net0", compile="ahead", precision="bf16")).equal(first)
    assert len(builds) == 2
    assert ask(denoiser_of(store, "net0", compile="ahead", precision="bf16")).equal(first)
    assert len(builds) == 2


@pytest.mark.slow
@pytest.mark.parametrize("network", [NCSNpp(**SMALL), ADM(**SMALL, channels_per_head=8), MLP(hidden=16)])
def test_every_other_kind_of_network_can_be_compiled_ahead(builds: list[int], network: Any) -> None:
    model = ModelSpec.model_validate({**MODEL.model_dump(), "network": network})
    torch.manual_seed(0)
    net = network.build(model.resolution, model.channels, model.num_classes).eval().requires_grad_(False)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    x, c_noise, labels = torch.randn(8, *model.shape), torch.linspace(-1, 1, 8), torch.arange(8) - 1
    expected = net(x, c_noise, labels)
    compiled = compiled_ahead(net.to(memory_format=torch.channels_last), model, AHEAD, "cpu")
    torch.testing.assert_close(compiled(x, c_noise, labels), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_numbers_among_the_weights_are_no_part_of_the_code(builds: list[int], precision: str) -> None:
    """EDM2's gains have no dimensions, and compilers take such for constants."""
    network, execution = EDM2(**SMALL, channels_per_head=8), replace(AHEAD, precision=precision)
    model = ModelSpec.model_validate({**MODEL.model_dump(), "network": network})
    inputs = torch.randn(8, *model.shape).to(as_dtype(precision)), torch.linspace(-1, 1, 8), torch.arange(8) - 1
    for seed in (0, 1):
        torch.manual_seed(seed)
        net = network.build(model.resolution, model.channels, model.num_classes).eval().requires_grad_(False)
        for parameter in net.parameters():
            nn.init.normal_(parameter)
        net = net.to(as_dtype(precision))
        expected = net(*inputs)
        compiled = compiled_ahead(net.to(memory_format=torch.channels_last), model, execution, "cpu")
        apart = (compiled(*inputs) - expected).float().norm() / expected.float().norm()
        assert apart < {"fp32": 1e-5, "bf16": 0.03}[precision]
    assert builds == [1]


@pytest.mark.slow
def test_code_that_holds_weights_fast_is_refused(builds: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "_OF_NUMBERS", {})
    network = EDM2(**SMALL, channels_per_head=8)
    model = ModelSpec.model_validate({**MODEL.model_dump(), "network": network})
    torch.manual_seed(0)
    net = network.build(model.resolution, model.channels, model.num_classes).eval().requires_grad_(False)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    with pytest.raises(SettingsError, match="its code answers otherwise than the network"):
        compiled_ahead(net.to(memory_format=torch.channels_last), model, AHEAD, "cpu")


@pytest.mark.slow
def test_actors_of_a_node_make_one_artifact_and_the_same_bytes_as_one_process(tmp_path: Path, cache: Path) -> None:
    """In a process of its own, whose Ray workers take the folder from its environment."""
    one, two = tiny_store(tmp_path / "one", 2), tiny_store(tmp_path / "two", 2)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    generated = subprocess.run([sys.executable, "-c", BY_TWO_ACTORS, two.uri], env=environment, cwd=ROOT, check=False)
    assert generated.returncode == 0
    assert len(list(cache.glob("*.pt2"))) == 1
    generate(one, tiny_points(2, (3,)), Seeds(0, 64), AHEAD, Actors(num_actors=0), progress=False)
    assert contents(one) == contents(two)
    assert len(contents(one)) == 8
    assert len(list(cache.glob("*.pt2"))) == 1


def test_a_folder_that_others_can_write_to_is_refused_before_anything_is_loaded(
    tmp_path: Path, builds: list[int], cache: Path
) -> None:
    store = tiny_store(tmp_path, 1)
    cache.mkdir(parents=True)
    cache.chmod(0o777)
    with pytest.raises(StoreError, match="is open to other users"):
        denoiser_of(store, "net0", compile="ahead")
    assert not builds


def test_code_that_answers_otherwise_than_the_network_is_not_kept() -> None:
    model = ModelSpec.model_validate({**MODEL.model_dump(), "network": MLP(hidden=4)})
    network = model.network.build(model.resolution, model.channels, model.num_classes).eval()
    nn.init.normal_(list(network.parameters())[-1])
    example = ahead._example(model, AHEAD, "cpu")
    with torch.no_grad():
        ahead._check(network, network, example)
        for spoilt in (lambda *given: network(*given) * 1.01, lambda *given: network(*given) * torch.nan):
            with pytest.raises(ValueError, match="answers otherwise than the network"):
                ahead._check(spoilt, network, example)


def test_a_machine_without_a_compiler_is_told_in_one_sentence(tmp_path: Path, builds: list[int]) -> None:
    import torch._inductor.config as inductor

    store = Store(tmp_path)
    put_snapshot(store, "net", 0, model=ModelSpec.model_validate({**MODEL.model_dump(), "network": MLP(hidden=4)}))
    # Torch's own way to change this and back: pytest's takes the setting away when the test ends.
    with (
        inductor.patch("cpp.cxx", (None, "no-such-compiler")),
        pytest.raises(SettingsError, match=r"execution.compile: ahead: .* C\+\+ compiler") as error,
    ):
        denoiser_of(store, "net", compile="ahead")
    assert "\n" not in str(error.value)
