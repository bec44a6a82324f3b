"""Which settings name a place that a job writes to, and whether that place outlives the job."""

import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel


@dataclass(frozen=True)
class Written:
    """Marks a setting, `Annotated[str, Written()]`: it names a place that the job writes to."""


def written_keys(model: type[BaseModel]) -> list[str]:
    """The keys of the settings that name places which are written to."""
    fields = model.model_fields.items()
    return [name for name, field in fields if any(isinstance(mark, Written) for mark in field.metadata)]


def written(settings: BaseModel) -> dict[str, str]:
    """The places that a job writes to, by their keys; those that are not given are left out."""
    found = {name: getattr(settings, name) for name in written_keys(type(settings))}
    return {name: str(place) for name, place in found.items() if place}


def is_relative(place: str) -> bool:
    """Whether a folder, an address or a SQLite database is meant from the working folder."""
    path = re.sub(r"^(sqlite:///|file://)", "", place)
    return "://" not in path and not Path(path).expanduser().is_absolute()
