"""Time grids that are kept in files, such as those computed for a network."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.config.load import parse_yaml
from pipeline.digests import sha256
from pipeline.errors import SettingsError


def read_grid(value: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the `optimized` grid that a file holds, so that its content counts and not its place.

    The file is JSON or YAML: a list of noise levels, or `sigmas` with such a list and `source`, which tells in words
    how it was made; or else plain numbers between white space. A final 0 may be there or not.

    Args:
        value: `kind: file` and the `path`.

    Raises:
        ValueError: there is no such file, or it holds no noise levels. Whether they decrease is the grid's business.
    """
    path = value.get("path")
    if set(value) != {"kind", "path"} or not isinstance(path, str):
        raise ValueError(f"a grid of kind file has a path and nothing else (got {dict(value)})")
    try:
        data = Path(path).read_bytes()
        content = parse_yaml(data.decode("utf-8"), path)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error})") from None
    except SettingsError as error:
        raise ValueError(str(error)) from None
    source = content.get("source", "") if isinstance(content, Mapping) else ""
    sigmas = _numbers(content.get("sigmas") if isinstance(content, Mapping) else content, path)
    if sigmas[-1] == 0:
        sigmas.pop()
    known = f"{Path(path).name}, sha256 {sha256(data)[:16]}"
    return {"kind": "optimized", "sigmas": sigmas, "source": f"{source}; {known}" if source else known}


def _numbers(content: Any, path: str) -> list[float]:
    if isinstance(content, str):
        content = content.split()
    elif isinstance(content, int | float):
        content = [content]
    try:
        sigmas = [float(item) for item in content]
    except (TypeError, ValueError):
        sigmas = []
    if not sigmas or any(math.isnan(sigma) for sigma in sigmas):
        raise ValueError(f"{path} holds no noise levels; write them as a list under `sigmas`")
    return sigmas
