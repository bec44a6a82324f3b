"""Spaces of settings: what a search may choose, written over the same dotted keys as a sweep.

A list is a choice, and `{low: 4, high: 20}` a range: of whole numbers where both ends are such, evenly in the logarithm
with `log: true`, in steps with `step`, put into a text with `text: "posthoc-{}"`. Ranges may stand within what is
chosen, so that they are asked only where that is: `{kind: churn, S_churn: {low: 1, high: 40}}`; a choice within it is
written `{any: [...]}`. Several spaces are alternatives.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from pipeline.config.load import set_key

_KEYS = ("low", "high", "log", "step", "text")
_DIGITS = 4  # of a number that is chosen: enough to find it, few enough to read it
WHICH = "space"  # the name of the choice between several spaces


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included."""

    low: float
    high: float
    log: bool = False
    step: float | None = None
    text: str = ""

    def __post_init__(self) -> None:
        for name in ("low", "high", "step"):
            value = getattr(self, name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number and not (name == "step" and value is None):
                raise ValueError(f"{name} must be a number (got {value!r})")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"low must be less than high (got {self.low} and {self.high})")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError(f"log goes with a low above 0 and without a step (got {self.low} and {self.step})")
        if self.step is not None and self.step <= 0:
            raise ValueError(f"step must be above 0 (got {self.step})")
        if self.text and self.text.count("{}") != 1:
            raise ValueError(f"text must hold {{}} once, where the number goes (got {self.text!r})")

    @property
    def is_whole(self) -> bool:
        return all(isinstance(value, int) for value in (self.low, self.high, self.step or 1))

    def value(self, number: float) -> Any:
        """A number of the range as settings have it."""
        tidy: float = int(number) if self.is_whole else min(max(_tidy(number), self.low), self.high)
        return self.text.format(f"{tidy:g}") if self.text else tidy

    def numbers(self, count: int) -> list[float]:
        """So many numbers, or all where there are fewer, spread evenly, with both ends."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        spread = [low + (high - low) * index / max(count - 1, 1) for index in range(count)]
        found = [math.exp(value) if self.log else value for value in spread]
        if self.step is not None:
            found = [self.low + self.step * round((value - self.low) / self.step) for value in found]
        if self.is_whole:
            found = [round(value) for value in found]
        return list(dict.fromkeys(min(value, self.high) for value in found))


@dataclass(frozen=True)
class Choice:
    """One of some values, in which there may be more to choose."""

    options: tuple[Any, ...]


Domain = Range | Choice
Space = Mapping[str, Any]  # dotted keys; values are domains, or hold some
Pick = Callable[[str, Domain], float]  # asked for the number of a range, or for the index of an option


def parse_space(written: Mapping[str, Any]) -> Space:
    """A space as it is written in a settings file.

    Raises:
        ValueError: a range or a choice is not of this form; the text begins with the key.
    """
    return {key: _parse(key, Choice(tuple(v)) if isinstance(v, list) else v) for key, v in written.items()}


def _parse(path: str, value: Any) -> Any:
    if isinstance(value, Choice):
        if not value.options:
            raise ValueError(f"{path} has nothing to choose from")
        return Choice(tuple(_parse(path, option) for option in value.options))
    if not isinstance(value, Mapping):
        return value
    if set(value) == {"any"} and isinstance(value["any"], list):
        return _parse(path, Choice(tuple(value["any"])))
    if "kind" in value or not {"low", "high"} & set(value):
        return {key: _parse(f"{path}.{key}", item) for key, item in value.items()}
    if unknown := sorted(set(value) - set(_KEYS)):
        raise ValueError(f"{path}: a range has no {unknown[0]}; known are {', '.join(_KEYS)}")
    if missing := [key for key in ("low", "high") if key not in value]:
        raise ValueError(f"{path}: a range needs {missing[0]} (got {dict(value)})")
    try:
        return Range(**value)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def choose(spaces: Sequence[Space], pick: Pick) -> dict[str, Any]:
    """One setting of the spaces: its dotted keys and their values.

    Args:
        pick: decides; it is told the path of what is asked, which is the same wherever the same is asked.
    """
    which = int(pick(WHICH, Choice(tuple(range(len(spaces)))))) if len(spaces) > 1 else 0
    before = f"{which}:" if len(spaces) > 1 else ""
    return {key: _choose(before + key, node, pick) for key, node in spaces[which].items()}


def _choose(path: str, node: Any, pick: Pick) -> Any:
    if isinstance(node, Range):
        return node.value(pick(path, node))
    if isinstance(node, Choice):
        index = int(pick(path, node)) if len(node.options) > 1 else 0
        return _choose(f"{path}={index}", node.options[index], pick)
    if isinstance(node, Mapping):
        return {key: _choose(f"{path}.{key}", item, pick) for key, item in node.items()}
    return copy.deepcopy(node)


def expansions(node: Any, points: int) -> list[Any]:
    """All values that a grid over a node would try, with so many of each range."""
    if isinstance(node, Range):
        return list(dict.fromkeys(node.value(number) for number in node.numbers(points)))
    if isinstance(node, Choice):
        return [value for option in node.options for value in expansions(option, points)]
    if isinstance(node, Mapping):
        combined = product(*(expansions(item, points) for item in node.values()))
        return [dict(zip(node, values, strict=True)) for values in combined]
    return [node]


def one_by_one(space: Space, points: int = 2) -> Iterator[dict[str, Any]]:
    """Settings in which every value of every key comes once, all others being the first of theirs."""
    every = {key: expansions(node, points) for key, node in space.items()}
    first = {key: values[0] for key, values in every.items()}
    yield first
    for key, values in every.items():
        for value in values[1:]:
            yield {**first, key: value}


class FullGrid:
    """The grid that brute force would try over spaces, as a sequence that is never made as a whole.

    Args:
        points: values of each range; of whole numbers all, where there are no more.
    """

    def __init__(self, spaces: Sequence[Space], points: int) -> None:
        self._spaces = [{key: expansions(node, points) for key, node in space.items()} for space in spaces]
        self._sizes = [math.prod(len(values) for values in space.values()) for space in self._spaces]

    def __len__(self) -> int:
        return sum(self._sizes)

    def __getitem__(self, index: int) -> dict[str, Any]:
        for space, size in zip(self._spaces, self._sizes, strict=True):
            if index < size:
                chosen = {}
                for key, values in space.items():
                    index, place = divmod(index, len(values))
                    chosen[key] = values[place]
                return chosen
            index -= size
        raise IndexError(index)

    def some(self, most: int) -> list[dict[str, Any]]:
        """All of it, or so many that are spread over it."""
        count = min(len(self), most)
        return [self[index * len(self) // count] for index in range(count)]


def applied(base: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """What is chosen, set in a copy of nested settings."""
    content = copy.deepcopy(dict(base))
    for key, value in chosen.items():
        set_key(content, key, copy.deepcopy(value))
    return content


def _tidy(number: float) -> float:
    return float(f"{number:.{_DIGITS}g}")
