"""Every message in docs/troubleshooting.md is one that the code can print."""

import ast
import errno
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
MESSAGES = [
    line for fence in re.findall(r"^```text\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE) for line in fence.splitlines()
]
LEAST = 6  # characters of a piece that says something
# Between these, a message may be put together of texts that stand in several places.
SEAM = re.compile(r"<[^<>]*>|\d+|[;:.,] |^- |['`()/]|while |times |(?= needs the package)")


@cache
def texts() -> list[str]:
    """The constant pieces of every text in the code, those around `%s` apart, and what is no Python."""
    found = [(ROOT / "Makefile").read_text(), os.strerror(errno.ENOSPC)]
    for pattern in ("pipeline/**/*.py", "jobs/**/*.py", "tests/browser.py"):
        for path in ROOT.glob(pattern):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found += re.split(r"%[sdr]", node.value)
    return found


def pieces(message: str) -> Iterator[str]:
    """What stands in a message between its seams; very short pieces say nothing."""
    for part in SEAM.split(re.sub(r"^(error|failed): ", "", message)):
        if len(part.strip()) >= LEAST:
            yield part.strip()


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_of_the_page_is_in_the_code(message: str) -> None:
    whole = list(pieces(message))
    assert whole, "the line says nothing that could be looked for"
    assert [part for part in whole if not any(part in text for text in texts())] == []


def test_the_page_has_the_faults_that_people_meet() -> None:
    faults = ("tracker", "disk is full", "is held by", "damaged", "cannot be ranked", "rank-deficient", "C++ compiler")
    for words in (*faults, "chromium", "newer version", "memory", "Object storage"):
        assert words in PAGE, words
    assert len(MESSAGES) > 40


def test_a_message_that_no_code_prints_would_be_found() -> None:
    invented = "error: <file>: the flux capacitor is empty"
    assert [part for part in pieces(invented) if not any(part in text for text in texts())]
