"""Digests: one name for one value."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
from pydantic import BaseModel, Field, TypeAdapter

from pipeline.digests import canonical, digest, sha256


@dataclass(frozen=True)
class Part:
    alpha: float = 1.0
    revision: ClassVar[int] = 1


@dataclass(frozen=True)
class MendedPart:
    alpha: float = 1.0
    revision: ClassVar[int] = 2


@dataclass(frozen=True)
class GrownPart:
    alpha: float = 1.0
    beta: float = field(default=0.0, metadata={"since": 2})
    parts: tuple[Part, ...] = field(default_factory=tuple, metadata={"since": 3})
    revision: ClassVar[int] = 1


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


class GrownModel(Model):
    power: float = Field(default=0.0, json_schema_extra={"since": 2})
    more: tuple[Part, ...] = Field(default_factory=tuple, json_schema_extra={"since": 2})


def test_what_was_named_before_a_field_came_keeps_its_name():
    assert digest(GrownPart()) == digest(GrownPart(beta=0, parts=())) == digest(Part())
    assert digest(GrownModel()) == digest(GrownModel(power=0)) == digest(Model())
    assert digest(TypeAdapter(GrownPart).validate_python({"alpha": 1})) == digest(Part())


def test_a_field_that_came_later_counts_where_it_is_used():
    assert canonical(GrownPart(beta=0.5)) == '{"alpha":1,"beta":0.5,"revision":1}'
    assert canonical(GrownPart(parts=(Part(),))) == '{"alpha":1,"parts":[{"alpha":1,"revision":1}],"revision":1}'
    assert canonical(GrownModel(power=2)) == '{"names":["a","b"],"part":{"alpha":1,"revision":1},"power":2}'
    assert digest(GrownModel(more=(Part(),))) != digest(Model())


def test_what_has_no_canonical_form_is_refused() -> None:
    with pytest.raises(TypeError, match="set has no canonical form"):
        digest({"a": {1, 2}})
