import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline.tracking.client import status_of, verdict


class _Broken(BaseHTTPRequestHandler):
    """A tracker whose object storage is away."""

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(500)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: Any) -> None:
        pass


def test_a_server_whose_storage_is_away_is_known_by_what_mlflow_tells_of_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    (tmp_path / "picture.png").write_bytes(b"pixels")
    listening = HTTPServer(("127.0.0.1", 0), _Broken)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    try:
        with pytest.raises(Exception, match="500") as failed:
            HttpArtifactRepository(f"http://127.0.0.1:{listening.server_port}/api/2.0/mlflow-artifacts").log_artifact(
                str(tmp_path / "picture.png")
            )
    finally:
        listening.shutdown()
        listening.server_close()
    assert status_of(failed.value) == 500
    assert verdict(failed.value) == "unreachable"
