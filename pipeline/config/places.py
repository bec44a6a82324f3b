"""Which settings name a place that a job writes to, and whether that place outlives the job."""

import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel


@dataclass(frozen=True)
class Written:
    """Marks a setting, `Annotated[str, Written()]`: it names a place that the job writes to."""


def written(settings: BaseModel) -> dict[str, str]:
    """The places that a job writes to, by their keys; those that are not given are left out."""
    fields = {
        name
        for name, field in type(settings).model_fields.items()
        if any(isinstance(mark, Written) for mark in field.metadata)
    }
    return {name: str(getattr(settings, name)) for name in sorted(fields) if getattr(settings, name)}


def is_relative(place: str) -> bool:
    """Whether a folder, an address or a SQLite database is meant from the working folder."""
    path = re.sub(r"^(sqlite:///|file://)", "", place)
    return "://" not in path and not Path(path).expanduser().is_absolute()
