"""One image into the shape that a data set asks for: decoding, channels, resize with centre crop, padding."""

import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 1 << 26  # of one decoded image, 8192 x 8192: a small file can claim any size
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # Pillow's others run programs or are never photographs
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
_ORIENTATION = 0x0112  # the Exif tag
_GREY_MODES = ("1", "L", "LA", "La")
_DEEP_MODES = ("I", "F")  # and those that begin with "I;": 16 bits a pixel


class BrokenImageError(ValueError):
    """One image that cannot be used; the text says why. Never leaves `pipeline.data`."""


def to_pixels(
    image: bytes | NDArray[np.uint8], *, size: int | None = None, channels: int | None = None, pad_to: int | None = None
) -> NDArray[np.uint8]:
    """An image as the data set stores it.

    Args:
        image: an encoded file, or uint8 pixels of shape (C, H, W), C in {1, 3}.
        size: scale the shorter side to this (Lanczos down, bicubic up, both antialiased) and crop the centre square.
        channels: 1 (ITU-R 601 grey), 3, or None for what the image has. Transparency is dropped.
        pad_to: then pad with zeros to this height and width, the image in the centre.

    Returns:
        uint8 pixels (C, H, W).

    Raises:
        BrokenImageError: it cannot be decoded, has more than 8 bits a channel, claims too many pixels, or is larger
            than `pad_to`.
    """
    if isinstance(image, bytes):
        pixels = _from_pillow(_resized(_with_channels(_decode(image), channels), size))
    elif size in (None, image.shape[1]) and image.shape[1] == image.shape[2] and channels in (None, image.shape[0]):
        pixels = image
    else:
        pixels = _from_pillow(_resized(_with_channels(_to_pillow(image), channels), size))
    return pixels if pad_to is None else _padded(pixels, pad_to)


def _decode(data: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            if image.width * image.height > MAX_PIXELS:
                raise BrokenImageError(f"claims {image.width} x {image.height} pixels, more than {MAX_PIXELS}")
            image.load()
            return ImageOps.exif_transpose(image) if image.getexif().get(_ORIENTATION, 1) != 1 else image
    except (BrokenImageError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise BrokenImageError(f"is not an image of a known format ({', '.join(FORMATS)})") from error
    except Exception as error:  # decoders of damaged files raise whatever they like
        raise BrokenImageError(f"cannot be decoded ({type(error).__name__}: {error})") from error


def _with_channels(image: Image.Image, channels: int | None) -> Image.Image:
    if image.mode in _DEEP_MODES or image.mode.startswith("I;"):
        raise BrokenImageError(f"has more than 8 bits a channel (mode {image.mode}): convert it first")
    wanted = channels or (1 if image.mode in _GREY_MODES else 3)
    mode = "L" if wanted == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _resized(image: Image.Image, size: int | None) -> Image.Image:
    if size is None:
        return image
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    if side == size:
        return image.crop(box)
    method = Image.Resampling.LANCZOS if side > size else Image.Resampling.BICUBIC
    return image.resize((size, size), method, box=box)


def _padded(pixels: NDArray[np.uint8], pad_to: int) -> NDArray[np.uint8]:
    channels, height, width = pixels.shape
    if max(height, width) > pad_to:
        raise BrokenImageError(f"is {height} x {width}, larger than pad_to = {pad_to}")
    padded = np.zeros((channels, pad_to, pad_to), np.uint8)
    top, left = (pad_to - height) // 2, (pad_to - width) // 2
    padded[:, top : top + height, left : left + width] = pixels
    return padded


def _to_pillow(pixels: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)))


def _from_pillow(image: Image.Image) -> NDArray[np.uint8]:
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
