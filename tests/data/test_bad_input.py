"""Every mistake in the input of `prepare` is one sentence, and leaves nothing in the store."""

import gzip
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.data.prepare import prepare
from pipeline.data.sources import CifarBinary, CifarPython, Folder, Idx, Item, Mnist5k, ParquetImages, Source
from pipeline.data.spool import Spool
from pipeline.data.store import Store
from pipeline.errors import DataError, SettingsError
from tests.data import files
from tests.data.files import noise

Case = tuple[str, Callable[[Path], Source], str]  # what is wrong, a source that has it, what the message must hold
PNG = files.encoded(noise(1, 4, 4))


def _cut(path: Path, end: int) -> Path:
    path.write_bytes(path.read_bytes()[:end])
    return path


def _zeroed(path: Path) -> Path:
    """A Parquet file whose footer is right and whose pages are zeros."""
    data = path.read_bytes()
    path.write_bytes(b"PAR1" + bytes(len(data) // 2) + data[len(data) // 2 + 4 :])
    return path


# -- folders and zips

NAMES = {"a": "a.png", "b": "b.png", "cat": "cat/a.png", "listing": "dataset.json", "text": "README"}


def _folder(**contents: bytes | str) -> Callable[[Path], Source]:
    def make(path: Path) -> Source:
        for name, data in contents.items():
            files.write(path / "set" / NAMES[name], data)
        return Folder(str(path / "set"))

    return make


def _zip(change: Callable[[Path], Path]) -> Callable[[Path], Source]:
    def make(path: Path) -> Source:
        files.write(path / "set" / "a.png", PNG)
        return Folder(str(change(files.zipped(path / "set", path / "a.zip"))))

    return make


def _bomb(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("a.png", bytes(300 << 20))
    return path


FOLDERS: list[Case] = [
    ("a path that is not there", lambda path: Folder(str(path / "no")), "no such file or folder"),
    ("an empty folder", _folder(text=b""), "holds no image"),
    ("a file that is no zip", _zip(lambda path: files.write(path, "text")), "neither a folder nor a readable zip"),
    ("a truncated zip", _zip(lambda path: _cut(path, 60)), "neither a folder nor a readable zip"),
    ("a zip bomb", _zip(_bomb), "a.png is a file of 314572800 bytes"),
    ("images beside class folders", _folder(cat=PNG, b=PNG), "both in folders .* and beside them"),
    ("mixed sizes", _folder(a=PNG, b=files.encoded(noise(1, 4, 6))), "b.png: is 4 x 6 with 1 channel where"),
    ("mixed channels", _folder(a=PNG, b=files.encoded(noise(3, 4, 4))), "set size or channels"),
    ("a corrupted PNG", _folder(a=PNG[:50]), "1 broken image"),
    ("text called PNG", _folder(a="hello"), "not an image of a known format"),
    ("an empty image file", _folder(a=b""), "not an image of a known format"),
    (
        "a listing of missing files",
        _folder(a=PNG, listing='{"labels": [["a.png", 0], ["b.png", 1]]}'),
        "names 1 images that are not there, first 'b.png'",
    ),
    (
        "a listing without a file",
        _folder(a=PNG, b=PNG, listing='{"labels": [["a.png", 0]]}'),
        "1 images have no label in dataset.json, first 'b.png'",
    ),
    ("a listing that is no JSON", _folder(a=PNG, listing="{"), "not readable JSON"),
    ("a listing of bottomless depth", _folder(a=PNG, listing="[" * 100_000), "not readable JSON"),
    ("a listing of vectors", _folder(a=PNG, listing='{"labels": [["a.png", [0, 1]]]}'), "integer"),
    ("a listing of something else", _folder(a=PNG, listing='{"labels": {"a.png": 1}}'), "integer"),
    ("a negative label", _folder(a=PNG, listing='{"labels": [["a.png", -3]]}'), "integer"),
    ("labels with a gap", _folder(a=PNG, listing='{"labels": [["a.png", 7]]}'), "largest is 7 and no image has 0"),
]


# -- IDX


def _idx(make: Callable[[Path], object], name: str = "i") -> Callable[[Path], Source]:
    def source(path: Path) -> Source:
        make(path / name)
        return Idx(str(path / name))

    return source


def _idx_with_labels(path: Path) -> Source:
    return Idx(str(files.idx(path / "i", noise(2, 9, 9))), str(files.idx(path / "l", noise(3))))


def _idx_without_labels(path: Path) -> Source:
    return Idx(str(files.idx(path / "i", noise(2, 9, 9))), str(path / "l"))


HUGE = (1 << 31, 1 << 31, 9)
IDX_BOMB = gzip.compress(bytes([0, 0, 8, 3]) + b"\xff" * 12)

IDX: list[Case] = [
    ("idx: text", _idx(lambda path: files.write(path, "hello world")), "not an IDX file"),
    ("idx: an empty file", _idx(lambda path: files.write(path, "")), "not an IDX file"),
    ("idx: only a magic number", _idx(lambda path: files.write(path, bytes([0, 0, 8, 3, 0]))), "cut off"),
    ("idx: floats", _idx(lambda path: files.idx(path, noise(2, 3, 3), magic=0x0D03)), "type 0x0d"),
    ("idx: labels as images", _idx(lambda path: files.idx(path, noise(9))), "with 1 dimensions; needed"),
    ("idx: truncated", _idx(lambda path: _cut(files.idx(path, noise(2, 9, 9)), 100)), "cut off"),
    ("idx: truncated gzip", _idx(lambda path: _cut(files.idx(path, noise(2, 99, 99)), 500), "i.gz"), "cannot be read"),
    ("idx: a damaged gzip", _idx(lambda path: files.write(path, b"\x1f\x8b" + bytes(50))), "cannot be read"),
    ("idx: a huge claim", _idx(lambda path: files.idx(path, noise(2, 9, 9), lengths=HUGE)), "which this file cannot"),
    ("idx: a huge claim in a gzip", _idx(lambda path: files.write(path, IDX_BOMB)), "which this file cannot hold"),
    ("idx: no image", _idx(lambda path: files.idx(path, noise(0, 9, 9))), "claims"),
    ("idx: too many bytes", _idx(lambda path: files.idx(path, noise(2, 9, 9), lengths=(1, 9, 9))), "more bytes"),
    ("idx: another count of labels", _idx_with_labels, "holds 3 labels for the 2 images"),
    ("idx: no labels file", _idx_without_labels, "no such file"),
]


# -- Parquet


def _parquet(labels: Any = None, names: list[str] | None = None, **more: Any) -> Callable[[Path], Source]:
    columns = {name: more.pop(name) for name in ("image_column", "label_column") if name in more}

    def make(path: Path) -> Source:
        file = files.parquet(path / "a.parquet", noise(2, 1, 4, 4), labels, names, **more)
        return ParquetImages(str(file), **columns)

    return make


def _damaged_parquet(damage: Callable[[Path], object]) -> Callable[[Path], Source]:
    def make(path: Path) -> Source:
        damage(files.parquet(path / "a.parquet", noise(5, 1, 4, 4)))
        return ParquetImages(str(path))

    return make


def _two_layouts(path: Path) -> Source:
    files.parquet(path / "a.parquet", noise(2, 1, 4, 4), [0, 1])
    files.parquet(path / "b.parquet", noise(2, 1, 4, 4))
    return ParquetImages(str(path))


PARQUET: list[Case] = [
    ("parquet: truncated", _damaged_parquet(lambda path: _cut(path, -20)), "not a readable Parquet"),
    ("parquet: damaged within", _damaged_parquet(_zeroed), "not a readable Parquet"),
    ("parquet: text", _damaged_parquet(lambda path: files.write(path, "text")), "not a readable Parquet"),
    ("parquet: an empty folder", lambda path: ParquetImages(str(path)), "names no Parquet file"),
    ("parquet: a glob of nothing", lambda path: ParquetImages(str(path / "*.parquet")), "names no Parquet file"),
    ("parquet: no image column", _parquet(image_column="img"), r"no column 'img' \(it has \['image'\]\)"),
    ("parquet: numbers as images", _parquet(x=[1, 2], image_column="x"), "holds int64, not encoded images"),
    ("parquet: text as labels", _parquet(["a", "b"]), "must hold integers, not string"),
    ("parquet: no such labels", _parquet(label_column="fine"), "no column 'fine'"),
    ("parquet: a missing label", _parquet([0, None]), "1 of 2 images have no label"),
    ("parquet: a label out of range", _parquet([0, 5], ["a", "b"]), "label 5 is out of range: there are 2 classes"),
    ("parquet: a negative label", _parquet([0, -7]), "got -7"),
    ("parquet: labels in one of two", _two_layouts, "some of its files have a column 'label'"),
    ("parquet: an image of no bytes", _parquet(b=[PNG, None], image_column="b"), "row 1 has no bytes"),
]


# -- CIFAR


def _binary(**contents: bytes) -> Callable[[Path], Source]:
    def make(path: Path) -> Source:
        return CifarBinary(str(files.tar(path / "c.tar.gz", {f"{name}.bin": data for name, data in contents.items()})))

    return make


def _python(batch: Any) -> Callable[[Path], Source]:
    def make(path: Path) -> Source:
        contents = files.cifar10_python(noise(5, 3, 32, 32), [0] * 5)
        contents["c/data_batch_3"] = batch if isinstance(batch, bytes) else pickle.dumps(batch, 2)
        return CifarPython(str(files.tar(path / "c.tar.gz", contents)))

    return make


def _cut_archive(path: Path) -> Source:
    contents = files.cifar10_python(noise(5, 3, 32, 32), [0] * 5)
    return CifarPython(str(_cut(files.tar(path / "c.tar.gz", contents), 9000)))


ROW = noise(1, 3072)
CIFAR: list[Case] = [
    ("cifar: text", lambda path: CifarPython(str(files.write(path / "c", "text"))), "cannot be read as a tar archive"),
    ("cifar: truncated", _cut_archive, "cannot be read as a tar archive"),
    ("cifar: other files", _binary(other=b""), "holds neither 'data_batch_1.bin'"),
    ("cifar: a batch is missing", _binary(data_batch_1=bytes(3073)), "lacks data_batch_2.bin"),
    ("cifar: a cut record", _binary(train=bytes(5000)), "no whole number of records of 3074"),
    ("cifar: label out of range", _binary(train=b"\0\x05" + bytes(3072)), "no image has 0"),
    ("cifar: a pickle with a program", _python(b"cos\nsystem\n(S'false'\ntR."), "data_batch_3: .* names os.system"),
    ("cifar: no dictionary", _python([1, 2]), "holds no dictionary, but a list of 2"),
    ("cifar: no pickle", _python(b"text"), "data_batch_3: the pickle is damaged"),
    ("cifar: an empty dictionary", _python({}), "'data' must be bytes of shape"),
    ("cifar: wrong shape", _python({"data": noise(1, 3000), "labels": [1]}), r"of shape \(1, 3000\)"),
    ("cifar: wrong type", _python({"data": np.zeros((1, 3072)), "labels": [1]}), "float64"),
    ("cifar: another count of labels", _python({"data": ROW, "labels": [1, 2]}), "a list of 2"),
    ("cifar: labels that are text", _python({"data": ROW, "labels": ["x"]}), "must be a list of 1 integers"),
    ("cifar: huge labels", _python({"data": ROW, "labels": [1 << 70]}), "labels below 0 or above"),
]

CASES = FOLDERS + IDX + PARQUET + CIFAR


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.mark.parametrize(("make", "problem"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_bad_input_is_one_sentence_and_nothing_is_written(
    make: Callable[[Path], Source], problem: str, store: Store, tmp_path: Path
) -> None:
    source = make(tmp_path)
    with pytest.raises(DataError, match=problem) as caught:
        prepare(store, "a", source, progress=False)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert store.keys("") == []


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"size": 0}, "size"),
        ({"pad_to": -1}, "pad_to"),
        ({"size": 32, "pad_to": 16}, "pad_to"),
        ({"channels": 2}, "channels"),
        ({"max_images": 0}, "max_images"),
        ({"part": (0.7, 0.7)}, "part"),
        ({"part": (0.0, 1.5)}, "part"),
        ({"on_broken": "ignore"}, "on_broken"),
    ],
)
def test_an_impossible_option_is_refused_before_any_work(store: Store, options: dict[str, Any], key: str) -> None:
    with pytest.raises(SettingsError, match=f"^{key}: must"):
        prepare(store, "a", Folder("/nowhere"), progress=False, **options)


def test_mlxtend_missing_names_the_extra(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install 'sigmasweep\[demo\]'"):
        prepare(store, "a", Mnist5k(), progress=False)


def test_an_empty_part_is_refused(store: Store, tmp_path: Path) -> None:
    source = Folder(str(files.class_folder(tmp_path / "set", noise(2, 1, 4, 4), [0, 1])))
    with pytest.raises(DataError, match="no image of its 2 is in the part"):
        prepare(store, "a", source, part=(0.9, 1.0), progress=False)


def test_a_folder_that_cannot_hold_the_images_is_told_with_the_mend(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Folder(str(files.class_folder(tmp_path / "set", noise(2, 1, 4, 4), [0, 1])))
    monkeypatch.setattr("tempfile.tempdir", "/dev/full/nowhere")
    with pytest.raises(DataError, match="set TMPDIR"):
        prepare(store, "a", source, progress=False)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_told_with_the_mend() -> None:
    full = pytest.raises(DataError, match=r"No space left on device.*set TMPDIR")
    with full, Spool(Path("/dev/full")) as spool:
        spool.add(Item("a", noise(1, 4, 4), 0))
        spool.flush()
