from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.training.batches import Batch, Batches, seed_generators
from pipeline.training.place import Place
from tests.training.toys import BATCH, make_dataset, make_settings, store_at

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> Batches:
    return Batches(make_dataset(store_at(tmp_path_factory.mktemp("data"))), make_settings(microbatch=5), CPU)


def _joined(parts: list[Batch]) -> list[torch.Tensor]:
    return [torch.cat([part[index] for part in parts]) for index in range(1, 6)]  # of no augmentation


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_a_step_is_of_the_same_images_and_noise_for_any_number_of_workers(batches: Batches, world_size: int) -> None:
    shares = [Place(rank, world_size).share_of(32, 64) for rank in range(world_size)]
    assert [start for start, _ in shares[1:]] == [stop for _, stop in shares[:-1]]
    assert max(stop - start for start, stop in shares) - min(stop - start for start, stop in shares) <= 1
    spans = [span for share in shares for span in batches.spans(*share)]
    assert max(stop - start for start, stop in spans) <= 5
    for part, whole in zip(_joined([batches.make(*span) for span in spans]), batches.make(32, 64)[1:6], strict=True):
        assert torch.equal(part, whole)


def test_an_epoch_shows_every_image_once_with_its_label(tmp_path: Path) -> None:
    dataset = make_dataset(store_at(tmp_path))
    batch = Batches(dataset, make_settings(), CPU).make(100, 200)
    everything = np.arange(100)
    pixels = ((batch.y + 1) * 127.5).round().to(torch.uint8).flatten(1).numpy()
    known = dict(zip(map(bytes, dataset.images(everything)), dataset.labels(everything).tolist(), strict=True))
    assert batch.labels is not None
    assert dict(zip(map(bytes, pixels), batch.labels.tolist(), strict=True)) == known
    assert batch.y.min() >= -1
    assert batch.y.max() <= 1


def test_noise_is_standard_normal_and_independent_of_the_quantiles(batches: Batches) -> None:
    batch = batches.make(0, 4000)
    assert batch.n.dtype == torch.float32
    assert abs(batch.n.mean().item()) < 0.01
    assert abs(batch.n.var().item() - 1) < 0.01
    assert abs(batch.u.mean().item() - 0.5) < 0.02
    joint = torch.stack([batch.u, batch.n[:, 0, 0, 0].double(), batch.n[:, 0, 0, 1].double()])
    assert (torch.corrcoef(joint) - torch.eye(3)).abs().max() < 0.06


def test_half_of_the_images_are_flipped_when_asked(tmp_path: Path) -> None:
    dataset = make_dataset(store_at(tmp_path))
    plain = Batches(dataset, make_settings(), CPU).make(0, 1000)
    flipped = Batches(dataset, make_settings(x_flip=True), CPU).make(0, 1000)
    same = (plain.y == flipped.y).flatten(1).all(1)
    mirrored = (plain.y.flip(3) == flipped.y).flatten(1).all(1)
    assert bool((same ^ mirrored).all())
    assert 430 < int(mirrored.sum()) < 570
    assert torch.equal(plain.n, flipped.n)


def test_labels_are_dropped_at_the_rate_asked_by_seed_and_position(tmp_path: Path) -> None:
    dataset, settings = make_dataset(store_at(tmp_path)), make_settings(label_dropout=0.2, microbatch=7)
    plain = Batches(dataset, make_settings(), CPU).make(0, 4000)
    whole = Batches(dataset, settings, CPU).make(0, 4000)
    assert plain.labels is not None
    assert whole.labels is not None
    dropped = whole.labels == -1
    assert abs(dropped.double().mean().item() - 0.2) < 0.03  # 4.7 deviations
    assert torch.equal(whole.labels[~dropped], plain.labels[~dropped])
    assert all(torch.equal(one, other) for one, other in zip(whole[1:5], plain[1:5], strict=True)), "nothing else moves"
    parts = [Batches(dataset, settings, CPU).make(first, first + 100).labels for first in (500, 600, 550)]
    assert torch.equal(torch.cat(parts[:2]), whole.labels[500:700])
    assert torch.equal(parts[2], whole.labels[550:650])
    # No image is always the one without: over epochs, flips and levels its draws are independent of all else.
    joint = torch.stack([dropped.double(), whole.u, plain.labels.double()])
    assert (torch.corrcoef(joint) - torch.eye(3)).abs().max() < 0.06
    other = Batches(dataset, make_settings(label_dropout=0.2, seed=1), CPU).make(0, 4000).labels
    assert 0.25 < ((other == -1) ^ dropped).double().mean().item() < 0.39  # 2 x 0.2 x 0.8 = 0.32
    assert bool((Batches(dataset, make_settings(label_dropout=1), CPU).make(0, 50).labels == -1).all())


def test_stratified_noise_levels_are_one_of_every_part_of_the_distribution_in_every_step(tmp_path: Path) -> None:
    dataset = make_dataset(store_at(tmp_path))
    settings = make_settings(batch_size=32, stratified=True, microbatch=5)
    batches = Batches(dataset, settings, CPU)
    for start in (0, 32, 320):
        u = batches.make(start, start + 32).u
        assert (u * 32).long().sort().values.tolist() == list(range(32))
        assert torch.equal(batches.make(start, start + 32).sigma, settings.noise.sigma(u))
    first = torch.stack([batches.make(start, start + 32).u for start in range(0, 32 * 50, 32)]) * 32 % 1
    assert abs(first.mean().item() - 0.5) < 0.03
    assert abs(first.var().item() - 1 / 12) < 0.01
    shares = [Place(rank, 3).share_of(32, 64) for rank in range(3)]
    parts = [batches.make(*span) for share in shares for span in batches.spans(*share)]
    for part, whole in zip(_joined(parts), batches.make(32, 64)[1:6], strict=True):
        assert torch.equal(part, whole)
    plain = Batches(dataset, make_settings(batch_size=32), CPU).make(0, 32)
    assert torch.equal(plain.n, batches.make(0, 32).n)
    assert torch.equal(plain.y, batches.make(0, 32).y)


def test_the_mean_over_a_stratified_step_varies_far_less(tmp_path: Path) -> None:
    """Of u itself: 1 / (12 B) for independent draws, 1 / (12 B^3) for one a stratum."""
    dataset = make_dataset(store_at(tmp_path))
    variances = []
    for stratified in (False, True):
        u = Batches(dataset, make_settings(stratified=stratified), CPU).make(0, 400 * BATCH).u.reshape(400, BATCH)
        variances.append(u.mean(1).var().item())
    assert variances[0] == pytest.approx(1 / (12 * BATCH), rel=0.3)
    assert variances[1] == pytest.approx(1 / (12 * BATCH**3), rel=0.3)


def test_data_without_classes_has_no_labels(tmp_path: Path) -> None:
    dataset = make_dataset(store_at(tmp_path), num_classes=0)
    assert Batches(dataset, make_settings(), CPU).make(0, 4).labels is None


def test_dropout_is_a_function_of_seed_and_position() -> None:
    def drawn(seed: int, position: int) -> float:
        seed_generators(seed, position)
        return torch.rand(1).item()

    assert drawn(0, 5) == drawn(0, 5)
    assert len({drawn(seed, position) for seed in range(5) for position in range(5)}) == 25
