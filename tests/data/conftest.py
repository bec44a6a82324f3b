"""One S3-compatible server for all tests of stored data."""

from collections.abc import Iterator

import pytest

from tests.object_server import ObjectServer, object_server


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    with object_server(tmp_path_factory.mktemp("s3")) as server:
        yield server
