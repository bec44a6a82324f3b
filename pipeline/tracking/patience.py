"""Requests to a tracker whose answers are waited for: repeated where a reply was lost; every trouble is a sentence."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from pipeline.errors import CheckpointError
from pipeline.tracking.client import verdict
from pipeline.tracking.links import readable, redacted

Result = TypeVar("Result")

TRIES = 5  # of a request that may be repeated without harm
FIRST_WAIT_SECONDS = 0.3  # between tries, doubled each time


def patiently(request: Callable[[], Result]) -> Result:
    """The answer to a request; a reply that is lost costs a moment."""
    wait = FIRST_WAIT_SECONDS
    for _ in range(TRIES - 1):
        try:
            return request()
        except Exception as error:
            if verdict(error) != "unreachable" or _is_denied(error):
                raise
        time.sleep(wait)
        wait *= 2
    return request()


def or_none(request: Callable[[], Result]) -> Result | None:
    """The answer, or None where what was asked for is not there."""
    try:
        return request()
    except Exception as error:
        if verdict(error) != "gone":
            raise
        return None


def pages(search: Callable[..., Any]) -> list[Any]:
    """All that a search finds."""
    found = search(max_results=1000)
    everything = list(found)
    while found.token:
        found = search(max_results=1000, page_token=found.token)
        everything.extend(found)
    return everything


@contextmanager
def asking(tracking_uri: str, where: str) -> Iterator[None]:
    """Within it, trouble with the server is a CheckpointError.

    Args:
        where: what is asked for.
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        told = redacted(str(error).strip() or type(error).__name__, tracking_uri)
        raise CheckpointError(where, _sentence(error, readable(tracking_uri), told.splitlines()[0][:200])) from error


def _sentence(error: Exception, server: str, told: str) -> str:
    if _is_denied(error):
        mend = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to a user who may"
        return f"{server} refuses: {mend} ({told})"
    if verdict(error) == "unreachable":
        return f"{server} cannot be reached: start it, or set tracking_uri ({told})"
    return f"{server} refuses ({told})"


def _is_denied(error: Exception) -> bool:
    return getattr(error, "error_code", "") in ("PERMISSION_DENIED", "UNAUTHENTICATED")


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Within it, variables have other values."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
