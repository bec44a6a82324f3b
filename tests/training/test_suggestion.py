"""What data suggest, against plain formulas and what follows from a change of scale."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from pipeline.data.dataset import Dataset, commit_dataset
from pipeline.data.prepare import prepare
from pipeline.data.sources import ParquetImages
from pipeline.data.sources.base import Item
from pipeline.data.store import Store
from pipeline.errors import DataError
from pipeline.metrics.scores import neighbours
from pipeline.training.suggestion import spread_images, suggestions


def put(store: Store, name: str, pixels: np.ndarray) -> Dataset:
    commit_dataset(store, name, (Item(str(i), image, None) for i, image in enumerate(pixels)), say=lambda _: None)
    return Dataset.open(store, name)


def pixels(n: int = 90, contrast: float = 1.0) -> np.ndarray:
    smooth = np.random.default_rng(0).integers(0, 128, (n, 1, 4, 4)).repeat(2, axis=2).repeat(2, axis=3)
    return (64 + contrast * (smooth - 64)).round().astype(np.uint8)


def found(dataset: Dataset, **settings: int) -> dict[str, float]:
    return {item.key: item.value for item in suggestions(dataset, **settings)}


def test_they_are_the_standard_deviation_edms_choice_at_that_scale_and_the_farthest_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "BLOCK", 20)
    dataset = put(Store(tmp_path), "a", pixels())
    x = pixels().astype(np.float64) / 127.5 - 1
    values = found(dataset)
    assert values["model.sigma_data"] == pytest.approx(x.std(), rel=1e-6)
    assert values["training.noise.P_mean"] == pytest.approx(-1.2 + math.log(x.std() / 0.5), rel=1e-6)
    assert values["training.noise.P_std"] == 1.2
    assert values["sampler.timesteps.sigma_max"] == pytest.approx(pdist(x.reshape(90, -1)).max(), rel=1e-5)


def test_half_the_contrast_is_half_the_noise() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        whole, half = (found(put(store, f"c{contrast}", pixels(contrast=contrast))) for contrast in (1.0, 0.5))
    for key in ("model.sigma_data", "sampler.timesteps.sigma_max"):
        assert half[key] == pytest.approx(whole[key] / 2, rel=0.02)
    shift = whole["training.noise.P_mean"] - half["training.noise.P_mean"]
    assert shift == pytest.approx(math.log(2), abs=0.02)


def test_few_images_are_spread_over_the_data_set(tmp_path: Path) -> None:
    dataset = put(Store(tmp_path), "a", pixels())
    some = spread_images(dataset, 9)
    np.testing.assert_array_equal(some, pixels()[::10].astype(np.float32) / np.float32(127.5) - 1)


def test_data_that_say_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="suggests nothing"):
        suggestions(put(Store(tmp_path), "a", np.full((5, 1, 4, 4), 7, np.uint8)))


@pytest.mark.skipif("SIGMASWEEP_DATA" not in os.environ, reason="SIGMASWEEP_DATA does not say where CIFAR-10 is")
def test_cifar10_has_nearly_the_standard_deviation_that_edm_takes_it_to_have(tmp_path: Path) -> None:
    """Published: means 0.4914 0.4822 0.4465, deviations 0.2470 0.2435 0.2616 in [0, 1]."""
    store = Store(tmp_path)
    source = ParquetImages(path=str(Path(os.environ["SIGMASWEEP_DATA"]) / "cifar10" / "test-*.parquet"))
    prepare(store, "cifar10", source)
    values = found(Dataset.open(store, "cifar10"), most_images=1000)
    assert values["model.sigma_data"] == pytest.approx(0.503, abs=0.005)
    assert values["training.noise.P_mean"] == pytest.approx(-1.2, abs=0.02)
    assert 70 < values["sampler.timesteps.sigma_max"] < 111  # 2 sqrt(3072) is from black to white
