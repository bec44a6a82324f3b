"""One image into the shape a data set asks for."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.data import transform
from pipeline.data.transform import BrokenImageError, to_pixels


def _encoded(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def _noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("BMP", {}), ("TIFF", {})])
def test_lossless_files_come_back_pixel_for_pixel(kind: str, options: dict[str, object]) -> None:
    pixels = _noise(6, 9, 3)
    np.testing.assert_array_equal(to_pixels(_encoded(pixels, kind, **options)), pixels.transpose(2, 0, 1))


def test_grey_files_have_one_channel_and_can_be_given_three() -> None:
    pixels = _noise(5, 4)
    np.testing.assert_array_equal(to_pixels(_encoded(pixels)), pixels[None])
    np.testing.assert_array_equal(to_pixels(_encoded(pixels), channels=3), np.stack([pixels] * 3))
    np.testing.assert_array_equal(to_pixels(pixels[None], channels=3), np.stack([pixels] * 3))


def test_grey_is_the_weighted_sum_of_itu_601() -> None:
    pixels = _noise(3, 8, 8)
    expected = np.tensordot([0.299, 0.587, 0.114], pixels.astype(float), axes=1)
    assert np.abs(to_pixels(pixels, channels=1)[0] - expected).max() <= 1


def test_transparency_is_dropped() -> None:
    pixels = _noise(4, 4, 4)
    np.testing.assert_array_equal(to_pixels(_encoded(pixels)), pixels[..., :3].transpose(2, 0, 1))


def test_the_crop_is_the_centre_square() -> None:
    pixels = _noise(1, 8, 12)
    np.testing.assert_array_equal(to_pixels(pixels, size=8), pixels[:, :, 2:10])
    np.testing.assert_array_equal(to_pixels(pixels.transpose(0, 2, 1), size=8), pixels.transpose(0, 2, 1)[:, 2:10])


def test_downsizing_is_antialiased_and_keeps_the_mean() -> None:
    stripes = np.zeros((1, 64, 96), np.uint8)
    stripes[..., ::2] = 200  # every second column: any method that only picks pixels gives 0 or 200
    small = to_pixels(stripes, size=16)
    assert small.shape == (1, 16, 16)
    assert np.abs(small.astype(int) - 100).max() <= 6  # the outermost columns ring a little


def test_crop_and_resize_equal_resize_and_crop() -> None:
    smooth = np.add.outer(np.arange(40), np.arange(60)).astype(np.uint8) * 2
    both = Image.fromarray(smooth).resize((30, 20), Image.Resampling.LANCZOS)
    expected = np.asarray(both)[:, 5:25]
    assert np.abs(to_pixels(smooth[None], size=20)[0].astype(int) - expected).max() <= 1


def test_upsizing_keeps_a_flat_image_flat() -> None:
    assert (to_pixels(np.full((3, 4, 4), 77, np.uint8), size=9) == 77).all()


def test_padding_puts_zeros_around_the_centre() -> None:
    padded = to_pixels(np.full((1, 28, 28), 9, np.uint8), pad_to=32)
    assert padded.shape == (1, 32, 32)
    assert padded[0, 2:30, 2:30].min() == 9
    assert padded.sum() == 28 * 28 * 9


def test_a_photograph_is_turned_as_its_camera_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    assert to_pixels(_encoded(_noise(4, 10, 3), "JPEG", exif=exif)).shape == (3, 10, 4)


def test_more_than_eight_bits_are_refused_and_not_clipped() -> None:
    with pytest.raises(BrokenImageError, match="more than 8 bits"):
        to_pixels(_encoded(_noise(4, 4).astype(np.uint16) * 200))


def test_a_small_file_that_claims_many_pixels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transform, "MAX_PIXELS", 64 * 64)
    assert to_pixels(_encoded(np.zeros((64, 64), np.uint8))).shape == (1, 64, 64)
    with pytest.raises(BrokenImageError, match="claims 65 x 64 pixels"):
        to_pixels(_encoded(np.zeros((64, 65), np.uint8)))


def test_the_pixel_cap_is_below_what_pillow_only_warns_of() -> None:
    header = bytearray(_encoded(np.zeros((1, 1), np.uint8)))
    header[16:24] = (20_000).to_bytes(4, "big") * 2  # width and height of a PNG; its checksum is then wrong as well
    with pytest.raises(BrokenImageError):
        to_pixels(bytes(header))


@pytest.mark.parametrize("cut", [0, 1, 10, 60, 300])
def test_a_cut_off_file_is_broken(cut: int) -> None:
    with pytest.raises(BrokenImageError):
        to_pixels(_encoded(_noise(32, 32, 3))[:cut])


def test_a_flipped_byte_in_the_pixels_is_noticed() -> None:
    data = bytearray(_encoded(_noise(32, 32, 3)))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(BrokenImageError):
        to_pixels(bytes(data))


def test_formats_that_run_programs_are_not_opened() -> None:
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    with pytest.raises(BrokenImageError, match="known format"):
        to_pixels(postscript)


def test_an_image_larger_than_its_padding_is_refused() -> None:
    with pytest.raises(BrokenImageError, match="larger than pad_to"):
        to_pixels(_noise(1, 40, 20), pad_to=32)
