"""The parts that a report is put together of."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """A figure for a light page and for a dark one: PNG bytes, and what it says in words."""

    name: str
    light: bytes
    dark: bytes
    words: str


@dataclass(frozen=True)
class Line:
    """One setting in the table: texts, each under its column's title; on the front or not."""

    cells: tuple[str, ...]
    best: bool


@dataclass(frozen=True)
class Strip:
    """Pictures side by side, as an address of their data, with a title and a line below it."""

    title: str
    below: str
    picture: str
    width: int
