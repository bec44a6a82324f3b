import pytest

from pipeline.addresses import public, without_user


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("s3://key:secret@bucket/p?region=x", "s3://bucket/p?region=x"),
        ("s3://key:se%2Fcret@bucket", "s3://bucket"),
        ("s3://key:se/cr/et@bucket/p", "s3://bucket/p"),  # as keys of AWS are often typed
        ("https://me:p@ss@host:5000/a@b", "https://host:5000/a@b"),
        ("https://me@host", "https://host"),
        ("postgresql+psycopg2://me:secret@127.0.0.1:5432/mlflow", "postgresql+psycopg2://127.0.0.1:5432/mlflow"),
    ],
)
def test_an_address_is_shown_without_user_and_password(address: str, shown: str) -> None:
    assert without_user(address) == shown
    assert without_user(f"cannot open '{address}', tell {address}: no") == f"cannot open '{shown}', tell {shown}: no"


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:5000/a@b", "s3://bucket/prefix@2", "sqlite:////home/me@work/mlflow.db", "models:/digits@best",
        "http://[::1]:5000/x", "me@example.org", "a: b@c", "http://host", "http://host:5000 me@there",
    ],
)  # fmt: skip
def test_what_holds_no_password_stays_as_it_is(text: str) -> None:
    assert without_user(text) == text


def test_settings_keep_their_shape() -> None:
    settings = {"store": "s3://k:s@b/p", "n": 3, "list": ["https://u:p@h", None, 1.5], "inner": {"x": True}}
    assert public(settings) == {"store": "s3://b/p", "n": 3, "list": ["https://h", None, 1.5], "inner": {"x": True}}
