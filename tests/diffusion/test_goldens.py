"""Finished samples are reused for ever under a key that holds revisions: outputs must not change beneath one."""

import pytest

from tests.diffusion.goldens import Golden, parts, stored

STORED = stored()
NOW = parts()


@pytest.mark.parametrize("name", NOW)
def test_a_part_computes_what_its_revision_computed(name):
    golden: Golden = NOW[name]
    where = f"{golden.owner.__module__}.{golden.owner.__name__}"
    assert name in STORED, f"{name} has no golden output yet: run `python -m tests.diffusion.goldens` and commit it"
    assert STORED[name]["revision"] == golden.owner.revision, (
        f"{where} has a new revision: run `python -m tests.diffusion.goldens` and commit the file"
    )
    assert golden.values == pytest.approx(STORED[name]["values"], rel=1e-11, abs=1e-13), (
        f"{where} computes other numbers than revision {golden.owner.revision} did, and stored samples would pass for "
        f"its own: if that is meant, raise its `revision`, then run `python -m tests.diffusion.goldens`"
    )


def test_no_golden_output_is_left_of_a_part_that_is_gone():
    assert set(STORED) == set(NOW)
