"""Other people's checkpoints: read right, or refused in one sentence; nothing in them is run."""

import builtins
import copy
import io
import json
import os
import pickle
import pickletools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.data.pickled_networks import loads_networks
from pipeline.data.store import Store
from pipeline.data.unpickle import RefusedPickleError
from pipeline.diffusion.denoiser import Denoiser
from pipeline.diffusion.preconditioning import (
    EDMPreconditioning,
    IDDPMPreconditioning,
    Preconditioning,
    VEPreconditioning,
    VPPreconditioning,
)
from pipeline.errors import CheckpointError
from pipeline.networks import ADM, EDM2, MLP, DDPMpp, NCSNpp
from pipeline.training.importing import commit_import, export_folder, recognise
from pipeline.training.settings import ModelSpec
from pipeline.training.snapshot import CheckpointRef, build_denoiser, commit_snapshot, find_snapshot, read_weights
from tests.training import nvlabs

NETWORK = DDPMpp(
    model_channels=8, channel_mult=(1, 2), num_blocks=1, attn_resolutions=(4,), dropout=0.1, channel_mult_emb=2
)
HEADS = DDPMpp(
    model_channels=8, channel_mult=(2, 2, 1), num_blocks=2, attn_resolutions=(8, 2), channels_per_head=4, dropout=0.1
)
PRECONDITIONINGS: list[tuple[Preconditioning, float]] = [
    (EDMPreconditioning(), 0.7), (VPPreconditioning(beta_d=18.0, beta_min=0.2, M=900), 0.5),
    (VEPreconditioning(sigma_min=0.03, sigma_max=90.0), 0.5), (IDDPMPreconditioning(M=200, C_2=0.01), 0.5),
]  # fmt: skip


def random_network(settings: Any, shape: tuple[int, int, int]) -> Any:
    """With every weight drawn, since a fresh one has layers that do almost nothing."""
    torch.manual_seed(3)
    network = settings.build(*shape).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.3)
    return network


def outputs(denoiser: Denoiser, shape: tuple[int, int, int]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, shape[1], shape[0], shape[0], generator=generator, dtype=torch.float64)
    sigma = torch.tensor([0.05, 0.6, 3.0, 40.0], dtype=torch.float64)
    labels = torch.tensor([0, -1, 2, 1]) if shape[2] else None
    with torch.no_grad():
        return denoiser(x * sigma.reshape(-1, 1, 1, 1), sigma, labels)


def imported(tmp_path: Path, path: Path) -> Denoiser:
    """Through the store, as a job would."""
    store = Store(tmp_path / "store")
    commit_import(store, "theirs", recognise(path), "CC BY-NC-SA 4.0")
    snapshot = find_snapshot(store, CheckpointRef("theirs"))
    return build_denoiser(snapshot.model, read_weights(store, snapshot), torch.float32, "cpu")


NCSN = NCSNpp(
    model_channels=8, channel_mult=(1, 2), num_blocks=1, attn_resolutions=(4,), dropout=0.1, channel_mult_emb=2
)
TALL = ADM(
    model_channels=8, channel_mult=(1, 2), num_blocks=1, attn_resolutions=(4,), channels_per_head=4, dropout=0.1,
    channel_mult_emb=2,
)  # fmt: skip
MAGNITUDES = EDM2(
    model_channels=8, channel_mult=(1, 2), num_blocks=1, attn_resolutions=(4,), channels_per_head=8, dropout=0.1,
    res_balance=0.4, clip=100.0,
)  # fmt: skip
EDM, *OTHERS = PRECONDITIONINGS
CASES = [
    *((NETWORK, (8, 3, 3), how) for how in PRECONDITIONINGS), *((HEADS, (8, 1, 0), how) for how in PRECONDITIONINGS),
    *((settings, (8, 3, 3), EDM) for settings in (NCSN, TALL, MAGNITUDES)),
    *((settings, (8, 1, 0), EDM) for settings in (NCSN, TALL, MAGNITUDES)),
    (TALL, (8, 3, 3), PRECONDITIONINGS[3]), (NCSN, (8, 3, 0), PRECONDITIONINGS[2]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "shape", "how"),
    CASES,
    ids=[f"{net.kind}-{shape[2]} classes-{how[0].kind}" for net, shape, how in CASES],
)
def test_a_pickle_gives_the_images_of_the_network_it_was_made_from(
    tmp_path: Path, settings: Any, shape: tuple[int, int, int], how: tuple[Preconditioning, float]
) -> None:
    preconditioning, sigma_data = how
    network = random_network(settings, shape)
    path = tmp_path / "network.pkl"
    path.write_bytes(nvlabs.file(nvlabs.network(network, preconditioning, sigma_data, shape)))
    denoiser = imported(tmp_path, path)
    assert denoiser.preconditioning == preconditioning
    assert denoiser.sigma_data == sigma_data
    assert recognise(path).model.network == settings
    found = outputs(denoiser, shape)
    assert torch.equal(found, outputs(Denoiser(network, preconditioning, sigma_data), shape))
    assert found.std() > 0.01


def theirs(**settings: Any) -> nvlabs.Persistent:
    made = nvlabs.network(random_network(NETWORK, (8, 3, 3)), EDMPreconditioning(), 0.5, (8, 3, 3))
    made.__dict__.update(settings)
    return made


def test_what_was_recognised_is_told(tmp_path: Path) -> None:
    path = tmp_path / "network.pkl"
    path.write_bytes(nvlabs.file(theirs()))
    found = recognise(path)
    parameters = sum(value.numel() for value in random_network(NETWORK, (8, 3, 3)).parameters())
    text = "\n".join(found.lines())
    for words in ("EDMPrecond over SongUNet", "ddpmpp", "3x8x8", "3 classes", f"{parameters:,} parameters", "1 (ema)",
                  "edm, sigma from 0 to inf", "map_augment.weight, resample_filter"):  # fmt: skip
        assert words in text
    assert found.usual_licence == "CC BY-NC-SA 4.0"
    assert found.licence is None


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_of_pickle_is_read(protocol: int) -> None:
    content = loads_networks(nvlabs.dumps({"ema": theirs()}, protocol))
    weight = content["ema"].state["_modules"]["model"].state["_modules"]["map_layer0"].state["_parameters"]["weight"]
    assert torch.equal(weight, random_network(NETWORK, (8, 3, 3)).map_layer0.weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool])
def test_tensors_come_back_as_from_pickle_itself(dtype: torch.dtype) -> None:
    tensor = (torch.arange(24).reshape(2, 3, 4) % 5).to(dtype)
    views = [tensor, tensor[1], tensor[:, ::2, 1:], tensor.permute(2, 0, 1), tensor[0, 0, 0], tensor[:0]]
    found = loads_networks(pickle.dumps({"views": views, "scalar": np.float64(0.3)}))
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(found["views"], views, strict=True))
    assert type(found["scalar"]) is float
    assert found["scalar"] == 0.3


# -- hostile files -------------------------------------------------------------------------------------------------


class Calls:
    """Pickles as a call of anything."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.call


def storage_bytes(value: Any = None) -> bytes:
    """What the file holds of a tensor's storage: torch's format of before 1.6."""
    reduced = pickle.dumps(torch.arange(6.0) if value is None else value)
    return next(part for part in _bytes_of(reduced) if len(part) > 100)


def _bytes_of(data: bytes) -> list[bytes]:
    return [argument for _, argument, _ in pickletools.genops(data) if isinstance(argument, bytes)]


HEADER = 137  # the first three pickles of a storage: magic number, version, system


def storage_that(pickled: bytes) -> Calls:
    """A storage with another pickle in the place of the one that names it."""
    good = storage_bytes()
    return Calls(torch.storage._load_from_bytes, good[:HEADER] + pickled + good[HEADER:])


def zipped(value: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def tensor(*arguments: Any) -> Calls:
    storage = Calls(torch.storage._load_from_bytes, storage_bytes())
    return Calls(torch._utils._rebuild_tensor_v2, storage, *arguments, False, {})


def meta(**changes: Any) -> Calls:
    base = {"type": "class", "version": 6, "module_src": "", "class_name": "Linear", "state": {}}
    return Calls(nvlabs._reconstruct_persistent_obj, nvlabs.EasyDict({**base, **changes}))


def deep(depth: int) -> Any:
    value: Any = ()
    for _ in range(depth):
        value = (value,)
    return value


HOSTILE: dict[str, tuple[Callable[[str], Any], str]] = {
    "os.system": (lambda mark: Calls(os.system, f"touch {mark}"), "posix.system"),
    "builtins.eval": (lambda mark: Calls(eval, f"open({mark!r}, 'w')"), "eval"),
    "builtins.exec": (lambda mark: Calls(exec, f"open({mark!r}, 'w')"), "exec"),
    "builtins.getattr": (lambda mark: Calls(getattr, np.ndarray, "tofile"), "getattr"),
    "builtins.__import__": (lambda mark: Calls(builtins.__import__, "os"), "__import__"),
    "subprocess": (lambda mark: Calls(subprocess.Popen, ["touch", mark]), "Popen"),
    "a call within a call": (lambda mark: Calls(Calls, Calls(os.system, f"touch {mark}")), "Calls"),
    "a call as the argument of a known one": (
        lambda mark: Calls(torch.storage._load_from_bytes, Calls(os.system, f"touch {mark}")), "posix.system",
    ),
    "torch.load": (lambda mark: Calls(torch.load, mark), "torch.serialization.load"),
    "the rebuilder of another kind of tensor": (
        lambda mark: Calls(torch._utils._rebuild_wrapper_subclass, eval, "1"), "_rebuild_wrapper_subclass",
    ),
    "a storage's bytes with os.system": (
        lambda mark: storage_that(pickle.dumps(Calls(os.system, f"touch {mark}"), 2)), "hold GLOBAL posix.system",
    ),
    "a storage's bytes with eval": (
        lambda mark: storage_that(pickle.dumps(Calls(eval, f"open({mark!r}, 'w')"), 2)), "tensor hold GLOBAL .*eval",
    ),
    "a storage's bytes that are another pickle": (
        lambda mark: Calls(torch.storage._load_from_bytes, pickle.dumps(Calls(os.system, f"touch {mark}"))),
        "not a storage",
    ),
    "a storage's bytes that are an archive": (
        lambda mark: Calls(torch.storage._load_from_bytes, zipped(Calls(os.system, f"touch {mark}"))), "not a storage",
    ),
    "a storage's bytes that nest deep": (
        lambda mark: storage_that(b"\x80\x02}" + b")" + b"\x85" * 300_000 + b"K\x01s."), "tensor hold",
    ),
    "a storage that claims more than it has": (
        lambda mark: Calls(torch.storage._load_from_bytes, storage_bytes().replace(b"K\x06N", b"J\xff\xff\xff\x7fN")),
        "claims 2147483647 numbers",
    ),
    "a storage that is cut off": (lambda mark: Calls(torch.storage._load_from_bytes, storage_bytes()[:-9]), "damaged"),
    "a storage of text": (lambda mark: Calls(torch.storage._load_from_bytes, "text"), "not a storage"),
    "a tensor beyond its storage": (lambda mark: tensor(0, (7,), (1,)), "beyond its 6 numbers"),
    "a tensor that starts beyond its storage": (lambda mark: tensor(1 << 39, (1,), (1,)), "beyond its 6 numbers"),
    "a tensor of exabytes by strides of zero": (lambda mark: tensor(0, (1 << 39, 1 << 39), (0, 0)), "beyond"),
    "a tensor of negative size": (lambda mark: tensor(0, (-1,), (1,)), "size of a tensor"),
    "a tensor of negative strides": (lambda mark: tensor(5, (2,), (-1,)), "size of a tensor"),
    "a tensor of fractional size": (lambda mark: tensor(0, (1.5,), (1,)), "size of a tensor"),
    "a tensor of text": (
        lambda mark: Calls(torch._utils._rebuild_tensor_v2, "text", 0, (), (), False, {}), "not made of a storage",
    ),
    "a parameter of text": (lambda mark: Calls(torch._utils._rebuild_parameter, "x", True, {}), "parameter is a str"),
    "a scalar of objects": (
        lambda mark: Calls(np._core.multiarray.scalar, np.dtype("O"), b"12345678"), "type 'O8'",
    ),
    "a scalar of the wrong size": (lambda mark: Calls(np._core.multiarray.scalar, np.dtype("f8"), b"123"), "scalar"),
    "a persistent object of another type": (lambda mark: meta(type="module"), "not of type 'class'"),
    "a persistent object whose state is a list": (lambda mark: meta(state=[1]), "state of Linear"),
    "a persistent object whose class is a number": (lambda mark: meta(class_name=3), "not of type 'class'"),
    "a persistent object without its dictionary": (
        lambda mark: Calls(nvlabs._reconstruct_persistent_obj, "meta"), "not of type 'class'",
    ),
    "an EasyDict made of arguments": (lambda mark: Calls(nvlabs.EasyDict, [("a", 1)]), "damaged"),
    "a set of unhashable things": (lambda mark: Calls(set, [deep(50)]), "element of a set"),
    "a state for a tensor": (
        lambda mark: Calls(torch._utils._rebuild_parameter, torch.zeros(2), False, {}, state={"a": 1}), "the state",
    ),
    "a method of a module": (lambda mark: Calls(nn.Module.add_module), "getattr|Module.add_module"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_hostile_pickle_is_refused_by_name_and_runs_nothing(tmp_path: Path, case: str, protocol: int) -> None:
    make, problem = HOSTILE[case]
    mark, path = tmp_path / "was here", tmp_path / "network.pkl"
    path.write_bytes(nvlabs.dumps({"ema": make(str(mark))}, protocol))
    before = set(sys.modules)
    with pytest.raises(CheckpointError, match=problem) as caught:
        recognise(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert not mark.exists()
    assert {name for name in set(sys.modules) - before if name.startswith(("dnnlib", "torch_utils"))} == set()


@pytest.mark.parametrize(
    ("operations", "problem"),
    [
        (b"(ios\nsystem\n", "INST"),
        (b"(cos\nsystem\no", "os.system"),
        (b"\x82\x01", "EXT1"),
        (b"K\x01Q", "BINPERSID"),
        (b"Pstorage\n", "PERSID"),
        (b"(K\x01\x91", "FROZENSET"),
        (b"\x97", "NEXT_BUFFER"),
        (b"}\x94h\x00h\x00s", "damaged|key of type"),
        (b"ctorch.nn.modules.container\nModuleDict\n)\x81]b", "no dictionary of attributes"),
        (b"ctorch.nn.modules.container\nModuleDict\nK\x01\x85\x81", "damaged"),
        (b"\x8c\x0ftorch._utils...\x8c\x01x\x93", "names torch._utils..."),
        (b"X\xff\xff\xff\x7fa", "damaged"),
        (b"ctorch._utils\n_rebuild_parameter.__globals__\n", "__globals__"),
    ],
)
def test_an_operation_that_is_not_for_data_is_refused(operations: bytes, problem: str) -> None:
    with pytest.raises(RefusedPickleError, match=problem):
        loads_networks(b"\x80\x04" + operations + b".")


def test_source_text_in_a_file_is_left_unread(tmp_path: Path) -> None:
    mark, path = tmp_path / "was here", tmp_path / "network.pkl"
    network = theirs()
    for module in network.modules():
        if isinstance(module, nvlabs.Persistent):
            module.meta["module_src"] = f"open({str(mark)!r}, 'w').close()"
    path.write_bytes(nvlabs.file(network))
    recognise(path)
    assert not mark.exists()


def test_many_copies_of_few_bytes_are_refused() -> None:
    storage = pickle.dumps(Calls(torch.storage._load_from_bytes, storage_bytes(torch.zeros(5000))), 2)[2:-1]
    arguments = pickle.dumps((0, (5000,), (1,), False, {}), 2)[2:-1]
    head = b"\x80\x02](ctorch._utils\n_rebuild_tensor_v2\nr\x01\x01\x00\x000" + storage + b"r\x02\x01\x00\x000"
    once = b"j\x01\x01\x00\x00(j\x02\x01\x00\x00K\x00M\x88\x13\x85K\x01\x85\x89}tR"
    assert arguments  # the same arguments, with the storage from the memo
    assert len(loads_networks(head + once * 3 + b"e.")) == 3
    with pytest.raises(RefusedPickleError, match="makes more bytes"):
        loads_networks(head + once * 100 + b"e.")


def changed(change: Callable[[nvlabs.Persistent], Any]) -> nvlabs.Persistent:
    network = theirs()
    change(network)
    return network


def _model(network: nvlabs.Persistent) -> Any:
    return network._modules["model"]


def _set(module: Any, **settings: Any) -> None:
    module.__dict__.update(settings)


def _rename(module: Any, class_name: str) -> None:
    module.meta["class_name"] = class_name


def _cycle(network: nvlabs.Persistent) -> None:
    _model(network).dec._modules["again"] = _model(network).dec


def _poison(network: nvlabs.Persistent) -> None:
    with torch.no_grad():
        _model(network).map_layer0.weight[0, 0] = float("nan")


def _fir(network: nvlabs.Persistent) -> None:
    _model(network).enc["4x4_down"].conv0.resample_filter = torch.ones(1, 1, 4, 4)


MISFITS: dict[str, tuple[Callable[[nvlabs.Persistent], Any], str]] = {
    "an unknown whole": (lambda n: _rename(n, "GANPrecond"), "GANPrecond; known are VPPrecond"),
    "a name that would steer the terminal": (lambda n: _rename(n, "\x1b[2J\nGAN"), "holds a  .2J GAN; known"),
    "an unknown network": (lambda n: _rename(_model(n), "Transformer"), "class Transformer; known are SongUNet"),
    "the embedding of NCSN++ on the rest of DDPM++": (
        lambda n: _rename(_model(n).map_noise, "FourierEmbedding"), "embedding of NCSN...",
    ),
    "a second path of the pixels": (
        lambda n: _model(n).enc.add_module("4x4_aux_skip", nvlabs.Persistent("Conv2d")), "differs from it in enc.4x4",
    ),
    "heads of different sizes": (lambda n: _set(_model(n).dec["4x4_in0"], num_heads=2), "heads of different sizes"),
    "latents by channels": (lambda n: _set(n, img_channels=4), "latent-space network"),
    "another number of channels": (lambda n: _set(n, img_channels=1), "shape"),
    "another number of classes": (lambda n: _set(n, label_dim=9), "map_label.weight of shape"),
    "a resolution that is text": (lambda n: _set(n, img_resolution="8"), "no number for img_resolution"),
    "a huge resolution": (lambda n: _set(n, img_resolution=1 << 60), "for img_resolution"),
    "another resolution": (lambda n: _set(n, img_resolution=16), "without blocks at its resolution 16"),
    "a negative sigma_data": (lambda n: _set(n, sigma_data=-1.0), "sigma_data"),
    "no sigma_data": (lambda n: n.__dict__.pop("sigma_data"), "no number for sigma_data"),
    "another embedding": (lambda n: _rename(_model(n).map_noise, "Wavelets"), "Wavelets, which is not known"),
    "no network within": (lambda n: n._modules.pop("model"), "no module 'model'"),
    "a missing layer": (lambda n: _model(n)._modules.pop("map_layer1"), "map_layer1.weight is missing|map_layer1"),
    "one layer more": (lambda n: _model(n).add_module("more", nvlabs.persistent("L", nn.Linear(2, 2))), "no place"),
    "FIR filters": (_fir, "other filters"),
    "adaptive scales": (lambda n: _set(_model(n).enc["8x8_block0"], adaptive_scale=True), "adaptive scales"),
    "another skip scale": (lambda n: _set(_model(n).enc["8x8_block0"], skip_scale=1.0), "skip.scale"),
    "a number that is not finite": (_poison, "map_layer0.weight that are not finite"),
    "a module in itself": (_cycle, "two places"),
    "a parameter that is text": (
        lambda n: _model(n).map_layer0._parameters.__setitem__("weight", "text"), "map_layer0.weight is a str",
    ),
    "a module that is text": (lambda n: _model(n)._modules.__setitem__("map_layer0", "text"), "map_layer0 is a str"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISFITS)
def test_what_has_no_counterpart_is_refused_in_one_sentence(tmp_path: Path, case: str) -> None:
    change, problem = MISFITS[case]
    path = tmp_path / "network.pkl"
    path.write_bytes(nvlabs.file(changed(change)))
    with pytest.raises(CheckpointError, match=problem) as caught:
        recognise(path)
    assert "\n" not in str(caught.value)


def test_constants_that_cannot_be_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "network.pkl"
    network = random_network(NETWORK, (8, 3, 3))
    for preconditioning, changes, problem in (
        (IDDPMPreconditioning(M=50), {"M": 10**12}, r"says 1e\+12 for M"),
        (IDDPMPreconditioning(M=50), {"C_2": 0.1}, "table of noise levels"),
        (VEPreconditioning(), {"sigma_min": 200.0}, "cannot be: sigma_min"),
        (VPPreconditioning(), {"beta_d": -1.0}, "cannot be: beta_d"),
    ):
        made = nvlabs.network(network, preconditioning, 0.5, (8, 3, 3))
        made.__dict__.update(changes)
        path.write_bytes(nvlabs.file(made))
        with pytest.raises(CheckpointError, match=problem):
            recognise(path)


def test_files_without_a_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "network.pkl"
    for content, problem in (
        ({"G_ema": nvlabs.Persistent("Generator")}, "no network named 'ema' .it holds G_ema"),
        ([1, 2], "pickle of a list"),
        ({"ema": {"weights": 1}}, "no network named 'ema'"),
        ({"ema": theirs(), "encoder": nvlabs.Persistent("StabilityVAEEncoder")}, "latent-space.*StabilityVAEEncoder"),
    ):
        path.write_bytes(nvlabs.dumps(content))
        with pytest.raises(CheckpointError, match=problem):
            recognise(path)
    path.write_bytes(b"this is no pickle")
    with pytest.raises(CheckpointError, match="damaged"):
        recognise(path)
    with pytest.raises(CheckpointError, match="no such file or folder"):
        recognise(tmp_path / "none")
    with pytest.raises(CheckpointError, match="without config"):
        recognise(tmp_path)


# -- our own folders -----------------------------------------------------------------------------------------------

SPEC = ModelSpec(
    network=MLP(hidden=8), preconditioning=IDDPMPreconditioning(M=50), sigma_data=0.4, resolution=4, channels=1,
    num_classes=2,
)  # fmt: skip


def own(tmp_path: Path) -> tuple[Store, Path]:
    """A training in a store, exported."""
    store, folder = Store(tmp_path / "first"), tmp_path / "away"
    torch.manual_seed(0)
    weights = {name: SPEC.network.build(4, 1, 2).state_dict() for name in ("ema-500", "raw")}
    meta = {"settings": {}, "dataset": {"name": "pets", "digest": "0" * 32}}
    commit_snapshot(store, "tiny-00000000", 1000, SPEC, weights, meta)
    assert export_folder(store, CheckpointRef("tiny"), folder) == ["ema-500", "raw"]
    return store, folder


def test_an_exported_checkpoint_comes_back_with_the_same_bytes(tmp_path: Path) -> None:
    first, folder = own(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "ema-500.safetensors", "raw.safetensors"]
    second = Store(tmp_path / "second")
    commit_import(second, "again", recognise(folder), "Apache-2.0")
    for name in (None, "raw"):
        before = find_snapshot(first, CheckpointRef("tiny", ema=name))
        after = find_snapshot(second, CheckpointRef("again", ema=name))
        assert after.weights_sha256 == before.weights_sha256
        assert (after.model, after.num_images, after.dataset) == (before.model, before.num_images, before.dataset)
        assert (before.licence, after.licence) == (None, "Apache-2.0")
    further = tmp_path / "further"
    export_folder(second, CheckpointRef("again", ema="raw"), further)
    assert recognise(further).licence == "Apache-2.0"  # it travels with the weights
    assert list(recognise(further).weights) == ["raw"]


def test_importing_twice_writes_once(tmp_path: Path) -> None:
    _, folder = own(tmp_path)
    store = Store(tmp_path / "second")
    assert commit_import(store, "again", recognise(folder), "MIT") == commit_import(
        store, "again", recognise(folder), "MIT"
    )
    assert len(store.keys("checkpoints")) == 3
    commit_import(store, "again", recognise(folder), "CC0")  # what is said of the weights may be mended
    assert find_snapshot(store, CheckpointRef("again")).licence == "CC0"


def test_an_export_over_something_is_refused(tmp_path: Path) -> None:
    store, folder = own(tmp_path)
    with pytest.raises(CheckpointError, match="is there already"):
        export_folder(store, CheckpointRef("tiny"), folder)
    with pytest.raises(CheckpointError, match="no such training"):
        export_folder(store, CheckpointRef("none"), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_damaged_folder_is_refused_in_one_sentence(tmp_path: Path) -> None:
    _, folder = own(tmp_path)
    good = json.loads((folder / "config.json").read_text())
    model = good["model"]
    for content, problem in (
        ({**good, "version": 0}, "format 0"),
        ({**good, "model": {**model, "network": {"kind": "mpl"}}}, "network"),
        ({**good, "model": {**model, "resolution": 8}}, r"first\.weight of shape"),
        ({**good, "model": {**model, "network": {**model["network"], "num_layers": 3}}}, "layers.2.* is missing"),
        ({**good, "weights": {"../raw": "0" * 64}}, "sets of weights"),
        ({**good, "weights": {"raw": "0" * 64}}, "raw.safetensors: is damaged"),
        ({**good, "weights": {"ema-9": "0" * 64}}, "ema-9.safetensors: cannot be read"),
        ({**good, "num_images": -1}, "num_images"),
        ({"a": 1}, "no class"),
        ([], "got a list"),
    ):
        (folder / "config.json").write_text(json.dumps(content))
        with pytest.raises(CheckpointError, match=problem) as caught:
            recognise(folder)
        assert "\n" not in str(caught.value)
    (folder / "config.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match="is not JSON"):
        recognise(folder)


def test_the_network_that_was_written_is_not_changed_by_it() -> None:
    network = random_network(NETWORK, (8, 3, 3))
    before = copy.deepcopy(network.state_dict())
    nvlabs.file(nvlabs.network(network, IDDPMPreconditioning(M=50), 0.5, (8, 3, 3)))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
