"""A data set in the store: what goes in comes out, by index, and damage is noticed."""

import pickle
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.data import dataset as module
from pipeline.data.dataset import Dataset, commit_dataset
from pipeline.data.sources import Item, array_items
from pipeline.data.store import Store
from pipeline.errors import DataError, StoreError
from tests.data.files import noise
from tests.object_server import ObjectServer


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def _commit(store: Store, name: str = "toy", num: int = 2500, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """More images than are held in memory at once."""
    pixels, labels = noise(num, 3, 4, 5, seed=seed), np.arange(num) % 7
    commit_dataset(store, name, array_items(pixels, labels))
    return pixels, labels


def test_images_and_labels_come_back_by_index(store: Store) -> None:
    pixels, labels = _commit(store)
    dataset = Dataset.open(store, "toy")
    assert len(dataset) == 2500
    assert dataset.info.shape == (3, 4, 5)
    for indices in (np.arange(2500), np.array([2499, 0, 0, 1024, 1023]), np.array([], np.int64)):
        np.testing.assert_array_equal(dataset.images(indices), pixels[indices])
        np.testing.assert_array_equal(dataset.labels(indices), labels[indices])
    assert dataset.images(np.array([1])).dtype == np.uint8
    assert dataset.labels(np.array([1])).dtype == np.int64


def test_the_images_that_are_given_are_copies_that_may_be_written(store: Store) -> None:
    pixels, _ = _commit(store)
    dataset = Dataset.open(store, "toy")
    dataset.images(np.array([0]))[:] = 0
    np.testing.assert_array_equal(dataset.images(np.array([0])), pixels[:1])


@pytest.mark.parametrize("indices", [[-1], [2500], [0, 1 << 40]])
def test_an_index_out_of_range_is_an_error_and_does_not_wrap(store: Store, indices: list[int]) -> None:
    _commit(store)
    dataset = Dataset.open(store, "toy")
    for read in (dataset.images, dataset.labels):
        with pytest.raises(IndexError):
            read(np.array(indices))


def test_the_statistics_are_those_of_the_images_in_the_models_range(store: Store) -> None:
    pixels, _ = _commit(store)
    info = Dataset.open(store, "toy").info
    x = pixels.astype(np.float64) / 127.5 - 1
    np.testing.assert_allclose(info.mean, x.mean(axis=(0, 2, 3)), rtol=0, atol=1e-12)
    assert info.std == pytest.approx(x.std(), abs=1e-12)


def test_the_file_is_plain_arrow_that_others_can_read(store: Store) -> None:
    pixels, labels = _commit(store)
    path = store.local_path(store.manifest("datasets/toy"), "images.arrow")
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    assert table.schema.names == ["image", "label"]
    assert table.column("image")[7].as_py() == pixels[7].tobytes()
    assert table.column("label").to_pylist() == labels.tolist()


def test_the_digest_is_of_the_content_alone(store: Store, tmp_path: Path) -> None:
    pixels, labels = noise(20, 1, 4, 4), np.arange(20) % 2

    def made(name: str, pixels: np.ndarray, labels: np.ndarray | None, names: tuple[str, ...] = ()) -> str:
        return commit_dataset(store, name, array_items(pixels, labels), names).digest

    first = made("a", pixels, labels)
    other = pixels.copy()
    other[3, 0, 0, 0] ^= 1
    assert made("b", pixels, labels, ("cat", "dog")) == first
    assert commit_dataset(Store(tmp_path / "other"), "c", array_items(pixels, labels)).digest == first
    different = [
        made("d", other, labels),
        made("e", pixels, 1 - labels),
        made("f", pixels, None),
        made("g", pixels.reshape(20, 1, 2, 8), labels),
    ]
    assert len({first, *different}) == 5


def test_the_digest_is_what_it_was_in_the_first_version(store: Store) -> None:
    pixels = (np.arange(2 * 3 * 4 * 4) % 256).astype(np.uint8).reshape(2, 3, 4, 4)
    info = commit_dataset(store, "golden", array_items(pixels, np.array([1, 0])))
    assert info.digest == "3e3a220e127daab619b29686d9c7cdb2"


def test_a_data_set_survives_pickling_and_opens_its_file_anew(store: Store) -> None:
    pixels, _ = _commit(store)
    dataset = Dataset.open(store, "toy")
    data = pickle.dumps(dataset)
    assert len(data) < 5000
    copy = pickle.loads(data)
    assert copy.info == dataset.info
    np.testing.assert_array_equal(copy.images(np.array([5, 6])), pixels[5:7])


def test_unlabelled_images_have_the_label_minus_one_and_no_classes(store: Store) -> None:
    info = commit_dataset(store, "toy", array_items(noise(3, 1, 2, 2)))
    assert (info.num_classes, info.class_names) == (0, ())
    assert Dataset.open(store, "toy").labels(np.arange(3)).tolist() == [-1, -1, -1]


def test_a_class_with_a_name_needs_no_image(store: Store) -> None:
    info = commit_dataset(store, "toy", array_items(noise(2, 1, 2, 2), np.array([0, 2])), ("a", "b", "c", "d"))
    assert (info.num_classes, info.class_names) == (4, ("a", "b", "c", "d"))


def test_the_same_again_is_said_and_changes_nothing(store: Store) -> None:
    _commit(store)
    before = {key: store.read(key) for key in store.keys("")}
    said: list[str] = []
    info = commit_dataset(store, "toy", array_items(noise(2500, 3, 4, 5), np.arange(2500) % 7), say=said.append)
    assert info == Dataset.open(store, "toy").info
    assert {key: store.read(key) for key in store.keys("")} == before
    assert len(said) == 1
    assert "nothing to do" in said[0]


def test_other_content_under_the_same_name_is_refused(store: Store) -> None:
    _commit(store)
    before = store.keys("")
    with pytest.raises(DataError, match=r"'toy' exists with other content \(digest \w+, new \w+\): choose another"):
        _commit(store, seed=1)
    assert store.keys("") == before


def test_a_data_set_whose_file_is_lost_is_written_again(store: Store) -> None:
    pixels, _ = _commit(store)
    store.delete(store.manifest("datasets/toy").blobs["images.arrow"].key)
    with pytest.raises(StoreError, match="missing"):
        Dataset.open(store, "toy")
    _commit(store)
    np.testing.assert_array_equal(Dataset.open(store, "toy").images(np.arange(2500)), pixels)


def test_a_missing_data_set_is_an_error_that_names_those_that_are_there(store: Store) -> None:
    with pytest.raises(DataError, match=r"no data set 'x' in the store \(there are: none\)"):
        Dataset.open(store, "x")
    _commit(store, "b")
    _commit(store, "a")
    with pytest.raises(DataError, match=r"\(there are: a, b\): make it with jobs.prepare"):
        Dataset.open(store, "x")


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b", "x" * 101])
def test_a_name_that_could_leave_its_folder_is_refused(store: Store, name: str) -> None:
    for use in (lambda: Dataset.open(store, name), lambda: commit_dataset(store, name, [])):
        with pytest.raises(DataError, match="no name for a data set"):
            use()


def test_verify_notices_one_flipped_byte_of_the_file(store: Store) -> None:
    _commit(store)
    dataset = Dataset.open(store, "toy")
    dataset.verify()
    path = store.local_path(store.manifest("datasets/toy"), "images.arrow")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="damaged"):
        Dataset.open(store, "toy").verify()


def test_a_file_that_is_no_arrow_or_not_the_manifests_is_refused(store: Store) -> None:
    _commit(store)
    manifest = store.manifest("datasets/toy")
    path = store.local_path(manifest, "images.arrow")
    data = path.read_bytes()
    path.write_bytes(bytes(len(data)))
    with pytest.raises(DataError, match="not a readable data set"):
        Dataset.open(store, "toy")
    info = {**asdict(Dataset.open(_with(store, data), "again").info), "num_images": 2499}
    store.commit("datasets/wrong", {"images.arrow": data}, info)
    with pytest.raises(DataError, match="does not hold what its manifest says"):
        Dataset.open(store, "wrong")
    store.commit("datasets/other", {"images.arrow": data}, {"what": "ever"})
    with pytest.raises(DataError, match="another version"):
        Dataset.open(store, "other")


def _with(store: Store, data: bytes) -> Store:
    meta = {**store.manifest("datasets/toy").meta, "name": "again"}
    store.commit("datasets/again", {"images.arrow": data}, meta)
    return store


@pytest.mark.parametrize(
    ("items", "problem"),
    [
        ([], "no image"),
        ([Item("a", noise(1, 4, 4), 0), Item("b", noise(1, 4, 5), 0)], "b: is 4 x 5 with 1 channel where the first"),
        ([Item("a", noise(1, 4, 4), 0), Item("b", noise(3, 4, 4), 0)], "b: is 4 x 4 with 3 channels where the first"),
        ([Item("a", noise(2, 4, 4), 0)], "a: is not decoded"),
        ([Item("a", b"encoded", 0)], "a: is not decoded"),
        ([Item("a", noise(1, 4, 4).astype(np.float32), 0)], "a: is not decoded"),  # type: ignore[arg-type]
        ([Item("a", noise(1, 4, 4), 0), Item("b", noise(1, 4, 4))], "1 of 2 images have no label"),
        ([Item("a", noise(1, 4, 4), 1), Item("b", noise(1, 4, 4), 2)], "the largest is 2 and no image has 0"),
        ([Item("a", noise(1, 4, 4), 1 << 40)], "no image has 0"),
        ([Item("a", noise(1, 4, 4), -5)], r"0 to K-1 \(got -5\)"),
    ],
)
def test_what_is_no_data_set_is_refused_and_leaves_nothing(store: Store, items: list[Item], problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        commit_dataset(store, "toy", items)
    assert store.keys("") == []


def test_random_batches_are_read_fast(store: Store) -> None:
    """Half a million images of 32x32x3 a second on a quiet core; a tenth of that is asked of a busy one."""
    commit_dataset(store, "toy", array_items(noise(5000, 3, 32, 32)))
    dataset = Dataset.open(store, "toy")
    batches = np.random.default_rng(0).integers(0, 5000, (100, 512))
    started = time.perf_counter()
    for batch in batches:
        dataset.images(batch)
    assert batches.size / (time.perf_counter() - started) > 50_000


@pytest.mark.parametrize("seed", [0, 1])
def test_of_two_jobs_that_give_a_name_at_once_the_second_keeps_what_the_first_made_of_it(
    store: Store, seed: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = module._write_arrow

    def meanwhile(*arguments: object) -> None:
        """The other job is faster, after this one has seen that the name is free."""
        monkeypatch.undo()
        _commit(store, num=40)
        write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_write_arrow", meanwhile)
    if seed == 0:
        _commit(store, num=40, seed=seed)
        assert "is there already with the same content" in capsys.readouterr().out
    else:
        with pytest.raises(DataError, match=r"exists with other content .* choose another name"):
            _commit(store, num=40, seed=seed)
    np.testing.assert_array_equal(Dataset.open(store, "toy").images(np.arange(40)), noise(40, 3, 4, 5))
    assert len(store.keys("datasets")) == 2


def test_a_data_set_on_object_storage_is_mapped_from_a_copy_that_is_fetched_again_when_it_is_damaged(
    s3: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    store = s3.store()
    pixels, _ = _commit(store, num=40)
    opened = Dataset.open(store, "toy")
    opened.verify()
    np.testing.assert_array_equal(opened.images(np.arange(40)), pixels)
    [copy] = (tmp_path / ".cache/sigmasweep/blobs").iterdir()
    whole = copy.read_bytes()
    copy.write_bytes(whole[:-9])
    assert len(Dataset.open(store, "toy")) == 40
    assert copy.read_bytes() == whole
    place = whole.index(pixels[0].tobytes())
    copy.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    opened = Dataset.open(store, "toy")
    opened.verify()
    np.testing.assert_array_equal(opened.images(np.arange(40)), pixels)
    assert copy.read_bytes() == whole
