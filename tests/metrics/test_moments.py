"""Moments against numpy's covariance, their addition, and the files they travel in."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import DataError
from pipeline.metrics.moments import Gaussian, Moments
from pipeline.metrics.reference_file import read_npz, write_npz


def features(num: int, d: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (random.normal(size=(num, d)) @ random.normal(size=(d, d)) + 3).astype(np.float32)


def test_the_gaussian_is_numpys_mean_and_unbiased_covariance() -> None:
    x = features(200, 12)
    gaussian = Moments.of(torch.from_numpy(x)).gaussian()
    np.testing.assert_allclose(gaussian.mean, x.astype(np.float64).mean(axis=0), rtol=1e-13)
    expected = np.cov(x.astype(np.float64), rowvar=False)
    np.testing.assert_allclose(gaussian.covariance, expected, rtol=1e-11, atol=1e-11 * expected.max())
    assert gaussian.count == 200
    assert (gaussian.covariance == gaussian.covariance.T).all()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 99), max_size=4), st.integers(0, 9))
def test_moments_of_parts_add_up_to_the_moments_of_the_whole(cuts: list[int], seed: int) -> None:
    x = features(100, 5, seed)
    parts = [part for part in np.split(x, sorted(cuts)) if len(part)]
    total = Moments.of(parts[0])
    for part in parts[1:]:
        total = total + Moments.of(part)
    whole = Moments.of(x)
    assert total.count == whole.count == 100
    np.testing.assert_allclose(total.sum, whole.sum, rtol=1e-12, atol=1e-10)
    np.testing.assert_allclose(total.outer, whole.outer, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("d", [255, 256, 257, 600])
def test_wide_moments_are_the_whole_product(d: int) -> None:
    """They are computed in blocks, and only on one side of the diagonal."""
    x = features(40, d)
    outer, wide = Moments.of(x).outer, x.astype(np.float64)
    np.testing.assert_allclose(outer, np.einsum("ni,nj->ij", wide, wide), rtol=1e-12, atol=1e-12 * outer.max())


def test_sums_are_taken_in_float64() -> None:
    x = np.full((10_000, 1), 16_777_217.0)  # 2^24 + 1, which float32 does not have
    assert Moments.of(x).sum[0] == 167_772_170_000.0
    half = torch.full((70_000, 1), 1.0, dtype=torch.float16)  # their sum is beyond float16
    assert Moments.of(half).sum[0] == 70_000.0


def test_read_only_features_are_taken() -> None:
    x = features(3, 2)
    x.flags.writeable = False
    assert Moments.of(x).count == 3


def test_fewer_than_two_images_have_no_covariance() -> None:
    with pytest.raises(ValueError, match="at least 2 images"):
        Moments.of(features(1, 3)).gaussian()


@pytest.mark.parametrize("wrong", [torch.zeros(3), torch.zeros(2, 2, dtype=torch.uint8), torch.zeros(1, 2, 3)])
def test_what_is_no_float_matrix_is_refused(wrong: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="features"):
        Moments.of(wrong)


def test_moments_of_unlike_features_are_not_added() -> None:
    with pytest.raises(ValueError, match="cannot be added"):
        Moments.of(features(4, 3)) + Moments.of(features(4, 2))


def test_bytes_give_back_the_same_moments() -> None:
    moments = Moments.of(features(50, 7))
    again = Moments.from_bytes(moments.to_bytes())
    assert again.count == 50
    assert again.sum.tobytes() == moments.sum.tobytes()
    assert again.outer.tobytes() == moments.outer.tobytes()
    assert again.to_bytes() == moments.to_bytes()


@pytest.mark.parametrize("data", [b"", b"no tensors", Moments.of(features(4, 3)).to_bytes()[:-8]])
def test_damaged_bytes_are_a_data_error(data: bytes) -> None:
    with pytest.raises(DataError, match=r"chunk-7: does not hold the moments"):
        Moments.from_bytes(data, "chunk-7")


@pytest.mark.parametrize("entry", [np.nan, np.inf])
def test_a_gaussian_of_unbounded_numbers_is_refused(entry: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        Gaussian(np.array([0.0, entry]), np.eye(2))


def test_reference_statistics_are_written_as_other_programs_read_them(tmp_path) -> None:
    gaussian = Moments.of(features(50, 7)).gaussian()
    write_npz(tmp_path / "ref.npz", gaussian)
    with np.load(tmp_path / "ref.npz") as arrays:
        assert sorted(arrays.files) == ["mu", "sigma"]
        assert arrays["mu"].dtype == arrays["sigma"].dtype == np.float64
    again = read_npz(tmp_path / "ref.npz")
    assert again.count is None
    assert (again.mean == gaussian.mean).all()
    assert (again.covariance == gaussian.covariance).all()


BAD_FILES = {
    "not there": lambda path: None,
    "cannot be read as": lambda path: path.write_bytes(b"PK\x03\x04 and then nothing"),
    "no arrays `mu` and `sigma`": lambda path: np.savez(path, mean=np.zeros(2)),
    "cannot be read as an npz": lambda path: np.savez(path, mu=np.array([{}]), sigma=np.eye(1)),  # a pickle inside
    "does not fit the mean": lambda path: np.savez(path, mu=np.zeros(3), sigma=np.eye(2)),
    "must be finite": lambda path: np.savez(path, mu=np.zeros(2), sigma=np.full((2, 2), np.nan)),
    "not symmetric": lambda path: np.savez(path, mu=np.zeros(2), sigma=np.array([[1.0, 0.5], [0.0, 1.0]])),
    "is not numbers": lambda path: np.savez(path, mu=np.array(["a"]), sigma=np.eye(1)),
    "npz file with `mu`": lambda path: np.save(path.open("wb"), np.zeros(2)),  # one array, not a zip
}


@pytest.mark.parametrize("words", BAD_FILES)
def test_a_bad_reference_file_is_one_sentence(words: str, tmp_path) -> None:
    path = tmp_path / "ref.npz"
    BAD_FILES[words](path)
    with pytest.raises(DataError, match=words) as caught:
        read_npz(path)
    assert caught.value.where == str(path)
    assert "\n" not in str(caught.value)


def test_a_truncated_reference_file_is_a_data_error(tmp_path) -> None:
    path = tmp_path / "ref.npz"
    write_npz(path, Moments.of(features(50, 7)).gaussian())
    whole = path.read_bytes()
    for size in range(0, len(whole), 37):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError):
            read_npz(path)
