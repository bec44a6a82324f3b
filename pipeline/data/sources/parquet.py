"""Parquet files with encoded images in a column, as the image data sets of the Hugging Face hub have them."""

import glob
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.data.sources.base import Images, Item, check_path, existing
from pipeline.errors import DataError

_BATCH = 256  # rows in memory at once
_MAX_ROWS = 1 << 28  # of a file
_MAX_UNPACKED = 1 << 32  # bytes of the images of a row group: a small file can claim any size


@dataclass(frozen=True)
class ParquetImages:
    """Images of one or more Parquet files of one schema.

    Args:
        path: a file, a folder (its *.parquet, sorted), or a glob.
        image_column: of structs with a field `bytes` (and `path`), or of binary.
        label_column: of integers; the images are unlabelled where there is no column `label`.
    """

    path: str
    image_column: str = "image"
    label_column: str = "label"
    kind: Literal["parquet"] = "parquet"

    def __post_init__(self) -> None:
        check_path("path", self.path)

    def open(self) -> Images:
        """Raises:
        DataError: no file, a damaged one, or columns that are not there or of another type.
        """
        files = self._files()
        labels = [self._labels(file) for file in files]
        if len({part is None for part in labels}) > 1:
            raise DataError(self.path, f"some of its files have a column {self.label_column!r} and some have none")
        counted = [part if part is not None else _no_labels(file) for file, part in zip(files, labels, strict=True)]

        def read(chosen: NDArray[np.bool_]) -> Iterator[Item]:
            start = 0
            for file, part in zip(files, counted, strict=True):
                yield from self._read(file, part, chosen[start : start + len(part)])
                start += len(part)

        names = _class_names(files[0], self.label_column) if labels[0] is not None else ()
        return Images(self.path, np.concatenate(counted), names, read)

    def _files(self) -> list[Path]:
        if glob.has_magic(self.path) and not Path(self.path).expanduser().exists():
            pattern = str(Path(self.path).expanduser())  # absolute or not, which Path.glob does not take
            found = sorted(Path(name) for name in glob.glob(pattern, recursive=True))  # noqa: PTH207
        else:
            path = existing(self.path)
            found = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        files = [path for path in found if path.is_file()]
        if not files:
            raise DataError(self.path, "names no Parquet file")
        return files

    def _labels(self, path: Path) -> NDArray[np.int64] | None:
        import pyarrow as pa

        with _errors(path):
            schema = _open(path).schema_arrow
            self._check_image_column(path, schema)
            self._check_claims(path)
            if self.label_column not in schema.names:
                if self.label_column != "label":
                    raise DataError(path, f"has no column {self.label_column!r} (it has {schema.names})")
                return None
            kind = schema.field(self.label_column).type
            if not pa.types.is_integer(kind):
                raise DataError(path, f"the column {self.label_column!r} must hold integers, not {kind}")
            column = _open(path).read([self.label_column]).column(0)
        return np.asarray(column.cast(pa.int64()).fill_null(-1).to_numpy(), np.int64)

    def _check_image_column(self, path: Path, schema: Any) -> None:
        if self.image_column not in schema.names:
            raise DataError(path, f"has no column {self.image_column!r} (it has {schema.names}): set image_column")
        if not _is_bytes(_bytes_type(schema.field(self.image_column).type)):
            kind = schema.field(self.image_column).type
            raise DataError(path, f"the column {self.image_column!r} holds {kind}, not encoded images (bytes)")

    def _check_claims(self, path: Path) -> None:
        about = _open(path).metadata
        if not 0 <= about.num_rows <= _MAX_ROWS:
            raise DataError(path, f"claims {about.num_rows} rows, more than {_MAX_ROWS} or none that can be")
        for group in (about.row_group(number) for number in range(about.num_row_groups)):
            columns = [group.column(number) for number in range(group.num_columns)]
            sizes = [
                c.total_uncompressed_size for c in columns if f"{c.path_in_schema}.".startswith(f"{self.image_column}.")
            ]
            if max(sizes, default=0) > _MAX_UNPACKED:
                raise DataError(
                    path, f"claims {max(sizes)} bytes of images in one row group, more than {_MAX_UNPACKED}"
                )

    def _read(self, path: Path, labels: NDArray[np.int64], chosen: NDArray[np.bool_]) -> Iterator[Item]:
        import pyarrow.compute as pc

        start = 0
        with _errors(path):
            for batch in _open(path).iter_batches(_BATCH, columns=[self.image_column]):
                column = batch.column(0)
                encoded = column if _is_bytes(column.type) else pc.struct_field(column, "bytes")
                for row in np.flatnonzero(chosen[start : start + len(batch)]):
                    number, data = start + int(row), encoded[int(row)].as_py()
                    label = int(labels[number]) if labels[number] >= 0 else None
                    yield Item(f"{path}: row {number}", data or b"", label, "" if data else "has no bytes")
                start += len(batch)


def _bytes_type(kind: Any) -> Any:
    import pyarrow as pa

    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return kind.field("bytes").type
    return kind


def _is_bytes(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _class_names(path: Path, column: str) -> tuple[str, ...]:
    """The names of a ClassLabel, from the metadata that the Hugging Face library writes; none where there are none."""
    try:
        text = (_open(path).schema_arrow.metadata or {})[b"huggingface"]
        names = json.loads(text)["info"]["features"][column]["names"]
    except (KeyError, ValueError, TypeError):
        return ()
    return tuple(str(name) for name in names) if isinstance(names, list) else ()


def _open(path: Path) -> Any:
    import pyarrow.parquet as pq

    return pq.ParquetFile(path)


def _no_labels(path: Path) -> NDArray[np.int64]:
    with _errors(path):
        return np.full(_open(path).metadata.num_rows, -1, np.int64)


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise DataError(path, f"is not a readable Parquet file ({str(error).splitlines()[0][:200]})") from error
