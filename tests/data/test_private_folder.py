"""Folders of compiled code: nobody else may write there."""

import os
import stat
from pathlib import Path

import pytest

from pipeline.data.private_folder import private_folder
from pipeline.errors import StoreError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "sigmasweep"


def test_it_is_made_closed_to_others_and_found_again(cache: Path) -> None:
    before = os.umask(0)
    try:
        folder = private_folder("compiled")
    finally:
        os.umask(before)
    assert folder == cache / "compiled"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert private_folder("compiled") == folder


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o701, 0o750])
def test_one_that_is_open_to_others_is_refused(cache: Path, mode: int) -> None:
    private_folder("compiled").chmod(mode)
    with pytest.raises(StoreError, match="is open to other users"):
        private_folder("compiled")


def test_a_link_to_somewhere_else_is_refused(cache: Path, tmp_path: Path) -> None:
    cache.mkdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (cache / "compiled").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="must be a folder of this user"):
        private_folder("compiled")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_another_users_folder_is_refused(cache: Path) -> None:
    os.chown(private_folder("compiled"), 12345, 12345)
    with pytest.raises(StoreError, match="must be a folder of this user"):
        private_folder("compiled")


def test_a_place_where_none_can_be_made_is_told(cache: Path) -> None:
    cache.write_text("a file")
    with pytest.raises(StoreError, match=r"cannot be made .*XDG_CACHE_HOME"):
        private_folder("compiled")
