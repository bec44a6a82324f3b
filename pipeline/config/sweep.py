"""Sweeps are data: a grid over any keys of a sampler setting, expanded and validated before anything is computed."""

import copy
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.config.load import set_key

Grid = Mapping[str, Sequence[Any]]


def expand_grid(base: Mapping[str, Any], sweep: Grid | Sequence[Grid]) -> list[tuple[str, dict[str, Any]]]:
    """Every point of a grid, or of several grids one after the other.

    Args:
        base: what all points share, as nested dictionaries.
        sweep: dotted keys and the values they take. A value that is a dictionary with `kind` replaces what was there.

    Returns:
        (name, content) of each point; the name tells what varies. No sweep is one point with an empty name.
    """
    grids = [sweep] if isinstance(sweep, Mapping) else list(sweep)
    points: dict[str, dict[str, Any]] = {}
    for grid in grids or [{}]:
        for values in itertools.product(*grid.values()):
            chosen = dict(zip(grid, values, strict=True))
            content = copy.deepcopy(dict(base))
            for key, value in chosen.items():
                set_key(content, key, copy.deepcopy(value))
            points.setdefault(point_name(chosen), content)
    return list(points.items())


def point_name(chosen: Mapping[str, Any]) -> str:
    """What varies, in words: `heun, num_steps=18`."""
    return ", ".join(_words(key, value) for key, value in chosen.items())


def _words(key: str, value: Any) -> str:
    if isinstance(value, Mapping):
        rest = [f"{name}={_number(item)}" for name, item in value.items() if name != "kind"]
        return " ".join([str(value.get("kind", key.rsplit(".", 1)[-1])), *rest])
    whose = "guide " if key.startswith("guide.") else ""  # it has the same keys as the checkpoint
    return f"{whose}{key.rsplit('.', 1)[-1]}={_number(value)}"


def _number(value: Any) -> str:
    if isinstance(value, Mapping):  # a part within a part
        return f"({_words('', value)})"
    return f"{value:g}" if isinstance(value, float) else str(value)
