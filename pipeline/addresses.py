"""Addresses that may hold a user and a password, and texts in which such an address may stand."""

import re
from typing import Any

# What stands before the host: up to the last @ before a path. Where a password holds a slash that should have been
# written %2F, as keys of AWS do, what follows the colon is no port, and all up to the last @ is taken for it.
_USER = re.compile(r"(?<=://)(?:[^/?#\s'\"]*@|[^/?#\s'\"@:]*:(?!\d*(?:[/?#\s'\"]|$))[^\s'\"]*@)")


def without_user(text: str) -> str:
    """An address, or a text with addresses in it, without users and passwords: `s3://key:secret@bucket` is
    `s3://bucket`."""
    return _USER.sub("", text)


def public(value: Any) -> Any:
    """Nested settings as they may be written down: addresses in them without users and passwords.

    Args:
        value: made of dictionaries, lists and what JSON knows.
    """
    if isinstance(value, str):
        return without_user(value)
    if isinstance(value, dict):
        return {key: public(item) for key, item in value.items()}
    return [public(item) for item in value] if isinstance(value, list | tuple) else value
