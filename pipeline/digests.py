"""Digests: the names of everything that is addressed by its content."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

SINCE = "since"  # metadata of a field that came after its class: the version that brought it

DIGEST_LENGTH = 32  # hex digits kept of a sha256 where a digest names a folder: 128 bits


def sha256(data: bytes | memoryview) -> str:
    """The sha256 of bytes, 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def plain(value: Any) -> Any:
    """A value as JSON knows it; dataclasses and models become dictionaries, with their `revision` if any.

    A field that came later, `field(default=..., metadata={"since": 2})` or in a model
    `Field(default=..., json_schema_extra={"since": 2})`, is left out where it has its default, so that what was named
    before the field existed keeps its name. The default must therefore mean what was done before.

    Raises:
        TypeError: for a value that has no canonical form (sets, tensors, open files, ...).
    """
    if is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in fields(value) if not _came_later(field, getattr(value, field.name))]
        settings = {name: plain(getattr(value, name)) for name in names}
        revision = getattr(type(value), "revision", None)
        return settings if revision is None else {**settings, "revision": revision}
    if hasattr(type(value), "model_fields"):  # a pydantic model
        declared = type(value).model_fields.items()
        names = [name for name, field in declared if not _came_later_in_model(field, getattr(value, name))]
        return {name: plain(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return _number(value)
    if value is None or isinstance(value, str | int | bool):
        return value
    raise TypeError(f"{type(value).__name__} has no canonical form")


def _came_later(field: Field[Any], value: Any) -> bool:
    """Whether a dataclass got this field later and the value is what was done before."""
    if SINCE not in field.metadata:
        return False
    made: Any = field.default if field.default_factory is MISSING else field.default_factory()
    return bool(value == made)


def _came_later_in_model(field: Any, value: Any) -> bool:
    """The same of a pydantic model's field."""
    extra = field.json_schema_extra
    return isinstance(extra, Mapping) and SINCE in extra and value == field.get_default(call_default_factory=True)


def _number(value: float) -> float | int | str:
    """80.0 and 80 are one value, however it was typed; JSON has no word for what is not finite."""
    if not math.isfinite(value):
        return str(value)
    return int(value) if value.is_integer() else value


def canonical(value: Any) -> str:
    """One text for one value: JSON with sorted keys, shortest number form, no white space."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """The name of a value: 32 hex digits of the sha256 of its canonical text."""
    return sha256(canonical(value).encode())[:DIGEST_LENGTH]
