"""One Ray session for all tests of the engine: four logical CPUs, whatever the machine has."""

from collections.abc import Iterator

import pytest

from pipeline.engine.session import Resources, session


@pytest.fixture(scope="session")
def ray_session() -> Iterator[Resources]:
    with session(num_cpus=4) as resources:
        yield resources
