"""Freeing space: what is referenced, young, or still needed stays, and what was given up can be had again."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from jobs import cli
from jobs.prune import dry_run, main
from pipeline.config.upkeep import PruneJob
from pipeline.data.features import KeptMoments, commit_moments, committed_features
from pipeline.data.samples import chunk_key, committed_chunks, read_counts, read_samples
from pipeline.data.store import Store
from pipeline.engine.generation import PointResult, generate
from pipeline.engine.prune import Retention, prunable
from pipeline.engine.retention import retain
from pipeline.engine.work import Actors, Seeds
from pipeline.errors import ImagesNotKeptError
from pipeline.training.snapshot import snapshot_moments
from tests.engine.tiny import EXECUTION, classifier_plan, contents, tiny_points, tiny_store

HERE = Actors(num_actors=0)
SEEDS = Seeds(0, 64)  # four chunks
PLAN = classifier_plan()


def run(store: Store, steps: tuple[int, ...] = (3,), pictures: int | None = None, seeds: Seeds = SEEDS,
        measured: bool = True) -> list[PointResult]:  # fmt: skip
    plans = [PLAN] if measured else []
    return generate(store, tiny_points(1, steps), seeds, EXECUTION, HERE, plans, progress=False, pictures=pictures)


def age(store: Store, hours: float, prefix: str = "") -> None:
    """Makes files older."""
    then = time.time() - 3600 * hours
    for file in store.files(prefix):
        os.utime(Path(store.uri) / file.key, (then, then))


def gone(store: Store, **retention: object) -> list[str]:
    """Prunes; what went, sorted."""
    found = list(prunable(store, Retention(**retention)))  # type: ignore[arg-type]
    for removal in found:
        removal.carry_out(store)
    return sorted(removal.key for removal in found)


def test_litter_goes_when_it_is_old_and_every_commit_stays(tmp_path: Path) -> None:
    store = tiny_store(tmp_path, 1)
    run(store)
    whole, before = contents(store), set(store.keys(""))
    attempt = "0123456789ab"
    chunk = next(key for key in store.committed("samples") if "chunk" in key)
    litter = [
        f"{chunk}-{attempt}-images.parquet",  # another attempt at a chunk that was committed
        f"samples/{'f' * 32}/chunk-000009-{attempt}-images.parquet",  # one that never was
        f"checkpoints/net0-00000000/states/000000002000-{attempt}-raw.safetensors",
        f"samples/{'f' * 32}/.chunk-000009.json.{attempt}",  # a file that was being written
    ]
    for key in litter:
        store.write(key, b"cut off")
    store.write("leases/somebody", b"not of a commit, and none of our business")
    assert gone(store) == []  # a running job may still commit them
    age(store, 25)
    assert gone(store) == sorted(litter)
    assert set(store.keys("")) == before | {"leases/somebody"}
    assert contents(store) == whole


def test_what_was_set_aside_goes_or_stays_as_asked(tmp_path: Path) -> None:
    store = tiny_store(tmp_path, 1)
    [result] = run(store)
    store.set_aside(chunk_key(result.samples_digest, 1))
    age(store, 25)
    assert gone(store, damaged=False) == []
    assert len(gone(store)) == 2  # the manifest that was set aside, and the images it names
    assert store.committed("damaged") == []


def test_snapshots_go_unless_they_are_new_or_samples_are_made_of_them(tmp_path: Path) -> None:
    store, at = tiny_store(tmp_path, 4), "checkpoints/net0-00000000/snapshots"
    for number in range(1, 4):  # the weights of the other networks, as if they were later ones of the first
        other = store.manifest(f"checkpoints/net{number}-{number:08x}/snapshots/000000001000")
        store.commit(
            f"{at}/00000000{number + 1}000", {"raw.safetensors": store.blob(other, "raw.safetensors")}, other.meta
        )
    run(store)  # of the last one
    weights = store.manifest(f"{at}/000000002000").blobs["raw.safetensors"].sha256
    store.commit(f"samples/{'e' * 32}/setting", {}, {"key": {"networks": {"main": {"weights": weights}}}})
    assert gone(store, snapshots=1) == []
    age(store, 25)
    assert gone(store) == []
    gone(store, snapshots=1)
    assert snapshot_moments(store, "net0-00000000") == [2000, 4000]


def test_images_go_where_features_are_and_the_first_ones_stay(tmp_path: Path) -> None:
    store = tiny_store(tmp_path, 1)
    [result] = run(store)
    run(store, (5,), measured=False)  # without features: its images stay
    before = read_samples(store, result.samples_digest, 0, 64)
    space = sum(file.size for file in store.files("samples"))
    age(store, 25)
    assert gone(store, keep="features", pictures=10) == [chunk_key(result.samples_digest, i) for i in (1, 2, 3)]
    assert sum(file.size for file in store.files("samples")) < space
    assert gone(store, keep="features", pictures=10) == []
    shown = read_samples(store, result.samples_digest, 0, 16)
    assert np.array_equal(shown.images, before.images[:16])
    with pytest.raises(ImagesNotKeptError, match="its images were not kept"):
        read_samples(store, result.samples_digest, 16, 1)
    counts = read_counts(store, result.samples_digest, 2)
    assert (set(counts.nfe), counts.has_images) == ({5}, False)


def test_what_was_given_up_is_only_computed_again_by_who_needs_it_and_is_the_same(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store = tiny_store(tmp_path, 1)
    [result] = run(store)
    whole = contents(store)
    assert retain(store, [result.samples_digest], "features", 0, 16) > 0
    [measured] = run(store, pictures=16)
    assert (measured.generated, measured.reused, measured.nfe) == (0, 64, 5.0)
    assert capfd.readouterr().err == ""
    [wanted] = run(store)
    assert wanted.generated == 48
    assert "the images of 3 chunks were not kept, and are computed again" in capfd.readouterr().err
    assert contents(store) == whole


def test_another_extractor_has_the_images_computed_again(tmp_path: Path) -> None:
    store = tiny_store(tmp_path, 1)
    [result] = run(store)
    whole = contents(store)
    retain(store, [result.samples_digest], "features", 0, 0)
    other = classifier_plan(1)
    [again] = generate(store, tiny_points(1, (3,)), SEEDS, EXECUTION, HERE, [other], progress=False, pictures=0)
    assert again.generated == 64
    assert contents(store) == whole
    assert committed_features(store, result.samples_digest, other.digest) == {0, 1, 2, 3}


def test_features_go_only_where_moments_of_their_seeds_are(tmp_path: Path) -> None:
    store = tiny_store(tmp_path, 1)
    [result] = run(store, seeds=Seeds(0, 96))  # six chunks
    age(store, 25)
    assert not [key for key in gone(store, keep="moments") if key.startswith("features")]
    commit_moments(store, result.samples_digest, PLAN.digest, 0, 64, KeptMoments(b"moments", {"accuracy": None}))
    gone(store, keep="moments")
    assert committed_features(store, result.samples_digest, PLAN.digest) == {4, 5}
    [again] = run(store, pictures=0)  # its 64 seeds are those of the moments
    assert again.generated == 0
    assert committed_chunks(store, result.samples_digest) == {0, 1, 2, 3, 4, 5}


def test_features_of_seeds_that_moments_leave_out_stay(tmp_path: Path) -> None:
    """Moments of seeds 8 to 39 cover chunk 1 whole, of chunks 0 and 2 one half each: the other halves are needed."""
    store = tiny_store(tmp_path, 1)
    [result] = run(store)
    names = result.samples_digest, PLAN.digest
    commit_moments(store, *names, 8, 32, KeptMoments(b"moments", {"accuracy": None}))
    assert retain(store, [result.samples_digest], "moments", 0, 0) > 0
    assert committed_features(store, *names) == {0, 2, 3}
    commit_moments(store, *names, 40, 8, KeptMoments(b"moments", {"accuracy": None}))  # the rest of chunk 2
    retain(store, [result.samples_digest], "moments", 0, 0)
    assert committed_features(store, *names) == {0, 3}


def test_the_command_says_what_would_go_and_frees_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tiny_store(tmp_path / "store", 1)
    [result] = run(store)
    age(store, 25)
    settings = PruneJob(store=store.uri, keep="features", pictures=0)
    [told] = dry_run(settings)
    assert told.startswith("would go: images: 4 (0.0 MB)")
    assert all(read_counts(store, result.samples_digest, index).has_images for index in range(4))
    main(settings)
    assert capsys.readouterr().out.startswith("images: 4")
    config = tmp_path / "prune.yaml"
    config.write_text(f"store: {store.uri}\nolder_than_hours: 0.5\n")
    assert cli.run(PruneJob, main, None, dry_run, [str(config)]) == 2
    assert "older_than_hours" in capsys.readouterr().err
