"""Random changes to bytes and to nested values, each a function of its seed."""

import copy
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

_ODD_NUMBERS = (0, 1, 2, 7, 127, 128, 255, 256, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
_ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 10**6, 2**31, 2**63, 10**40, -(2**63), 0.0, -0.5, 1e-320, 1e308, math.nan, math.inf,
    -math.inf, "", " ", "x" * 5000, "latest", "${NOBODY_SET_THIS}", "1e-4", "none", "a.b.c", "../..", "\x00", "\u2028",
    "kind", [], [None], [[]], [1, 2, 3], ["a"] * 300, {}, {"kind": "?"}, {"kind": None}, {"": 1}, {"kind": ["edm"]},
)  # fmt: skip


class Mutator:
    """Changes what it is given.

    Args:
        seed: the same seed makes the same change.
    """

    def __init__(self, seed: object) -> None:
        self._random = random.Random(str(seed))

    def choice(self, of: Sequence[Any]) -> Any:
        return self._random.choice(of)

    def chance(self, share: float) -> bool:
        return self._random.random() < share

    # -- bytes ---------------------------------------------------------------------------------------------------

    def bytes(self, data: bytes) -> bytes:
        """One to four changes; never what it was."""
        changed = data
        while changed == data:
            for _ in range(self._random.choice((1, 1, 1, 2, 4))):
                changed = self._random.choice(self._BYTES)(self, changed)
        return changed

    def same_length(self, data: bytes) -> bytes:
        """As a disk does it: bits, bytes and runs are other ones, the size stays."""
        changed = data
        while changed == data:
            for _ in range(self._random.choice((1, 1, 2, 4))):
                changed = self._random.choice(self._IN_PLACE)(self, changed)
        return changed

    def _run(self, data: bytes) -> tuple[int, int]:
        """Where a piece begins and ends: anywhere, or near an end, where headers and footers are."""
        if not data:
            return 0, 0
        places = (len(data), min(len(data), 64), min(len(data), 600))
        start = self._random.randrange(self._random.choice(places))
        if self._random.random() < 0.3:
            start = len(data) - 1 - start
        longest = self._random.choice((1, 4, 16, 256, len(data)))
        return start, min(len(data), start + self._random.randint(1, longest))

    def _flip(self, data: bytes) -> bytes:
        start, _ = self._run(data)
        flipped = bytes(byte ^ (1 << self._random.randrange(8)) for byte in data[start : start + 1])
        return data[:start] + flipped + data[start + 1 :]

    def _set(self, data: bytes) -> bytes:
        start, stop = self._run(data)
        return data[:start] + bytes([self._random.randrange(256)]) + data[start + 1 :] if stop else data

    def _number(self, data: bytes) -> bytes:
        """An odd integer in the place of what may be a length or an offset."""
        start, _ = self._run(data)
        size = self._random.choice((1, 2, 4, 8))
        number = self._random.choice(_ODD_NUMBERS) % (1 << 8 * size)
        order: Any = self._random.choice(("little", "big"))
        return data[:start] + number.to_bytes(size, order)[: len(data) - start] + data[start + size :]

    def _zero(self, data: bytes) -> bytes:
        start, stop = self._run(data)
        return data[:start] + bytes(stop - start) + data[stop:]

    def _insert(self, data: bytes) -> bytes:
        start, stop = self._run(data)
        piece = data[start:stop] if self._random.random() < 0.5 else self._random.randbytes(min(stop - start, 64))
        place = self._random.randint(0, len(data))
        return data[:place] + piece + data[place:]

    def _delete(self, data: bytes) -> bytes:
        start, stop = self._run(data)
        return data[:start] + data[stop:]

    def _cut(self, data: bytes) -> bytes:
        start, _ = self._run(data)
        return data[:start]

    def _move(self, data: bytes) -> bytes:
        start, stop = self._run(data)
        piece, rest = data[start:stop], data[:start] + data[stop:]
        place = self._random.randint(0, len(rest))
        return rest[:place] + piece + rest[place:]

    _IN_PLACE = (_flip, _set, _number, _zero)
    _BYTES: tuple[Callable[["Mutator", bytes], bytes], ...] = (
        _flip, _flip, _set, _set, _number, _number, _zero, _insert, _delete, _cut, _move,
    )  # fmt: skip

    # -- nested values -------------------------------------------------------------------------------------------

    def value(self, value: Any) -> Any:
        """One to three changes somewhere within dictionaries and lists."""
        changed = copy.deepcopy(value)
        for _ in range(self._random.choice((1, 1, 2, 3))):
            places = list(_places(changed))
            if not places:
                return self._odd()
            self._change(*self._random.choice(places))
        return changed

    def _change(self, inside: Any, key: Any) -> None:
        what = self._random.randrange(6)
        if what == 0:
            del inside[key]
        elif what == 1 and isinstance(inside, dict):
            inside[f"{key}{self._random.choice(('s', '_', '.x', ' '))}"] = inside.pop(key)
        elif what == 2 and isinstance(inside, list):
            inside.insert(self._random.randint(0, len(inside)), copy.deepcopy(inside[key]))
        elif what == 3:
            value = inside[key]
            inside[key] = self._random.choice(([value], {"kind": value}, str(value), [[[value]]]))
        elif what == 4:
            others = [of[at] for of, at in _places(inside)]
            inside[key] = copy.deepcopy(self._random.choice(others))
        else:
            inside[key] = self._odd()

    def _odd(self) -> Any:
        return copy.deepcopy(self._random.choice(_ODD_VALUES))


def _places(value: Any) -> Any:
    """Every (container, key) within a value."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])
