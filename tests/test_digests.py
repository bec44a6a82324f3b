"""Digests: one name for one value."""

import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
from pydantic import BaseModel

from pipeline.digests import canonical, digest, sha256


@dataclass(frozen=True)
class Part:
    alpha: float = 1.0
    revision: ClassVar[int] = 1


@dataclass(frozen=True)
class MendedPart:
    alpha: float = 1.0
    revision: ClassVar[int] = 2


class Model(BaseModel):
    part: Part = Part()
    names: tuple[str, ...] = ("a", "b")


def test_sha256_is_the_published_one() -> None:
    assert sha256(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_the_order_of_keys_does_not_matter_and_that_of_lists_does() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest([1, 2]) != digest([2, 1])


def test_a_number_is_one_value_however_it_was_typed() -> None:
    assert canonical({"sigma_max": 80}) == canonical({"sigma_max": 80.0}) == '{"sigma_max":80}'
    assert canonical(0.1 + 0.2) != canonical(0.3)
    assert canonical(math.inf) == '"inf"'


def test_a_part_with_a_new_revision_is_another_part() -> None:
    assert canonical(Part()) == '{"alpha":1,"revision":1}'
    assert digest(Part()) != digest(MendedPart())


def test_models_keep_the_revisions_of_their_parts() -> None:
    assert canonical(Model()) == '{"names":["a","b"],"part":{"alpha":1,"revision":1}}'


def test_what_has_no_canonical_form_is_refused() -> None:
    with pytest.raises(TypeError, match="set has no canonical form"):
        digest({"a": {1, 2}})
