"""The modules within a pickled network, flat: tensors and settings by dotted name."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from pipeline.data.pickled_networks import Record
from pipeline.training.importing.found import NotRecognisedError

MAX_DEPTH = 32
MAX_COUNT = 100_000  # of pixels on a side, classes, channels or noise levels


class Shape(NamedTuple):
    """Of images and labels."""

    resolution: int
    channels: int
    num_classes: int


@dataclass
class Tree:
    """A module and all within it.

    Args:
        tensors: parameters and buffers by name.
        modules: classes by name; the module itself has an empty name.
        settings: attributes by the name of their module.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    modules: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, root: Record) -> "Tree":
        """Raises:
        NotRecognisedError: something in it is no module, parameter or buffer, or stands in two places.
        """
        tree, seen, waiting = cls(), set[int](), [("", root)]
        while waiting:
            name, record = waiting.pop()
            if id(record) in seen or name.count(".") > MAX_DEPTH:
                raise NotRecognisedError(f"the module {name[:100]} stands in two places, or too deep")
            seen.add(id(record))
            tree._add(name, record)
            for key, child in _items(record, "_modules").items():
                if child is not None:
                    if not isinstance(child, Record):
                        raise NotRecognisedError(f"the module {_join(name, key)[:100]} is a {type(child).__name__}")
                    waiting.append((_join(name, key), child))
        return tree

    def _add(self, name: str, record: Record) -> None:
        self.modules[name] = record.class_name
        self.settings[name] = record.state
        for key, tensor in {**_items(record, "_parameters"), **_items(record, "_buffers")}.items():
            if tensor is not None:
                if not isinstance(tensor, Tensor):
                    raise NotRecognisedError(f"the parameter {_join(name, key)[:100]} is a {type(tensor).__name__}")
                self.tensors[_join(name, key)] = tensor

    def below(self, name: str) -> "Tree":
        """The module of this name as a tree of its own.

        Raises:
            NotRecognisedError: there is none.
        """
        if name not in self.modules:
            raise NotRecognisedError(f"the {self.modules[''][:100]} has no module {name!r}")
        return Tree(_below(self.tensors, name), _below(self.modules, name), _below(self.settings, name))

    def number(self, key: str, module: str = "") -> float:
        """A setting that must be a number.

        Raises:
            NotRecognisedError: it is not there, or none.
        """
        value = self.settings.get(module, {}).get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise NotRecognisedError(f"the {self.modules[module][:100]} says no number for {key}")
        return float(value)

    def count(self, key: str, module: str = "") -> int:
        """A setting that must be a whole number from 0 to `MAX_COUNT`."""
        value = self.number(key, module)
        if not 0 <= value <= MAX_COUNT or value != int(value):
            raise NotRecognisedError(f"the {self.modules[module][:100]} says {value:g} for {key}")
        return int(value)

    def shape(self, key: str, num_dims: int) -> tuple[int, ...]:
        """The shape of a tensor that must be there."""
        tensor = self.tensors.get(key)
        if tensor is None or tensor.ndim != num_dims:
            raise NotRecognisedError(f"the {self.modules[''][:100]} has no {key} of {num_dims} dimensions")
        return tuple(tensor.shape)


def _items(record: Record, key: str) -> Mapping[str, Any]:
    items = record.state.get(key, {})
    if not isinstance(items, dict) or not all(isinstance(name, str) for name in items):
        raise NotRecognisedError(f"{key} of a {record.class_name[:100]} is no dictionary")
    return items


def _join(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _below(items: dict[str, Any], name: str) -> dict[str, Any]:
    start = f"{name}."
    found = {key.removeprefix(start): value for key, value in items.items() if key.startswith(start)}
    return {"": items[name], **found} if name in items else found
