"""Networks compiled ahead of time: native code, made once for a kind of network on a kind of machine.

AOTInductor's artifact holds code and no weights, so every checkpoint of a model runs on one, and all actors of a node
load the one that the first of them has made. It is native code: it lies in a folder of this user that is closed to
others (`private_folder`), and is verified before it is loaded.
"""

import copy
import fcntl
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.data.cache import Kept, kept
from pipeline.data.native import instructions
from pipeline.data.private_folder import private_folder
from pipeline.data.samples import Execution
from pipeline.data.store import Store
from pipeline.digests import digest
from pipeline.engine.devices import Device, as_dtype, device_name
from pipeline.errors import SettingsError, StoreError
from pipeline.networks.memory_format import channels_last, to_channels_last
from pipeline.training.settings import ModelSpec

RECIPE = 2  # the revision of how artifacts are made
_FOLDER = "compiled"
_FILE = "network.pt2"
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 0.15}  # of code, as a share of the answer
_OPTIONS: dict[str, Any] = {
    "aot_inductor.package_constants_in_so": False,
    "always_keep_tensor_constants": True,  # or tensors of 8 numbers and fewer, such as a last bias, become code
}
# Where a network has parameters of one number: what follows from them alone would be computed by the compiler.
_OF_NUMBERS: dict[str, Any] = {"joint_graph_constant_folding": False}


class AheadNetwork(nn.Module):
    """A network that runs as compiled code. The code knows one size of batch: others are cut, and filled up.

    Args:
        network: holds the weights, which the code reads where they are.
        run: the code, of (x, c_noise, labels).
        execution: that it was compiled for.
    """

    def __init__(self, network: nn.Module, run: Callable[..., Tensor], execution: Execution) -> None:
        super().__init__()
        self.network = network
        self._run = run
        self._batch_size = execution.batch_size
        self._arrange = channels_last if execution.channels_last else Tensor.contiguous

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """As the network: None is a label of -1 for all."""
        if labels is None:
            labels = torch.full((len(x),), -1, device=x.device)
        parts = zip(*(torch.split(tensor, self._batch_size) for tensor in (x, c_noise, labels)), strict=True)
        outputs = [self._of_a_batch(*(self._filled(tensor) for tensor in part))[: len(part[0])] for part in parts]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _of_a_batch(self, x: Tensor, c_noise: Tensor, labels: Tensor) -> Tensor:
        """The code knows shapes and strides, and does not check them."""
        return self._run(self._arrange(x), c_noise.contiguous(), labels.contiguous())

    def _filled(self, tensor: Tensor) -> Tensor:
        """Up to the batch, with copies of the first row."""
        missing = self._batch_size - len(tensor)
        return tensor if not missing else torch.cat([tensor, tensor[:1].expand(missing, *tensor.shape[1:])])


def compiled_ahead(network: nn.Module, model: ModelSpec, execution: Execution, device: Device) -> AheadNetwork:
    """A network as compiled code, from the node's folder where it is there; otherwise this takes about a minute.

    The threads that torch has now are those that the code will use.

    Args:
        network: in its final precision and place, with its weights, whose layout may be changed.
        model: that it was built from.

    Raises:
        SettingsError: it cannot be compiled here.
        StoreError: the folder cannot be used.
    """
    if execution.channels_last:
        to_channels_last(network)
    example = _example(model, execution, device)
    folder = private_folder(_FOLDER)
    key = digest(_key(model, execution, device))
    with _workplace(folder, key) as here:
        found = kept(Store(folder), key, _FILE, lambda: Kept(_build(network, example, here), {"recipe": RECIPE}))
        return AheadNetwork(network, _load(found.data, network, here), execution)


def _key(model: ModelSpec, execution: Execution, device: Device) -> dict[str, Any]:
    """Everything that determines the code: not the weights, nor what is around the network."""
    cuda = device == "cuda"
    return {
        "recipe": RECIPE,
        "network": model.network,
        "shape": [model.resolution, model.channels, model.num_classes, execution.batch_size],
        "fast_path": [
            execution.precision,
            execution.channels_last,
            torch.get_num_threads(),
            execution.convolution,
            *([] if execution.norm == "torch" else [execution.norm]),
        ],
        "torch": [torch.__version__, str(torch.version.git_version), str(torch.version.cuda)],
        "device": [device, device_name(device), list(torch.cuda.get_device_capability()) if cuda else []],
        "instructions": instructions(),
    }


def _example(model: ModelSpec, execution: Execution, device: Device) -> tuple[Tensor, Tensor, Tensor]:
    size = execution.batch_size
    random = torch.Generator().manual_seed(0)
    x = torch.randn(size, *model.shape, generator=random).to(device, as_dtype(execution.precision))
    x = channels_last(x) if execution.channels_last else x
    return x, torch.linspace(-1, 1, size, device=device), torch.zeros(size, dtype=torch.int64, device=device)


def _build(network: nn.Module, example: tuple[Tensor, ...], here: Path) -> bytes:
    from torch._inductor.utils import fresh_cache

    try:
        with (
            fresh_cache(dir=str(here), delete=False),  # the compiler's own files lie in the closed folder too
            torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings(),
        ):  # fmt: skip
            warnings.simplefilter("ignore")
            numbers = any(parameter.ndim == 0 for parameter in network.parameters())
            program = torch.export.export(_with_dimensions(network), example)
            package = here / _FILE
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(package), inductor_configs=_OPTIONS | (_OF_NUMBERS if numbers else {})
            )
            another = _shaken(network)
            _check(_load(package.read_bytes(), another, here), another, example)
            return package.read_bytes()
    except Exception as error:  # whatever the compilers say
        problem = f"ahead: the network cannot be compiled on this machine ({_first_line(error)})"
        raise SettingsError("execution.compile", f"{problem}; it needs a C++ compiler, or set it to false") from error


def _with_dimensions(network: nn.Module) -> nn.Module:
    """A network whose numbers (parameters without dimensions, such as EDM2's gains) are vectors of one: the compiler
    takes numbers for a part of the code. It shares all weights."""
    memo = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    another = copy.deepcopy(network, memo)
    for module in another.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim == 0:
                setattr(module, name, nn.Parameter(_vector(parameter.detach()), requires_grad=False))
    return another


def _vector(tensor: Tensor) -> Tensor:
    return tensor if tensor.ndim else tensor.reshape(1)


def _shaken(network: nn.Module) -> nn.Module:
    """Another checkpoint of the same network, as the code will meet them: weights that it holds fast would show. Not so
    far from the first that half precision would answer by rounding alone."""
    another = copy.deepcopy(network)
    random = torch.Generator().manual_seed(0)
    for parameter in another.parameters():
        size = float(parameter.float().square().mean().sqrt()) or 0.1  # of biases that are zero still
        parameter.add_(0.2 * size * torch.randn(parameter.shape, generator=random).to(parameter))
    return another


def _check(code: Callable[..., Tensor], network: nn.Module, example: tuple[Tensor, ...]) -> None:
    """Raises:
    ValueError: the code does not answer as the network does.
    """
    expected, found = network(*example).float(), code(*example).float()
    apart, size = (found - expected).square().mean().sqrt(), expected.square().mean().sqrt()
    if not float(apart) <= _TOLERANCE[example[0].dtype] * float(size) + 1e-6:
        raise ValueError(f"its code answers otherwise than the network, by {float(apart):.2g} of {float(size):.2g}")


def _load(package: bytes, network: nn.Module, here: Path) -> Callable[..., Tensor]:
    """The code, reading this network's weights."""
    path = here / _FILE
    path.write_bytes(package)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        code: Any = torch._inductor.aoti_load_package(str(path), run_single_threaded=True)
    weights = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    needed = {name: _vector(weights[name].detach()) for name in code.get_constant_fqns()}
    code.load_constants(needed, check_full_update=True, user_managed=True)
    return _KeptAlive(code, needed)


class _KeptAlive:
    """Code with the tensors that it points into."""

    def __init__(self, code: Any, tensors: dict[str, Tensor]) -> None:
        self._code, self._tensors = code, tensors

    def __call__(self, *inputs: Tensor) -> Tensor:
        output: Tensor = self._code(*inputs)
        return output


@contextmanager
def _workplace(folder: Path, key: str) -> Iterator[Path]:
    """An empty folder, for one process of this node at a time; one that dies leaves it to the next."""
    here = folder / f".{key}"
    try:
        with (folder / f".{key}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            shutil.rmtree(here, ignore_errors=True)
            here.mkdir(mode=0o700)
            try:
                yield here
            finally:
                shutil.rmtree(here, ignore_errors=True)
    except OSError as error:
        raise StoreError(folder, f"cannot be written ({error.strerror or error})") from error


def _first_line(error: BaseException) -> str:
    lines = (line.strip() for line in str(error).splitlines())
    return f"{type(error).__name__}: {next((line for line in lines if line), '')}"[:200]
