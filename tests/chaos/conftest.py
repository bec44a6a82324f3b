"""Everything here is a real fault; what takes long carries the mark `chaos`."""

from tests.engine.conftest import ray_session
from tests.tracking.conftest import empty_database, server, stopped_server

__all__ = ["empty_database", "ray_session", "server", "stopped_server"]
