"""A chunk of samples as one Parquet file, and back. The file says of itself what it holds.

Columns: `seed`, `label` (-1 for none) and `nfe`, int64; and `image`, either a struct of `bytes` (a PNG) and `path`, as
Hugging Face's image sets have it, or the raw bytes, (C, H, W). The metadata key `sigmasweep` holds JSON: the format's
version, the digest and the whole key of the setting, the chunk's index, the images' shape and their encoding.
"""

import hashlib
import io
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from pipeline.data.formats import check_format
from pipeline.digests import DIGEST_LENGTH, canonical
from pipeline.errors import ImagesNotKeptError, StoreError

FORMAT = 1
ImageFormat = Literal["png", "raw"]
Encoding = Literal["png", "raw", "none"]  # none: the images were not kept
_METADATA = b"sigmasweep"
_LARGE = 3 * 128 * 128  # numbers of an image that is worth a thread of its own
_ENCODERS = 4
_PNG_LEVEL = 6  # of compression; less is larger and, on images this small, no faster

_DAMAGE = (pa.ArrowException, ValueError, KeyError, TypeError, OSError, SyntaxError, Image.DecompressionBombError)


@dataclass(frozen=True, eq=False)
class Chunk:
    """The samples of one aligned block of C seeds, [index C, (index + 1) C).

    Args:
        index: of the block.
        seeds: int64 (C,).
        labels: int64 (C,), -1 for none.
        images: uint8 (C, channels, height, width).
        nfe: int64 (C,), the evaluations of the network that were counted for each sample.
    """

    index: int
    seeds: NDArray[np.int64]
    labels: NDArray[np.int64]
    images: NDArray[np.uint8]
    nfe: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.seeds)

    @property
    def content_digest(self) -> str:
        """Names what is in it: seeds, labels, pixels and evaluations; not how a file keeps them."""
        content = hashlib.sha256(canonical(self.images.shape).encode())
        for column in (self.seeds, self.labels, self.nfe):
            content.update(np.ascontiguousarray(column, dtype="<i8").data)
        content.update(np.ascontiguousarray(self.images).data)
        return content.hexdigest()[:DIGEST_LENGTH]


def encode(chunk: Chunk, digest: str, key: Mapping[str, Any], image_format: Encoding) -> bytes:
    """The Parquet file of a chunk of the setting `key`, whose name is `digest`."""
    about = {
        "format": FORMAT,
        "samples": digest,
        "setting": key,
        "index": chunk.index,
        "shape": chunk.images.shape[1:],
        "encoding": image_format,
    }
    columns: dict[str, Any] = {"seed": chunk.seeds, "label": chunk.labels, "nfe": chunk.nfe}
    if image_format != "none":
        columns["image"] = _column(chunk, image_format)
    table = pa.table(columns).replace_schema_metadata({_METADATA: canonical(about)})
    stream = io.BytesIO()
    pq.write_table(table, stream, compression="none" if image_format == "png" else "zstd", use_dictionary=False)
    return stream.getvalue()


def decode(data: bytes, index: int, where: str) -> Chunk:
    """The chunk in a Parquet file.

    Raises:
        ImagesNotKeptError: it is whole, without images.
        StoreError: it is none of ours, is damaged, or is another chunk than `index`.
        NewerFormatError: a later version wrote it.
    """
    try:
        table = pq.read_table(pa.BufferReader(data))
        about = _about(table.schema, where)
        if about["encoding"] == "none":
            raise ImagesNotKeptError(where, "its images were not kept, to free space")
        seeds, labels, nfe = (_integers(table, name) for name in ("seed", "label", "nfe"))
        images = _images(table.column("image"), tuple(about["shape"]), about["encoding"])
    except _DAMAGE as error:
        raise StoreError(where, f"is damaged: it is no chunk of samples ({_first_line(error)})") from error
    chunk = Chunk(index, seeds, labels, images, nfe)
    if about["index"] != index or not np.array_equal(seeds, np.arange(len(seeds)) + index * len(seeds)):
        raise StoreError(where, f"is damaged: it does not hold the seeds of chunk {index}")
    return chunk


def decode_nfe(data: bytes, where: str) -> NDArray[np.int64]:
    """The column of evaluations alone, int64 (C,), without decoding an image.

    Raises:
        StoreError: the file is none of ours, or is damaged.
        NewerFormatError: a later version wrote it.
    """
    try:
        table = pq.read_table(pa.BufferReader(data), columns=["nfe"])
        _about(table.schema, where)
        return _integers(table, "nfe")
    except _DAMAGE as error:
        raise StoreError(where, f"is damaged: it is no chunk of samples ({_first_line(error)})") from error


def png(image: NDArray[np.uint8]) -> bytes:
    """One image, uint8 (C, H, W) with C 1 or 3, as a PNG file."""
    pixels = image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=_PNG_LEVEL)
    return stream.getvalue()


def _column(chunk: Chunk, image_format: ImageFormat) -> Any:
    if image_format == "raw":
        size = chunk.images[0].size
        return pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(size), len(chunk), [None, pa.py_buffer(np.ascontiguousarray(chunk.images))]
        )
    files = _files(chunk.images)
    paths = [f"{seed:06d}.png" for seed in chunk.seeds]
    return pa.StructArray.from_arrays([pa.array(files, pa.binary()), pa.array(paths)], ["bytes", "path"])


def _files(images: NDArray[np.uint8]) -> list[bytes]:
    """Large images on several threads, for the compression leaves the interpreter free; small ones gain nothing."""
    if images[0].size < _LARGE:
        return [png(image) for image in images]
    with ThreadPoolExecutor(_ENCODERS) as threads:
        return list(threads.map(png, images))


def _about(schema: Any, where: str) -> Mapping[str, Any]:
    about: Mapping[str, Any] = json.loads((schema.metadata or {})[_METADATA])
    check_format(where, "a chunk's Parquet file", about["format"], FORMAT)
    return about


def _integers(table: Any, name: str) -> NDArray[np.int64]:
    column = table.column(name)
    if column.type != pa.int64() or column.null_count:
        raise ValueError(f"column {name} is not int64")
    return np.array(column.to_numpy(), dtype=np.int64)


def _images(column: Any, shape: tuple[int, ...], encoding: str) -> NDArray[np.uint8]:
    if encoding == "raw":
        data = b"".join(column.to_pylist())
        return np.frombuffer(data, np.uint8).reshape(len(column), *shape).copy()
    images = np.empty((len(column), *shape), np.uint8)
    for image, file in zip(images, column.to_pylist(), strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(file["bytes"]), formats=["PNG"]))
        image[...] = (pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)).reshape(shape)
    return images


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
