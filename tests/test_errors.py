"""Errors cross process borders unchanged: a Ray worker raises them, the driver tells them."""

import pickle

import pytest

import pipeline.errors as errors

ALL = [item for item in vars(errors).values() if isinstance(item, type) and issubclass(item, errors.SigmasweepError)]


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_error_unpickles_to_itself(kind: type[errors.SigmasweepError]) -> None:
    error = kind("train.yaml: lr", "must be positive (got -1)")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error) == "train.yaml: lr: must be positive (got -1)"
    assert (again.where, again.problem) == ("train.yaml: lr", "must be positive (got -1)")


def test_the_docstring_draws_every_error() -> None:
    assert errors.__doc__ is not None
    assert all(kind.__name__ in errors.__doc__ for kind in ALL)
