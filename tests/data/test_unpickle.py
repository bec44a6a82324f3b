"""The restricted reader of pickles: builds values and arrays, and nothing can make it do more."""

import builtins
import collections
import os
import pickle
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data import unpickle
from pipeline.data.pickled_arrays import ARRAYS
from pipeline.data.unpickle import RefusedPickleError, loads

PROTOCOLS = [0, 1, 2, 3, 4, 5]


class Calls:
    """Pickles as a call of anything."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def _same(found: Any, expected: Any) -> bool:
    if isinstance(expected, np.ndarray):
        native = expected.dtype.newbyteorder("=")
        return isinstance(found, np.ndarray) and found.dtype == native and np.array_equal(found, expected)
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(_same(found[key], expected[key]) for key in expected)
    if isinstance(expected, list | tuple):
        return (
            type(found) is type(expected)
            and len(found) == len(expected)
            and all(_same(a, b) for a, b in zip(found, expected, strict=True))
        )
    return bool(type(found) is type(expected) and found == expected)


_plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=5)
        | st.tuples(inner, inner)
        | st.tuples(inner, inner, inner, inner)
    ),
    max_leaves=20,
)


@settings(deadline=None, max_examples=150)
@given(_plain, st.integers(1, 5))
def test_plain_values_come_back_as_from_pickle_itself(value: Any, protocol: int) -> None:
    assert _same(loads(pickle.dumps(value, protocol), ARRAYS), value)


def test_sets_come_back_as_from_pickle_itself() -> None:
    assert loads(pickle.dumps({"names": {"a", "b"}, "none": set()}, 4), ARRAYS) == {"names": {"a", "b"}, "none": set()}


@pytest.mark.parametrize("protocol", PROTOCOLS[1:])
@pytest.mark.parametrize("kind", ["u1", "<i8", ">i4", "<f4", ">f8", "?", "<f2", "<c8"])
def test_arrays_come_back_as_from_pickle_itself(kind: str, protocol: int) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(kind)
    for value in (array, np.asfortranarray(array), array[:, ::2], np.zeros((0, 3), kind), array[0, 0, 0:1].reshape(())):
        found = loads(pickle.dumps({"data": value, "again": [value]}, protocol), ARRAYS)
        assert _same(found, {"data": value, "again": [value]})


def test_an_array_of_python_2_is_read() -> None:
    """As CIFAR's own files have it: the names of numpy 1, and bytes where Python 3 would write text."""
    pickled = (
        b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b"
        b"\x87Rq\x05(K\x01K\x02K\x03\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x06\x01\x02\xff\x04\x05\x06tbU\x06labelsq\x08]q\x09(K\x06K\x09eu."
    )
    expected = {b"data": np.array([[1, 2, 255], [4, 5, 6]], np.uint8), b"labels": [6, 9]}
    assert _same(loads(pickled, ARRAYS), expected)
    assert _same(pickle.loads(pickled, encoding="bytes"), expected)  # what Python's own reader makes of it


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ("touch {}",), "system"),
        (builtins.eval, ("open('{}', 'w')",), "eval"),
        (builtins.exec, ("open('{}', 'w')",), "exec"),
        (builtins.getattr, (os, "system"), "getattr"),
        (subprocess.Popen, (["touch", "{}"],), "Popen"),
        (pickle.loads, (b"cos\nsystem\n(S'touch {}'\ntR.",), "loads"),
        (np.load, ("{}",), "load"),
        (collections.OrderedDict, (), "OrderedDict"),
    ],
)
def test_a_pickle_that_names_a_function_is_refused_by_name(
    function: Any, arguments: Any, name: str, protocol: int, tmp_path: Path
) -> None:
    mark = tmp_path / "was here"
    filled = tuple(part.format(mark) if isinstance(part, str) else part for part in arguments if part is not os)
    with pytest.raises(RefusedPickleError, match=name):
        loads(pickle.dumps([Calls(function, *filled)], protocol), ARRAYS)
    assert not mark.exists()


def test_a_name_within_a_known_module_is_not_reached_by_dots() -> None:
    for name in ("dtype.__new__", "ndarray.tofile", "load", "core.multiarray._reconstruct"):
        text = name.encode()
        with pytest.raises(RefusedPickleError, match="names numpy"):
            loads(b"\x80\x04\x8c\x05numpy\x8c" + bytes([len(text)]) + text + b"\x93.", ARRAYS)


def test_a_pickle_within_a_pickle_stays_bytes() -> None:
    inner = pickle.dumps(Calls(os.system, "false"))
    assert loads(pickle.dumps({"inner": inner}), ARRAYS) == {"inner": inner}


def test_arrays_of_objects_are_refused() -> None:
    for protocol in PROTOCOLS[1:]:
        with pytest.raises(RefusedPickleError, match="O8"):
            loads(pickle.dumps(np.array([1, "two", None], object), protocol), ARRAYS)
    with pytest.raises(RefusedPickleError, match="V"):
        loads(pickle.dumps(np.zeros(2, [("a", "i4")])), ARRAYS)


def _array(shape: Any, kind: str, data: Any, fortran: Any = False, state: Any = None) -> bytes:
    """A pickle of an array with any state, well-formed or not."""
    head = b"\x80\x04cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    dtype = b"cnumpy\ndtype\n" + _value(kind) + b"\x89\x88\x87R" + _value((3, "|", None, None, None, -1, -1, 0)) + b"b"
    if state is not None:
        return head + _value(state) + b"b."
    return head + b"(K\x01" + _value(shape) + dtype + _value(fortran) + _value(data) + b"tb."


def _value(value: Any) -> bytes:
    if isinstance(value, bytes):
        return b"B" + struct.pack("<I", len(value)) + value
    return pickle.dumps(value, 2)[2:-1]


def test_the_hand_made_pickle_of_an_array_is_right() -> None:
    """Else the refusals below could have another reason."""
    assert _same(loads(_array((2, 2), "u1", b"abcd"), ARRAYS), np.array([[97, 98], [99, 100]], np.uint8))


@pytest.mark.parametrize(
    ("pickled", "problem"),
    [
        (_array((2, 3), "u1", b"abcd"), "with 4 bytes"),
        (_array((2, 3), "u1", b"abcdefgh"), "with 8 bytes"),
        (_array((-2, -2), "u1", b"abcd"), "shape"),
        (_array((2.0, 2), "u1", b"abcd"), "shape"),
        (_array([2, 2], "u1", b"abcd"), "shape"),
        (_array((True, 4), "u1", b"abcd"), "shape"),
        (_array((1 << 62, 4), "u1", b"abcd"), "shape"),
        (_array((1,) * 9, "u1", b"a"), "shape"),
        (_array((4,), "u1", [1, 2, 3, 4]), "objects in the place of bytes"),
        (_array((4,), "u1", "abcd"), "objects in the place of bytes"),
        (_array((1,), "O8", b"12345678"), "O8"),
        (_array((1,), "u4,u4", b"12345678"), "u4,u4"),
        (_array((1,), "V8", b"12345678"), "V8"),
        (_array((1,), "i3", b"123"), "i3"),
        (_array(None, "", b"", state=(1, (1,))), "state of an array"),
        (_array(None, "", b"", state={"shape": (1 << 40,)}), "state of an array"),
        (_array(None, "", b"", state=(1, (1,), None, False, b"a")), "no number type"),
        (b"\x80\x02cnumpy\nndarray\n(K\x01K\x02K\x03t\x81.", "strides"),  # ndarray.__new__(shape, ...)
        (b"\x80\x02cnumpy\nndarray\nK\x05\x85R.", "strides"),
        (b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\ndtype\nK\x00\x85C\x01b\x87R.", "another class"),
        (b"\x80\x02}cnumpy\nndarray\nb.", "state of a dict"),  # BUILD on a dictionary
        (b"\x80\x02cnumpy\nndarray\n}b.", "state of a Known"),  # BUILD on a name
        (b"\x80\x02]}b.", "state of a list"),
        (b"\x80\x02}K\x01\x85R.", "calls a dict"),
        (b"\x80\x02c_codecs\nencode\n]R.", "calls a Known"),  # arguments that are no tuple
        (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00utf-7\x86R.", "latin1"),
        (b"\x80\x02c_codecs\nencode\nK\x01X\x06\x00\x00\x00latin1\x86R.", "latin1"),
        (b"\x80\x02c_codecs\nencode\n)R.", "damaged"),
        (b"\x80\x02(ios\nsystem\n.", "INST"),
        (b"\x80\x02(cnumpy\ndtype\no.", "OBJ"),
        (b"\x80\x02K\x01Q.", "BINPERSID"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x05\x97.", "NEXT_BUFFER"),
        (b"\x80\x04(K\x01\x91.", "FROZENSET"),
        (b"\x80\x04\x8f(]\x90.", "element of a set of type list"),
        (b"\x80\x04](K\x01\x90.", "adds to a list"),
        (b"\x80\x02}K\x01K\x02a.", "appends to a int"),
        (b"\x80\x02}]\x85K\x02s.", "key of type tuple"),
        (b"\x80\x02](K\x01K\x02u.", "sets items of a list"),
        (b"\x80\x02}(K\x01u.", "half an item"),
        (b"\x80\x02h\x05.", "damaged"),  # a memo that was never written
        (b"\x80\x02.", "damaged"),
        (b"\x80\x02K\x01K\x02.", "damaged"),
        (b"\x80\x02e.", "damaged"),
        (b"\x80\x02\x85.", "damaged"),
        (b"\x80\x02(\x85.", "damaged"),
        (b"\x80\x02(.", "damaged"),
        (b"\x80\x02K\x01", "damaged"),
        (b"", "damaged"),
        (b"no pickle at all", "damaged"),
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.", "damaged"),  # 9 exabytes claimed
    ],
)
def test_a_hostile_or_damaged_pickle_is_refused_in_one_sentence(pickled: bytes, problem: str) -> None:
    with pytest.raises(RefusedPickleError, match=problem) as caught:
        loads(pickled, ARRAYS)
    assert "\n" not in str(caught.value)


def test_deep_nesting_neither_crashes_nor_raises_anything_else() -> None:
    depth = 30_000
    loads(b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b".", ARRAYS)
    loads(b"\x80\x02)" + b"\x85" * depth + b".", ARRAYS)
    deep = b")" + b"\x85" * depth
    deepest = b")" + b"\x85" * 200_000
    for hostile in (
        b"\x80\x02}" + deepest + b"K\x01s.",  # as a key: hashing it would overflow the C stack
        b"\x80\x02cnumpy\ndtype\n" + deep + b"R.",
        b"\x80\x02c_codecs\nencode\n" + deep + deep + b"\x86R.",
        b"\x80\x04" + deep + deep + b"\x93.",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R" + deep + b"b.",
        b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00u1\x85R" + deep + b"b.",
    ):
        with pytest.raises(RefusedPickleError):
            loads(hostile, ARRAYS)


def test_a_list_that_holds_itself_is_just_that() -> None:
    found = loads(b"\x80\x02]q\x00h\x00a.", ARRAYS)
    assert found[0] is found


def test_sizes_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    value = pickle.dumps(np.zeros(1000, np.uint8))
    with pytest.raises(RefusedPickleError, match="more than 500"):
        loads(value, ARRAYS, max_bytes=500)
    text = _value("a" * 1000)
    many = b"\x80\x02](" + text + b"q\x010" + b"c_codecs\nencode\nh\x01X\x06\x00\x00\x00latin1\x86R" * 100 + b"e."
    assert len(loads(many, ARRAYS)) == 100
    with pytest.raises(RefusedPickleError, match="makes more bytes"):
        loads(many, ARRAYS, max_bytes=50_000)
    monkeypatch.setattr(unpickle, "MAX_OPERATIONS", 1000)
    with pytest.raises(RefusedPickleError, match="operations"):
        loads(pickle.dumps(list(range(2000))), ARRAYS)


def test_a_memo_of_a_huge_number_takes_no_memory() -> None:
    assert loads(b"\x80\x02K\x07r\xff\xff\xff\x7f0j\xff\xff\xff\x7f.", ARRAYS) == 7


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 10_000), st.integers(0, 255), st.sampled_from(PROTOCOLS))
def test_any_changed_byte_gives_a_value_or_a_refusal(place: int, byte: int, protocol: int) -> None:
    data = bytearray(pickle.dumps({"data": np.arange(6), "labels": [1, 2], "x": (None, 1.5, "text")}, protocol))
    data[place % len(data)] = byte
    try:
        loads(bytes(data), ARRAYS)
    except RefusedPickleError as error:
        assert str(error)  # noqa: PT017


def test_a_caller_can_make_more_names_known() -> None:
    class Network:
        def __init__(self, name: object) -> None:
            self.name = name
            self.state: object = None

        def set_state(self, state: object) -> None:
            self.state = state

    known = {**ARRAYS, ("collections", "OrderedDict"): dict, ("torch_utils.persistence", "_reconstruct"): Network}
    ordered = collections.OrderedDict(a=np.arange(3), b=2)
    found = loads(pickle.dumps(ordered), known)
    assert _same(found, {"a": np.arange(3), "b": 2})
    network = loads(b"\x80\x02ctorch_utils.persistence\n_reconstruct\nX\x01\x00\x00\x00n\x85R}K\x01K\x02sb.", known)
    assert isinstance(network, Network)
    assert (network.name, network.state) == ("n", {1: 2})
