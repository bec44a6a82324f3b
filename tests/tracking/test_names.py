import json
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.tracking import names


@settings(deadline=None)
@given(st.text(min_size=1, max_size=300))
def test_a_cleaned_key_is_one_that_mlflow_takes(key: str) -> None:
    from mlflow.utils.validation import _validate_metric, _validate_tag

    try:
        cleaned = names.clean_key(key)
    except ValueError:
        return
    _validate_metric(cleaned, 1.0, 0, 0)
    _validate_tag(cleaned, "x")
    assert names.clean_key(cleaned) == cleaned


def test_every_key_in_the_list_is_clean() -> None:
    keys = [value for name, value in vars(names).items() if name.isupper() and isinstance(value, str)]
    assert len(keys) > 20
    assert [names.clean_key(key) for key in keys if not key.startswith(" ")] == [k for k in keys if k[0] != " "]


@pytest.mark.parametrize("key", ["", "/", "..", ".", "../.."])
def test_a_key_of_nothing_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name"):
        names.clean_key(key)


def test_settings_are_flattened_to_dotted_keys() -> None:
    @dataclass(frozen=True)
    class Solver:
        kind: str = "heun"
        alpha: float = 1e-4

    settings = {
        "sampler": {"solver": Solver(), "on": True, "steps": [1, 2], "none": None, "empty": {}},
        "grid": [{"n": 1}, {"n": 2}],
    }
    flat = names.flatten(settings)
    assert flat == {
        "sampler.solver.kind": "heun",
        "sampler.solver.alpha": "0.0001",
        "sampler.on": "true",
        "sampler.steps": "[1, 2]",
        "sampler.none": "null",
        "sampler.empty": "{}",
        "grid.0.n": "1",
        "grid.1.n": "2",
    }
    assert json.loads(flat["sampler.steps"]) == [1, 2]


def test_no_settings_are_no_params() -> None:
    assert names.flatten({}) == {}


def test_a_cut_text_has_the_length_and_says_so() -> None:
    assert names.cut("abc", 3) == "abc"
    assert len(names.cut("x" * 7000, 6000)) == 6000
    assert names.cut("x" * 7000, 6000).endswith("(cut)")
