"""Samples in the store: the key, the file, views on whole chunks, damage."""

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.data.chunk_file import Chunk, decode
from pipeline.data.samples import (
    Execution,
    chunk_key,
    commit_chunk,
    commit_setting,
    committed_chunks,
    export_png,
    give_up_images,
    read_chunk,
    read_counts,
    read_samples,
    read_setting,
    samples_key,
    spans,
)
from pipeline.data.store import Store
from pipeline.diffusion.labels import Balanced, Fixed
from pipeline.diffusion.preconditioning import EDMPreconditioning, VEPreconditioning
from pipeline.diffusion.sampling import Sampler
from pipeline.diffusion.solvers import Euler
from pipeline.diffusion.stochasticity import Churn
from pipeline.diffusion.timesteps import EDMSteps
from pipeline.digests import digest
from pipeline.errors import ImagesNotKeptError, StoreError

C = 4
CPU = {"kind": "cpu", "architecture": "x86_64", "instructions": "AVX512"}
MODEL = {"network": {"kind": "mlp", "revision": 1}, "preconditioning": EDMPreconditioning(), "sigma_data": 0.5}


def key(**changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "weights_sha256": "ab" * 32,
        "model": MODEL,
        "sampler": Sampler(),
        "labels": Balanced(),
        "execution": Execution(batch_size=2, chunk_size=C),
        "device": CPU,
        "torch_version": "2.13",
    }
    return samples_key(**{**settings, **changes})


def chunk(index: int, channels: int = 3) -> Chunk:
    random = np.random.default_rng(index)
    seeds = np.arange(C) + index * C
    images = random.integers(0, 256, (C, channels, 5, 6), np.uint8)
    return Chunk(index, seeds, seeds % 3, images, np.full(C, 35) + index)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def filled(store: Store, indices: range | list[int]) -> str:
    commit_setting(store, key(), name="heun", checkpoint="digits@1000/raw")
    for index in indices:
        commit_chunk(store, key(), chunk(index))
    return digest(key())


CHANGES: dict[str, dict[str, Any]] = {
    "weights": {"weights_sha256": "cd" * 32},
    "sigma_data": {"model": {**MODEL, "sigma_data": 0.4}},
    "preconditioning": {"model": {**MODEL, "preconditioning": VEPreconditioning()}},
    "num_steps": {"sampler": Sampler(timesteps=EDMSteps(num_steps=17))},
    "sigma_max": {"sampler": Sampler(timesteps=EDMSteps(sigma_max=79.0))},
    "solver": {"sampler": Sampler(solver=Euler())},
    "stochasticity": {"sampler": Sampler(stochasticity=Churn())},
    "labels": {"labels": Fixed(label=1)},
    **{
        name: {"execution": dataclasses.replace(Execution(batch_size=2, chunk_size=C), **{name: value})}
        for name, value in {
            "precision": "bf16", "batch_size": 4, "chunk_size": 8, "threads": 2, "channels_last": False,
            "compile": True,
        }.items()
    },
    "ahead": {"execution": Execution(batch_size=2, chunk_size=C, compile="ahead")},
    "graphs": {"execution": Execution(batch_size=2, chunk_size=C, compile="reduce-overhead")},
    "instructions": {"device": {**CPU, "instructions": "AVX2"}},
    "gpu": {"device": {"kind": "cuda", "capability": "sm_90"}},
    "torch": {"torch_version": "2.14"},
    "namespace": {"namespace": "anew"},
}  # fmt: skip


def test_every_setting_that_determines_the_images_changes_the_name() -> None:
    names = {digest(key()), *(digest(key(**change)) for change in CHANGES.values())}
    assert len(names) == len(CHANGES) + 1


def test_a_new_revision_of_any_part_changes_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest(key(sampler=Sampler(stochasticity=Churn())))
    parts = (Sampler, type(Sampler().solver), EDMSteps, Churn, Balanced, EDMPreconditioning, type(Sampler().schedule))
    names = set()
    for part in parts:
        with monkeypatch.context() as patch:
            patch.setattr(part, "revision", 2)
            names.add(digest(key(sampler=Sampler(stochasticity=Churn()))))
    assert len(names | {before}) == len(parts) + 1


def test_how_a_number_was_typed_and_which_device_was_asked_for_do_not_change_the_name() -> None:
    assert digest(key(sampler=Sampler(timesteps=EDMSteps(sigma_max=80)))) == digest(key())
    assert digest(key(execution=Execution(batch_size=2, chunk_size=C, device="cpu"))) == digest(key())


def test_the_name_of_a_setting_stays_what_it_was() -> None:
    """If this fails, samples that were made before are not found any more."""
    assert digest(key()) == "dadaa8224579c6ed45611f4b7f49f41c"


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("image_format", ["png", "raw"])
def test_a_chunk_comes_back_as_it_was(store: Store, image_format: Any, channels: int) -> None:
    written = chunk(7, channels)
    commit_chunk(store, key(), written, image_format)
    found = read_chunk(store, digest(key()), 7)
    for column in ("seeds", "labels", "images", "nfe"):
        assert np.array_equal(getattr(found, column), getattr(written, column))
        assert getattr(found, column).dtype == getattr(written, column).dtype
    assert found.content_digest == written.content_digest
    assert np.array_equal(read_counts(store, digest(key()), 7).nfe, written.nfe)


def test_the_content_digest_knows_every_column() -> None:
    whole = chunk(0)
    images = whole.images.copy()
    images[3, 2, 4, 5] ^= 1
    others = [
        dataclasses.replace(whole, seeds=whole.seeds + 1),
        dataclasses.replace(whole, labels=whole.labels + 1),
        dataclasses.replace(whole, nfe=whole.nfe + 1),
        dataclasses.replace(whole, images=images),
    ]
    assert len({whole.content_digest, *(other.content_digest for other in others)}) == 5


def test_the_file_says_what_it_holds_to_any_reader_of_parquet(store: Store) -> None:
    manifest = commit_chunk(store, key(), chunk(2))
    table = pq.read_table(io.BytesIO(store.blob(manifest, "images.parquet")))
    about = json.loads(table.schema.metadata[b"sigmasweep"])
    assert (about["samples"], about["index"], about["shape"]) == (digest(key()), 2, [3, 5, 6])
    assert digest(about["setting"]) == digest(key())
    row = table.to_pylist()[1]
    assert (row["seed"], row["label"], row["nfe"], row["image"]["path"]) == (9, 0, 37, "000009.png")
    assert np.array_equal(
        np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))), chunk(2).images[1].transpose(1, 2, 0)
    )


def test_equal_chunks_are_equal_files() -> None:
    """No clock, host or duration is in them."""
    from pipeline.data.chunk_file import encode

    assert encode(chunk(1), "d", key(), "png") == encode(chunk(1), "d", key(), "png")


def test_large_images_come_back_in_their_order(store: Store) -> None:
    images = np.random.default_rng(0).integers(0, 256, (C, 3, 128, 160), np.uint8)
    written = dataclasses.replace(chunk(7), images=images)
    commit_chunk(store, key(), written)
    assert np.array_equal(read_chunk(store, digest(key()), 7).images, images)


def test_a_chunk_without_its_images_is_whole_but_for_them(store: Store) -> None:
    commit_setting(store, key(), name="heun", checkpoint="digits@1000/raw")
    written = chunk(7)
    commit_chunk(store, key(), written)
    assert give_up_images(store, digest(key()), 7) > 0
    assert give_up_images(store, digest(key()), 7) == 0
    with pytest.raises(ImagesNotKeptError, match="chunk-000007: its images were not kept"):
        read_chunk(store, digest(key()), 7)
    counts = read_counts(store, digest(key()), 7)
    assert np.array_equal(counts.nfe, written.nfe)
    assert not counts.has_images
    assert len([name for name in store.keys("samples") if name.endswith(".parquet")]) == 1
    commit_chunk(store, key(), written)
    assert read_chunk(store, digest(key()), 7).content_digest == written.content_digest


def test_what_is_there_is_found_by_one_listing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    name = filled(store, [0, 3, 12])
    listings = []
    monkeypatch.setattr(
        Store, "keys", lambda self, prefix, keys=Store.keys: (listings.append(prefix), keys(self, prefix))[1]
    )
    assert committed_chunks(store, name) == {0, 3, 12}
    assert listings == [f"samples/{name}"]
    assert committed_chunks(store, "none") == set()


def test_a_setting_is_told_once(store: Store) -> None:
    name = filled(store, [])
    commit_setting(store, key(), name="another name", checkpoint="digits@1000/raw")
    assert read_setting(store, name) == key()
    assert store.manifest(f"samples/{name}/setting").meta["name"] == "heun"


def test_any_range_of_seeds_is_a_view_on_whole_chunks(store: Store) -> None:
    name = filled(store, range(4))
    whole = np.concatenate([chunk(index).images for index in range(4)])
    for first, count in [(0, 16), (3, 1), (3, 2), (4, 4), (5, 10)]:
        found = read_samples(store, name, first, count)
        assert np.array_equal(found.seeds, np.arange(first, first + count))
        assert np.array_equal(found.images, whole[first : first + count])
        assert len(found.labels) == len(found.nfe) == count


def test_spans_cover_the_seeds_once() -> None:
    for first in range(9):
        for count in range(1, 12):
            covered = [index * C + i for index, part in spans(first, count, C) for i in range(C)[part]]
            assert covered == list(range(first, first + count))


def test_missing_samples_are_named(store: Store) -> None:
    name = filled(store, [0, 1])
    with pytest.raises(StoreError, match=r"chunk 2 \(seeds 8 to 11\) and 1 more chunks is not there"):
        read_samples(store, name, 0, 14)
    with pytest.raises(StoreError, match="is not in the store"):
        read_samples(store, "unknown", 0, 1)


def damage(store: Store, name: str, index: int) -> None:
    blob = store.manifest(chunk_key(name, index)).blobs["images.parquet"].key
    data = bytearray(store.read(blob))
    data[len(data) // 2] ^= 1
    store.write(blob, bytes(data))


def test_a_flipped_bit_is_found(store: Store) -> None:
    name = filled(store, range(2))
    damage(store, name, 1)
    assert len(read_chunk(store, name, 0)) == C
    for read in (read_chunk, read_counts):
        with pytest.raises(StoreError, match="damaged"):
            read(store, name, 1)


def test_another_chunk_under_its_name_is_found(store: Store) -> None:
    name = filled(store, range(2))
    store.write(f"{chunk_key(name, 1)}.json", store.read(f"{chunk_key(name, 0)}.json"))
    with pytest.raises(StoreError, match="which is not its own"):
        read_chunk(store, name, 1)


def test_a_file_damaged_in_any_place_is_one_clear_error(store: Store) -> None:
    """Even where nothing told that it was damaged: as a file of another writer may be."""
    data = store.blob(commit_chunk(store, key(), chunk(0, 1)), "images.parquet")
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        mutated = bytearray(data)
        for place in random.integers(0, len(data), 3):
            mutated[place] = random.integers(0, 256)
        try:
            decode(bytes(mutated), 0, "chunk")
        except StoreError:
            refused += 1
    assert refused > 50
    for end in (0, 1, 4, len(data) // 2, len(data) - 1):
        with pytest.raises(StoreError):
            decode(data[:end], 0, "chunk")


def test_images_are_exported_with_labels_in_the_form_of_edm(store: Store, tmp_path: Path) -> None:
    name = filled(store, range(2))
    assert export_png(store, name, 2, 5, tmp_path / "png") == 5
    assert json.loads((tmp_path / "png/dataset.json").read_text()) == {
        "labels": [[f"{seed:06d}.png", seed % 3] for seed in range(2, 7)]
    }
    image = np.asarray(Image.open(tmp_path / "png/000006.png"))
    assert np.array_equal(image, chunk(1).images[2].transpose(1, 2, 0))
    assert len(list((tmp_path / "png").glob("*.png"))) == 5


def test_a_folder_that_cannot_be_written_is_named(store: Store, tmp_path: Path) -> None:
    name = filled(store, range(1))
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        export_png(store, name, 0, 1, tmp_path / "file" / "folder")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 48}, "must divide chunk_size 256"),
        ({"threads": 0}, "threads"),
    ],
)
def test_impossible_executions_are_refused(settings: dict[str, int], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Execution(**settings)  # type: ignore[arg-type]
