"""Alarms to a webhook: a JSON POST that is tried a few times within a limit, and whose address is never told."""

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

TRIES = 3
TIMEOUT_S = 5.0  # of one try, for each answer of the network
LIMIT_S = 20.0  # of all tries together; then whoever waits goes on
_PAUSE_S = 1.0  # before the second try, doubled each time

SENT = "sent"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would make a GET without the alarm of it."""

    def redirect_request(self, *arguments: Any, **named: Any) -> None:
        return None


def post(url: str, content: Mapping[str, Any], limit_s: float = LIMIT_S) -> str:
    """Sends JSON, and waits no longer than a limit, whatever the other side does.

    Returns:
        `sent`, or in a few words why not: neither the address nor what the server says is in them. Nothing is raised.
    """
    told = [f"no answer within {limit_s:g} s"]
    data = json.dumps(content).encode()
    thread = threading.Thread(target=_try, args=(url, data, told, time.monotonic() + limit_s), daemon=True)
    thread.start()
    thread.join(limit_s)
    return told[0]


def _try(url: str, data: bytes, told: list[str], end: float) -> None:
    pause = _PAUSE_S
    for number in range(TRIES):
        told[0] = _once(url, data)
        if told[0] == SENT or number == TRIES - 1 or time.monotonic() + pause > end:
            return
        time.sleep(pause)
        pause *= 2


def _once(url: str, data: bytes) -> str:
    opener = urllib.request.build_opener(_NoRedirect)
    try:
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method="POST")
        with opener.open(request, timeout=TIMEOUT_S) as answer:
            return SENT if 200 <= answer.status < 300 else f"HTTP status {answer.status}"
    except urllib.error.HTTPError as error:
        return f"HTTP status {error.code}"
    except Exception as error:  # of many types; their words may hold the address
        return type(getattr(error, "reason", None) or error).__name__
