"""Object storage where pyarrow.fs does not reach: creating a file only if there is none, by a conditional put.

The address is the store's own, so a store has one. `s3://[key:secret@]bucket/prefix?region=...&endpoint_override=...`,
with the AWS_* variables for what it does not say; `gs://bucket/prefix`.
"""

import uuid
from contextlib import suppress
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit, urlunsplit

from pipeline.addresses import without_user
from pipeline.errors import StoreError

_INSTALL = "needs the package obstore: pip install 'sigmasweep[s3]'"
_DELAYED = "allow_delayed_open"
_RETRIES: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=30)}


def readable(uri: str) -> str:
    """An address for people: without a password, and without what only a client needs."""
    parts = urlsplit(without_user(uri))
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))


def below(uri: str, key: str) -> str:
    """The address of what lies under a key, as complete as the store's own."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{key}"))


def for_arrow(uri: str) -> str:
    """The address as pyarrow.fs is given it: small files go to s3:// in one request instead of three."""
    parts = urlsplit(uri)
    if parts.scheme != "s3" or _DELAYED in parse_qs(parts.query):
        return uri
    return urlunsplit(parts._replace(query="&".join(filter(None, (parts.query, f"{_DELAYED}=true")))))


class ConditionalPuts:
    """Creates objects that are not there yet. Several threads may use one.

    Args:
        uri: the store's address.
        region: of its bucket, where that is known.

    Raises:
        StoreError: the address has no conditional puts, or the package that makes them is not installed.
    """

    def __init__(self, uri: str, region: str | None = None) -> None:
        self._uri = uri
        self._client = _client(uri, region)
        self._is_checked = False

    def create(self, key: str, data: bytes) -> bool:
        """Whether the object was made; of all that race for a key, one gets True.

        Raises:
            StoreError: it cannot be written, or the server does not keep conditions.
        """
        if not self._is_checked:
            self._check(f"{key}-probe-{uuid.uuid4().hex[:12]}")
            self._is_checked = True
        return self._put(key, data)

    def _put(self, key: str, data: bytes) -> bool:
        import obstore
        from obstore.exceptions import AlreadyExistsError, BaseError

        try:
            obstore.put(self._client, key, data, mode="create")
        except AlreadyExistsError:
            return False
        except BaseError as error:
            raise StoreError(f"{readable(self._uri)}/{key}", f"cannot be written ({_first_line(error)})") from error
        return True

    def _check(self, probe: str) -> None:
        """A server that does not know the condition would let everybody win, and nobody would notice."""
        import obstore
        from obstore.exceptions import BaseError

        self._put(probe, b".")
        ignored = self._put(probe, b".")
        with suppress(BaseError):  # litter at worst
            obstore.delete(self._client, probe)
        if ignored:
            problem = "this server ignores `If-None-Match`, without which two writers cannot be told apart"
            raise StoreError(readable(self._uri), problem)


def _client(uri: str, region: str | None) -> Any:
    parts = urlsplit(uri)
    try:
        from obstore.store import GCSStore, S3Store
    except ImportError as error:
        raise StoreError(readable(uri), f"creating a file that must be new {_INSTALL}") from error
    bucket, prefix = parts.netloc.rpartition("@")[2], parts.path.strip("/") or None
    if parts.scheme == "gs":
        return GCSStore(bucket, prefix=prefix, retry_config=_RETRIES)
    if parts.scheme != "s3":
        raise StoreError(readable(uri), f"conditional creation is not there for {parts.scheme}:// addresses")
    config = _s3_config(uri, region)
    options: Any = {"allow_http": True, "timeout": timedelta(seconds=30)}
    return S3Store(bucket, prefix=prefix, config=config, client_options=options, retry_config=_RETRIES)


def _s3_config(uri: str, region: str | None) -> Any:
    """What the address says, by the client's names; it overrides the AWS_* variables."""
    parts = urlsplit(uri)
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    config: dict[str, Any] = {"region": query.get("region") or region, "disable_bulk_delete": True}
    if endpoint := query.get("endpoint_override"):
        config["endpoint"] = endpoint if "://" in endpoint else f"{query.get('scheme', 'https')}://{endpoint}"
    if parts.username and parts.password:
        config["access_key_id"], config["secret_access_key"] = unquote(parts.username), unquote(parts.password)
    return {name: value for name, value in config.items() if value}


def _first_line(error: BaseException) -> str:
    """What a client says, without the page that a server sent with it."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return first.partition(": <?xml")[0][:300]
