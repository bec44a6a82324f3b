"""The catalogue of parts."""

from typing import get_args

import pytest

from pipeline.config.catalogue import PARTS, catalogue


@pytest.mark.parametrize("title", PARTS)
def test_every_kind_is_told_with_its_fields(title: str) -> None:
    text = catalogue()
    section = text[text.index(f"### {title}") :]
    for part in get_args(PARTS[title]) or (PARTS[title],):
        assert f"| `{part.kind}` |" in section
