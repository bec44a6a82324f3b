"""What tests of several folders share."""

from collections.abc import Iterator

import pytest

from tests.object_server import ObjectServer, object_server


@pytest.fixture(scope="session", autouse=True)
def verified_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a test verifies of a store leaves no trace in the home folder."""
    folder = tmp_path_factory.mktemp("verified")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.data.verified.private_folder", lambda name: folder)
        yield


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    """An S3-compatible server on this machine."""
    with object_server(tmp_path_factory.mktemp("s3")) as server:
        yield server
