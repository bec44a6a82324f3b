"""Networks in pickles, as NVlabs' "EDM" and "EDM2" write them: read without running a word of them.

Such a file holds objects whose classes are given as source text. Here an object becomes a `Record`: the name of its
class and its state; the text is dropped unread. Tensors are rebuilt from checked numbers. All else is refused by name.
"""

import io
import math
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.data.pickled_arrays import ARRAYS, PickledType
from pipeline.data.unpickle import Globals, RefusedPickleError, check_hashable, loads
from pipeline.errors import CheckpointError

MAX_FILE_BYTES = 16 << 30
_STORAGE_HEADER = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # a storage as torch wrote it before its zip format
_STORAGE_PROTOCOL = 2
_STORAGE_PICKLES = 5  # magic number, version, system, the storage, the list of keys; then the numbers
_THE_STORAGE = 3  # among them, from 0
_STORAGE_OPERATIONS = 200  # in all five; some 60 are needed
_STORAGE_CLASS = re.compile(r"torch(\.storage)? [A-Za-z0-9]*Storage")
_STORAGE_CONTAINERS = ["MARK", "TUPLE", "EMPTY_DICT", "EMPTY_LIST", "APPEND", "APPENDS", "SETITEM", "SETITEMS"]
_STORAGE_VALUES = ["LONG1", "BININT", "BININT1", "BININT2", "BINUNICODE", "NONE", "NEWTRUE", "NEWFALSE", "BINPERSID"]
_STORAGE_ALPHABET = frozenset(["PROTO", "STOP", "BINPUT", "BINGET", *_STORAGE_CONTAINERS, *_STORAGE_VALUES])
_SIMPLE_CONTAINERS = ("ModuleDict", "ModuleList", "Sequential", "ParameterDict", "ParameterList")


class Record:
    """An object of the file, inert.

    Args:
        class_name: what the file calls its class.
        state: its attributes; those of a module are `_parameters`, `_buffers`, `_modules` and its settings.
    """

    __slots__ = ("class_name", "state")

    def __init__(self, class_name: str, state: dict[str, Any] | None = None) -> None:
        self.class_name = class_name
        self.state = {} if state is None else state

    def set_state(self, state: Any) -> None:
        self.state = _attributes(state, self.class_name)


class Storage:
    """The numbers of one or several tensors, in a row."""

    __slots__ = ("numbers",)

    def __init__(self, numbers: Tensor) -> None:
        self.numbers = numbers

    @property
    def nbytes(self) -> int:
        return int(self.numbers.nbytes)


def read_network_pickle(path: str | Path) -> dict[str, Any]:
    """What a network's pickle holds, by name: `ema`, a `Record`, and others.

    Raises:
        CheckpointError: it cannot be read, is damaged, or wants more than tensors and settings.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise CheckpointError(path, f"has {size:,} bytes, more than a network's file may have ({MAX_FILE_BYTES:,})")
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(path, f"cannot be read ({error.strerror or error})") from error
    try:
        content = loads_networks(data)
    except RefusedPickleError as error:
        raise CheckpointError(path, str(error)) from error
    if not isinstance(content, dict):
        raise CheckpointError(path, f"is a pickle of a {type(content).__name__}, not of networks by name")
    return content


def loads_networks(data: bytes) -> Any:
    """The value in a pickle of networks: plain values, arrays, tensors and records.

    Raises:
        RefusedPickleError: it is damaged or wants anything else.
    """
    # Storages and then tensors are copies of what is in the file, so a file may make some times its own size.
    return loads(data, NETWORKS, max_bytes=4 * len(data) + (1 << 20))


def _attributes(state: Any, class_name: str) -> dict[str, Any]:
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise RefusedPickleError(f"the state of {class_name[:80]} is no dictionary of attributes")
    return state


def _persistent(meta: Any) -> Record:
    """A record of what `torch_utils.persistence` wrote; its `module_src` is left where it is."""
    if not isinstance(meta, dict) or meta.get("type") != "class" or not isinstance(meta.get("class_name"), str):
        raise RefusedPickleError("a persistent object is not of type 'class' with a class_name")
    return Record(meta["class_name"], _attributes(meta.get("state"), meta["class_name"]))


def _container(name: str) -> Callable[[], Record]:
    def make() -> Record:
        return Record(name)

    return make


def _empty_dict() -> dict[str, Any]:
    """Its items come by an operation of their own."""
    return {}


def _set(items: Any) -> set[Any]:
    if not isinstance(items, list):
        raise RefusedPickleError("a set of something else than a list")
    check_hashable(items, "an element of a set")
    return set(items)


def _scalar(kind: Any, data: Any) -> Any:
    """A number of NumPy as a number of Python."""
    if not isinstance(kind, PickledType) or not isinstance(data, bytes) or len(data) != kind.dtype.itemsize:
        raise RefusedPickleError("a scalar is not a number type and the bytes of one number")
    return np.frombuffer(data, kind.dtype)[0].item()


# -- tensors -------------------------------------------------------------------------------------------------------


def _load_storage(data: Any) -> Storage:
    """In the place of `torch.storage._load_from_bytes`, which would unpickle whatever the bytes say."""
    if not isinstance(data, bytes) or not data.startswith(_STORAGE_HEADER):
        raise RefusedPickleError("the bytes of a tensor are not a storage as torch writes it")
    _check_storage(data)
    try:
        storage = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch says damage in many ways
        raise RefusedPickleError(f"a storage of torch is damaged ({type(error).__name__})") from error
    if not isinstance(storage, torch.storage.TypedStorage) or storage.dtype.is_complex:
        raise RefusedPickleError(f"the bytes of a tensor hold a {type(storage).__name__}")
    numbers = torch.empty(0, dtype=storage.dtype).set_(storage._untyped_storage)
    if numbers.nbytes > len(data):
        raise RefusedPickleError("a storage of torch is larger than the bytes it came in")
    return Storage(numbers)


def _check_storage(data: bytes) -> None:
    """Walks through the pickles at the head of a storage, executing nothing, before torch sees them."""
    stream, operations = io.BytesIO(data), 0
    for index in range(_STORAGE_PICKLES):
        for opcode, argument, _ in pickletools.genops(stream):
            operations += 1
            if operations > _STORAGE_OPERATIONS:
                raise RefusedPickleError("the bytes of a tensor hold more than a storage")
            if opcode.name == "PROTO" and argument != _STORAGE_PROTOCOL:
                raise RefusedPickleError(f"the bytes of a tensor are of pickle protocol {argument}")
            if opcode.name == "GLOBAL" and _STORAGE_CLASS.fullmatch(str(argument)):
                continue
            if opcode.name not in _STORAGE_ALPHABET:
                name = str(argument or "").replace(" ", ".")
                raise RefusedPickleError(f"the bytes of a tensor hold {opcode.name} {name}"[:200].rstrip())
            if index == _THE_STORAGE and isinstance(argument, int) and argument > len(data):
                raise RefusedPickleError(f"a storage of torch claims {argument} numbers in {len(data)} bytes")


def _rebuild_tensor(
    storage: Any, offset: Any, size: Any, stride: Any, _requires_grad: Any, _hooks: Any, _metadata: Any = None
) -> Tensor:
    """A copy of the tensor's numbers, contiguous."""
    if not isinstance(storage, Storage) or not isinstance(size, tuple) or not isinstance(stride, tuple):
        raise RefusedPickleError("a tensor is not made of a storage, a size and strides")
    lengths = (offset, *size, *stride)
    if len(size) != len(stride) or len(size) > 8 or not all(type(n) is int and 0 <= n < 1 << 40 for n in lengths):
        raise RefusedPickleError("the size of a tensor is not a tuple of at most 8 lengths with their strides")
    available, count = storage.numbers.numel(), math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if count else offset
    if count > available or (count and last >= available):
        raise RefusedPickleError(f"a tensor of shape {size} reaches beyond its {available} numbers")
    return storage.numbers.as_strided(size, stride, offset).clone(memory_format=torch.contiguous_format)


def _rebuild_parameter(data: Any, _requires_grad: Any, _hooks: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise RefusedPickleError(f"a parameter is a {type(data).__name__}")
    return data


NETWORKS: Globals = {
    **ARRAYS,
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _persistent,
    ("dnnlib.util", "EasyDict"): _empty_dict,
    ("collections", "OrderedDict"): _empty_dict,
    ("builtins", "set"): _set,
    ("__builtin__", "set"): _set,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch.storage", "_load_from_bytes"): _load_storage,
    **{("torch.nn.modules.container", name): _container(name) for name in _SIMPLE_CONTAINERS},
}
