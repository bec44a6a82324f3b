"""What every member of every union promises."""

import pickle
from dataclasses import FrozenInstanceError, fields
from typing import ClassVar, Literal, get_origin, get_type_hints

import pytest

from tests.diffusion.parts import UNIONS, members

MEMBERS = [pytest.param(member, id=f"{union}-{member.kind}") for union in UNIONS for member in members(UNIONS[union])]


@pytest.mark.parametrize("member", MEMBERS)
def test_a_part_is_a_frozen_value_with_a_kind_and_a_revision(member):
    hints = get_type_hints(member)
    assert fields(member)[0].name == "kind"
    assert get_origin(hints["kind"]) is Literal
    assert get_origin(hints["revision"]) is ClassVar
    assert member.revision >= 1
    part = member()
    with pytest.raises(FrozenInstanceError):
        part.kind = "other"
    assert hash(part) == hash(member())
    assert pickle.loads(pickle.dumps(part)) == part


@pytest.mark.parametrize("union", UNIONS)
def test_the_kinds_of_a_union_differ(union):
    kinds = [member.kind for member in members(UNIONS[union])]
    assert len(set(kinds)) == len(kinds)
