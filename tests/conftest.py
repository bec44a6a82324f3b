"""Two processes run the tests (`make unit`): what starts Ray or MLflow's server stays together in one of them, where it
mostly waits, and the rest keeps the other busy."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.object_server import ObjectServer, object_server

ROOT = Path(__file__).parent
WAITING = ("engine", "jobs", "tracking")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(ROOT).parts[0]
        item.add_marker(pytest.mark.xdist_group("services" if folder in WAITING else item.path.stem))


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
