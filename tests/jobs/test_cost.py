"""What a training would cost, what its images must be like, and what was published of it."""

from pathlib import Path
from typing import Any

import pytest

from jobs.cost import training_cost
from jobs.train import run_training
from pipeline.config.published import Published
from pipeline.config.trainings import TrainJob
from pipeline.digests import plain
from pipeline.errors import DataError
from pipeline.networks import MLP
from pipeline.reporting import MemoryReporter
from pipeline.training.snapshot import CheckpointRef, find_snapshot
from tests.training.toys import make_dataset, make_settings, store_at

PUBLISHED = Published(fid=1.79, nfe=35, source="a paper")
NETWORK = MLP(hidden=8, num_layers=0)


def job(**fields: Any) -> TrainJob:
    """Two steps on the toy data set, in this process."""
    settings = {"name": "toy", "dataset": "toy", "model": {"network": NETWORK}, "training": make_settings(2)}
    return TrainJob.model_validate({**settings, "workers": {"num_workers": 0}, **fields})


def test_a_training_carries_what_was_published_as_tags_and_may_ignore_labels(tmp_path: Path) -> None:
    store, reporter = store_at(tmp_path), MemoryReporter()
    make_dataset(store, num_classes=4)
    expects = {"size": 8, "channels": 1, "num_classes": 4}
    settings = job(published=PUBLISHED, expects=expects, model={"network": NETWORK, "conditional": False})
    result = run_training(store, settings, reporter)
    [run] = reporter.runs.values()
    assert run.all_tags["published_fid"] == "1.79"
    assert run.all_tags["published_nfe"] == "35"
    assert run.all_tags["published_source"] == "a paper"
    assert find_snapshot(store, CheckpointRef(result.training)).model.num_classes == 0


@pytest.mark.parametrize(
    ("expects", "problem"),
    [
        ({"size": 16, "channels": 1}, "has 1x8x8 images and not 1x16x16, as `expects` has it"),
        ({"size": 8, "channels": 3}, "has 1x8x8 images and not 3x8x8"),
        ({"size": 8, "channels": 1, "num_classes": 10}, "has 4 classes and not 10"),
    ],
)
def test_images_that_settings_were_not_written_for_are_refused(
    expects: dict[str, int], problem: str, tmp_path: Path
) -> None:
    store = store_at(tmp_path)
    make_dataset(store, num_classes=4)
    with pytest.raises(DataError) as raised:
        run_training(store, job(expects=expects), MemoryReporter())
    assert f"toy: {problem}" in str(raised.value)


def test_a_cost_is_told_for_images_that_are_not_there_yet(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    expects = {"size": 8, "channels": 1, "num_classes": 4}
    first, operations, note = training_cost(store, job(expects=expects))
    assert first == "1,208 parameters; 32 images in 2 steps"  # 72 + 40 + 520 + 576, as layers
    assert operations == "2.24e-06 GFLOP a forward pass of one image; about 2.15e+05 FLOP to train"
    assert note == "data set toy is not in the store yet: counted for the images that `expects` tells of"
    make_dataset(store, num_classes=4)
    assert training_cost(store, job(expects=expects)) == [first, operations]
    with pytest.raises(DataError, match="no data set 'other'"):
        training_cost(store, job(dataset="other"))


def test_a_cost_is_told_in_hours_where_the_network_was_timed(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    make_dataset(store, num_classes=4)
    model = {"network": plain(NETWORK), "resolution": 8}
    for number, (nfe, seconds) in enumerate([(10, 36_000.0), (10, 36_000.0), (20, 7_200.0)]):
        about = {"setting": {"networks": {"main": {"model": model}}}}
        timing = {"seconds_per_1000": seconds, "repeats": [], "batch_size": 1, "threads": 1, "device": "a stopwatch"}
        store.commit(f"timings/{number:032x}", {}, {"about": about, "timing": timing, "nfe": nfe})
    lines = training_cost(store, job())
    # 3.6 seconds an evaluation, three times that an image, 32 images
    assert lines[2].startswith("about 0.1 hours of one worker")
    assert len(training_cost(store, job(model={"network": MLP(hidden=16)}))) == 2, "that one was not timed"
