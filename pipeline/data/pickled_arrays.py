"""NumPy arrays in pickles: what `unpickle.loads` may call to make them, checked in every argument.

Arrays of objects, structured types, strides and subclasses are refused: what is left is a shape, a number type and
bytes of exactly that size.
"""

import math
import re
from typing import Any

import numpy as np

from pipeline.data.unpickle import Globals, Known, RefusedPickleError

_NUMBER_TYPE = re.compile(r"[biufc][0-9]{1,2}")


class PickledType:
    """A dtype on its way: its name first, its byte order with the state."""

    def __init__(self, name: Any, *_flags: Any) -> None:
        text = name.decode("latin-1") if isinstance(name, bytes) else name
        if not isinstance(text, str) or not _NUMBER_TYPE.fullmatch(text):
            found = repr(text)[:50] if isinstance(text, str) else f"a {type(text).__name__}"
            raise RefusedPickleError(f"an array of type {found}; only plain numbers are read")
        try:
            self.dtype: np.dtype[Any] = np.dtype(text)
        except TypeError as error:
            raise RefusedPickleError(f"an array of type {text!r}; only plain numbers are read") from error

    def set_state(self, state: Any) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        order = order.decode("latin-1") if isinstance(order, bytes) else order
        if order not in ("<", ">", "|", "=") or any(part is not None for part in state[2:5]):
            raise RefusedPickleError("the type of an array has fields or an unknown byte order")
        self.dtype = self.dtype.newbyteorder(
            ">" if order == ">" else "<"
        )  # "=" and "|": no pickle was on a big machine


class PickledArray(np.ndarray):
    """An array that `loads` returns, in native byte order: empty when it is made, filled by its checked state."""

    def set_state(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise RefusedPickleError("the state of an array is not (version, shape, type, order, bytes)")
        _, shape, kind, fortran, data = state
        _check_array(shape, kind, data)
        super().__setstate__((1, shape, kind.dtype, fortran is True, bytes(data)))  # type: ignore[arg-type]


def _check_array(shape: Any, kind: Any, data: Any) -> None:
    if not isinstance(kind, PickledType) or not isinstance(data, bytes | bytearray):
        raise RefusedPickleError("the state of an array holds no number type, or objects in the place of bytes")
    if not isinstance(shape, tuple) or len(shape) > 8 or not all(type(n) is int and 0 <= n < 1 << 48 for n in shape):
        raise RefusedPickleError("the shape of an array is not a tuple of at most 8 lengths")
    if math.prod(shape) * kind.dtype.itemsize != len(data):
        raise RefusedPickleError(f"an array of shape {shape} and type {kind.dtype} with {len(data)} bytes")


def _reconstruct(_kind: Any, _shape: Any, _type: Any) -> PickledArray:
    if not isinstance(_kind, Known) or _kind.name != "numpy.ndarray":
        raise RefusedPickleError("an array of another class than numpy.ndarray")
    return PickledArray((0,), np.uint8)


def _from_buffer(data: Any, kind: Any, shape: Any, order: Any) -> PickledArray:
    array = PickledArray((0,), np.uint8)
    array.set_state((1, shape, kind, order == "F", data))
    return array


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1", "latin-1", b"latin-1"):
        raise RefusedPickleError("_codecs.encode to something else than latin1")
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError as error:
        raise RefusedPickleError("bytes written as text hold a character above 255") from error


def _no_bytes() -> bytes:
    """Python 3 writes empty bytes so, in the protocols of Python 2."""
    return b""


def _ndarray(*_arguments: Any) -> Any:
    raise RefusedPickleError("a call of numpy.ndarray, whose strides could point anywhere")


ARRAYS: Globals = {
    ("__builtin__", "bytes"): _no_bytes,
    ("_codecs", "encode"): _encode,
    ("numpy", "ndarray"): _ndarray,
    ("numpy", "dtype"): PickledType,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
}
