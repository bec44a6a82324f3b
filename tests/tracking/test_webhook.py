"""The webhook gets what it should, and holds nobody up, whatever it does. Real servers on loopback."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from socket import create_server
from typing import Any

import pytest

from pipeline.tracking import webhook

CONTENT = {"event": "regression", "id": "1", "text": "ä"}


@contextmanager
def server(statuses: list[int], location: str = "") -> Iterator[tuple[str, list[Any]]]:
    """Answers with these statuses, the last one again and again; keeps what it gets."""
    got: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.headers["Content-Type"], json.loads(body)))
            self.send_response(statuses[min(len(got), len(statuses)) - 1])
            if location:
                self.send_header("Location", location)
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *arguments: Any) -> None:
            pass

    listening = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}/hook?token=geheim", got
    finally:
        listening.shutdown()
        listening.server_close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "_PAUSE_S", 0.01)


def test_an_alarm_arrives_as_json_once() -> None:
    with server([204]) as (url, got):
        assert webhook.post(url, CONTENT) == "sent"
    assert got == [("application/json", CONTENT)]


def test_a_server_that_is_out_of_order_is_tried_again() -> None:
    with server([500, 503, 200]) as (url, got):
        assert webhook.post(url, CONTENT) == "sent"
    assert len(got) == 3


def test_what_is_said_of_a_failure_never_holds_the_address() -> None:
    with server([404]) as (url, got):
        told = [webhook.post(url, CONTENT)]
    told += [webhook.post("http://geheim.invalid/x", CONTENT), webhook.post("http://[geheim/x", CONTENT)]
    told.append(webhook.post(url, CONTENT))  # nobody listens there any more
    assert len(got) == 3
    assert told[0] == "HTTP status 404"
    assert not any("geheim" in line or "127.0.0.1" in line for line in told), told
    assert "sent" not in told


def test_a_redirect_is_not_followed() -> None:
    with server([200]) as (elsewhere, other), server([302], elsewhere) as (url, _):
        assert webhook.post(url, CONTENT) == "HTTP status 302"
    assert other == []


def test_a_server_that_never_answers_holds_up_no_longer_than_the_limit() -> None:
    with create_server(("127.0.0.1", 0)) as silent:
        begin = time.monotonic()
        told = webhook.post(f"http://127.0.0.1:{silent.getsockname()[1]}/", CONTENT, limit_s=0.5)
    assert told == "no answer within 0.5 s"
    assert time.monotonic() - begin < 2
