"""The formats of all that is kept in a store: a number in every file, so that one of a later version is told and left
alone (`docs/upgrading.md`).

A manifest says two: its own, and that of the content it names. A file without the second is of format 1. Raise a
kind's number when an earlier version would misread what this one writes, and go on reading the earlier ones.
"""

import re
from functools import cache
from typing import Any, NamedTuple

from pipeline.errors import NewerFormatError


class Kind(NamedTuple):
    """One kind of content.

    Args:
        name: for people.
        pattern: of its keys; a star stands for anything within one part of a key.
        format: that this version writes, and the newest that it reads.
    """

    name: str
    pattern: str
    format: int = 1


KINDS = (
    Kind("data set", "datasets/*"),
    Kind("checkpoint of a training", "checkpoints/*/states/*"),
    Kind("snapshot", "checkpoints/*/snapshots/*"),
    Kind("rebuilt weights", "checkpoints/*/posthoc/*"),
    Kind("setting of samples", "samples/*/setting"),
    Kind("chunk of samples", "samples/*/chunk-*"),
    Kind("features", "features/*/*/chunk-*"),
    Kind("moments", "features/*/*/moments-*"),
    Kind("score", "features/*/*/score-*"),
    Kind("errors of trajectories", "trajectories/*/*/errors-*"),
    Kind("reference", "references/*/*"),
    Kind("features of a reference", "references/*/*/chunk-*"),
    Kind("what a score prepared", "references/*/*/prepared-*"),
    Kind("pace", "paces/*"),
    Kind("timing", "timings/*"),
    Kind("record of a benchmark", "benchmarks/*"),
    Kind("step of a search", "searches/*/step-*"),
    Kind("record of a search", "searches/*/told"),
    Kind("beginning of a schedule", "schedules/*/since"),
    Kind("slot of a schedule", "schedules/*/slots/*/*"),
    Kind("gap of a schedule", "schedules/*/gaps/*"),
    Kind("slot ahead of the clock", "schedules/*/ahead/*"),
    Kind("cache", "cache/*/*"),
)
_OTHER = Kind("content", "*")


def kind_of(key: str) -> Kind:
    """The kind of content that is kept under the key of a commit; what is not in the table is of format 1."""
    return next((kind for kind in KINDS if _expression(kind.pattern).fullmatch(key)), _OTHER)


@cache
def _expression(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(r"\*", "[^/]+"))


def check_format(where: object, what: str, found: Any, known: int) -> None:
    """Goes on where a file can be read.

    Args:
        where: the file.
        what: it is.
        found: the number of its format.
        known: the newest that this version reads.

    Raises:
        NewerFormatError: a later version wrote it.
        ValueError: it is no number of a format.
    """
    if type(found) is not int or found < 1:
        raise ValueError(f"format {found!r} is none")
    if found > known:
        raise NewerFormatError(
            where,
            f"was written by a newer version of sigmasweep ({what} of format {found}, this version reads up to {known})"
            ": update sigmasweep, or name another store; it was left as it is",
        )
