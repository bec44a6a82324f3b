"""Addresses of object storage, and servers and machines on which a conditional put is not to be had."""

import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipeline.data.object_storage import below, for_arrow, readable
from pipeline.data.store import Store
from pipeline.errors import StoreError
from tests.object_server import ObjectServer

ADDRESS = "s3://key:se%2Fcret@bucket/some/prefix?endpoint_override=http://127.0.0.1:1&region=us-east-1"


def test_an_address_is_shown_without_its_password_and_goes_on_below_a_key() -> None:
    assert readable(ADDRESS) == "s3://bucket/some/prefix"
    assert below(ADDRESS, "cache/x") == ADDRESS.replace("prefix", "prefix/cache/x")
    assert for_arrow(ADDRESS) == ADDRESS + "&allow_delayed_open=true"
    assert for_arrow("s3://bucket") == "s3://bucket?allow_delayed_open=true"
    assert for_arrow("gs://bucket/prefix") == "gs://bucket/prefix"
    assert Store(ADDRESS).title == "s3://bucket/some/prefix"
    assert "cret" not in repr(Store(ADDRESS))


def test_keys_that_are_not_percent_encoded_are_told_without_them() -> None:
    store = Store("s3://AKIA4711:se/cr+et@bucket/prefix?region=us-east-1")
    assert store.title == "s3://bucket/prefix"
    with pytest.raises(
        StoreError, match=r"^s3://bucket/prefix: .*keys in it must be percent-encoded: / as %2F"
    ) as told:
        store.check_writable()
    assert "cr+et" not in str(told.value)
    assert "AKIA" not in str(told.value)


def test_without_the_package_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.delitem(sys.modules, "obstore.store", raising=False)
    with pytest.raises(StoreError, match=r"^s3://bucket/some/prefix: .* needs the package obstore: pip install 'sig"):
        Store(ADDRESS).create_if_absent("leases/a", b"")


class _SaysYes(BaseHTTPRequestHandler):
    """As a server does that has never heard of conditions."""

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(200)

    def do_DELETE(self) -> None:
        self._answer(204)

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("ETag", '"x"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def careless() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _SaysYes) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_a_server_that_ignores_the_condition_is_refused(careless: int) -> None:
    store = Store(ADDRESS.replace("127.0.0.1:1", f"127.0.0.1:{careless}"))
    for _ in range(2):
        with pytest.raises(StoreError, match="this server ignores `If-None-Match`"):
            store.create_if_absent("leases/a", b"")


def test_wrong_keys_are_told_in_one_line_without_them(s3: ObjectServer) -> None:
    store = Store(s3.store().uri.replace("key:secret", "key:wrong"))
    for action in (store.check_writable, lambda: store.keys(""), lambda: store.create_if_absent("a", b"")):
        with pytest.raises(StoreError, match=r"^s3://bucket/") as caught:
            action()
        assert "\n" not in str(caught.value)
        assert "wrong" not in str(caught.value)


def test_keys_and_server_may_come_from_the_environment(s3: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with_keys = s3.store()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": s3.endpoint,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    without = Store(with_keys.title)
    assert without.create_if_absent("a", b"made")
    assert not with_keys.create_if_absent("a", b"late")
    without.write("b", b"written")
    assert (with_keys.read("a"), with_keys.read("b")) == (b"made", b"written")
