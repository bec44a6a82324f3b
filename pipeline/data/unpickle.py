"""A pickle reader that can build plain values and arrays and call nothing else.

Python's own `pickle` runs what a file names, and even with a guarded `find_class` it sets attributes on whatever lies
on its stack, hashes what it likes and allocates what it is told. So this is an interpreter of its own:
`pickletools.genops` (which executes nothing) cuts the file into operations, and the table below carries out those that
build data. A file can reach exactly the functions of the mapping that the caller gives; every other name is refused.

To read more kinds of pickles, pass a larger mapping: ARRAYS from `pickled_arrays`, NETWORKS from `pickled_networks`,
or `{**ARRAYS, ("module", "name"): function, ...}`.
"""

import pickletools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

MAX_BYTES = 1 << 30
MAX_OPERATIONS = 20_000_000  # each makes one Python object at most

Globals = Mapping[tuple[str, str], Callable[..., Any]]


class RefusedPickleError(ValueError):
    """A pickle that is damaged, or that asks for more than data; the text says for what."""

    def __init__(self, text: str) -> None:
        super().__init__(printable(text))


def printable(text: str) -> str:
    """A text from a file on one line, without what could steer a terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


@runtime_checkable
class Buildable(Protocol):
    """What a reconstructor returns if the pickle is to give it a state afterwards (the operation BUILD)."""

    def set_state(self, state: Any) -> None:
        """Takes the state in place.

        Raises:
            RefusedPickleError: the state is not one that it knows.
        """
        ...


class Known:
    """A name that the mapping holds, as it lies on the stack: it can be called, and has nothing that can be changed."""

    __slots__ = ("call", "name")

    def __init__(self, name: str, call: Callable[..., Any]) -> None:
        self.name = name
        self.call = call


_MARK = object()
_NUMBERS = frozenset(["INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"])
_TEXTS = frozenset(["UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"])
_BYTES = frozenset(["BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"])
_VALUES = _NUMBERS | _TEXTS | _BYTES
_TEXTS_OF_PYTHON_2 = frozenset(["STRING", "BINSTRING", "SHORT_BINSTRING"])  # become bytes
_CONSTANTS: Mapping[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def loads(data: bytes, known: Globals, max_bytes: int = MAX_BYTES) -> Any:
    """The value in a pickle, made of dict, list, tuple, set, str, bytes, numbers, None, and what `known` makes.

    Args:
        data: a pickle of any protocol; a Python 2 `str` becomes bytes. What follows its end is ignored.
        known: the functions that it may name, by (module, name). A function must be safe for any arguments: it is
            called with whatever the pickle holds, and says RefusedPickleError to what it does not know.
        max_bytes: of the pickle, and again of all that is made by calls.

    Raises:
        RefusedPickleError: it is damaged, too large, or wants anything else.
    """
    if len(data) > max_bytes:
        raise RefusedPickleError(f"is a pickle of {len(data)} bytes, more than {max_bytes}")
    machine = _Machine(known, max_bytes)
    try:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if number >= MAX_OPERATIONS:
                raise RefusedPickleError(f"holds more than {MAX_OPERATIONS} operations")
            machine.do(opcode.name, argument)
        return machine.result()
    except RefusedPickleError:
        raise
    except (IndexError, KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise RefusedPickleError(f"the pickle is damaged ({type(error).__name__}: {str(error)[:200]})") from error


class _Machine:
    """The stack and the memo of one pickle."""

    def __init__(self, known: Globals, max_bytes: int) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.known = known
        self.bytes_left = max_bytes

    def result(self) -> Any:
        if len(self.stack) != 1 or self.stack[0] is _MARK:
            raise RefusedPickleError("the pickle is damaged (it ends with more or less than one value)")
        return self.stack[0]

    def do(self, operation: str, argument: Any) -> None:
        if operation in _VALUES:
            self.stack.append(argument)
        elif operation in _TEXTS_OF_PYTHON_2:
            self.stack.append(argument.encode("latin-1"))
        elif operation in _CONSTANTS:
            self.stack.append(_CONSTANTS[operation])
        elif operation in _TUPLES:
            backwards = [self.pop() for _ in range(_TUPLES[operation])]
            self.stack.append(tuple(reversed(backwards)))
        elif (method := _METHODS.get(operation)) is not None:
            method(self, argument)
        else:
            raise RefusedPickleError(f"the pickle uses the operation {operation}, which is not needed for data")

    def pop(self) -> Any:
        if self.stack[-1] is _MARK:
            raise RefusedPickleError("the pickle is damaged (a mark where a value should be)")
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        for start in range(len(self.stack) - 1, -1, -1):
            if self.stack[start] is _MARK:
                items = self.stack[start + 1 :]
                del self.stack[start:]
                return items
        raise RefusedPickleError("the pickle is damaged (a mark is missing)")

    # containers

    def nothing(self, _argument: Any) -> None:
        pass

    def mark(self, _argument: Any) -> None:
        self.stack.append(_MARK)

    def new_list(self, _argument: Any) -> None:
        self.stack.append([])

    def new_dict(self, _argument: Any) -> None:
        self.stack.append({})

    def make_tuple(self, _argument: Any) -> None:
        self.stack.append(tuple(self.pop_to_mark()))

    def make_list(self, _argument: Any) -> None:
        self.stack.append(self.pop_to_mark())

    def make_dict(self, _argument: Any) -> None:
        items = self.pop_to_mark()
        self.stack.append({})
        self.set_all(items)

    def append(self, _argument: Any) -> None:
        self.extend([self.pop()])

    def appends(self, _argument: Any) -> None:
        self.extend(self.pop_to_mark())

    def extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise RefusedPickleError(f"the pickle appends to a {type(self.stack[-1]).__name__}")
        self.stack[-1].extend(items)

    def set_item(self, _argument: Any) -> None:
        value = self.pop()
        self.set_all([self.pop(), value])

    def set_items(self, _argument: Any) -> None:
        self.set_all(self.pop_to_mark())

    def set_all(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not dict or len(items) % 2:
            raise RefusedPickleError(f"the pickle sets items of a {type(self.stack[-1]).__name__}, or half an item")
        check_hashable(items[::2], "a dictionary key")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def new_set(self, _argument: Any) -> None:
        self.stack.append(set())

    def add_items(self, _argument: Any) -> None:
        items = self.pop_to_mark()
        if type(self.stack[-1]) is not set:
            raise RefusedPickleError(f"the pickle adds to a {type(self.stack[-1]).__name__}")
        check_hashable(items, "an element of a set")
        self.stack[-1].update(items)

    # the stack and the memo

    def drop(self, _argument: Any) -> None:
        self.stack.pop()

    def drop_to_mark(self, _argument: Any) -> None:
        self.pop_to_mark()

    def duplicate(self, _argument: Any) -> None:
        self.stack.append(self.stack[-1])

    def put(self, argument: Any) -> None:
        self.memo[argument] = self.stack[-1]

    def memoize(self, _argument: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def get(self, argument: Any) -> None:
        self.stack.append(self.memo[argument])

    # names, calls, states

    def find(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str) or (module, name) not in self.known:
            found = (
                f"{module}.{name}"[:200] if isinstance(module, str) and isinstance(name, str) else "something nameless"
            )
            raise RefusedPickleError(f"the pickle names {found}, which is not data")
        self.stack.append(Known(f"{module}.{name}", self.known[module, name]))

    def find_in_text(self, argument: Any) -> None:
        module, _, name = argument.partition(" ")
        self.find(module, name)

    def find_on_stack(self, _argument: Any) -> None:
        name = self.pop()
        self.find(self.pop(), name)

    def call(self, _argument: Any) -> None:
        arguments, target = self.pop(), self.pop()
        if type(target) is not Known or type(arguments) is not tuple:
            raise RefusedPickleError(f"the pickle calls a {type(target).__name__}")
        result = target.call(*arguments)
        self.count(result)
        self.stack.append(result)

    def build(self, _argument: Any) -> None:
        state, target = self.pop(), self.stack[-1]
        if not isinstance(target, Buildable):
            raise RefusedPickleError(f"the pickle sets the state of a {type(target).__name__}")
        target.set_state(state)
        self.count(target)

    def count(self, made: Any) -> None:
        """A few bytes may be made into any number of copies, by calls over and over on what lies in the memo."""
        self.bytes_left -= len(made) if isinstance(made, bytes) else getattr(made, "nbytes", 0)
        if self.bytes_left < 0:
            raise RefusedPickleError("the pickle makes more bytes than it may")


def check_hashable(values: Iterable[Any], what: str) -> None:
    """Raises:
    RefusedPickleError: a value is no text or number; to hash a deep tuple would overflow the C stack.
    """
    for value in values:
        if not isinstance(value, str | bytes | int | float | None):
            raise RefusedPickleError(f"the pickle has {what} of type {type(value).__name__}")


_METHODS: Mapping[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _Machine.nothing,
    "FRAME": _Machine.nothing,
    "STOP": _Machine.nothing,
    "MARK": _Machine.mark,
    "EMPTY_LIST": _Machine.new_list,
    "EMPTY_DICT": _Machine.new_dict,
    "EMPTY_SET": _Machine.new_set,
    "ADDITEMS": _Machine.add_items,
    "TUPLE": _Machine.make_tuple,
    "LIST": _Machine.make_list,
    "DICT": _Machine.make_dict,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "POP": _Machine.drop,
    "POP_MARK": _Machine.drop_to_mark,
    "DUP": _Machine.duplicate,
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.memoize,
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "GLOBAL": _Machine.find_in_text,
    "STACK_GLOBAL": _Machine.find_on_stack,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "BUILD": _Machine.build,
}
