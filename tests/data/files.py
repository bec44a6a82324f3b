"""Small files of every kind that a source reads."""

import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

GIVEN = Path(os.environ.get("SIGMASWEEP_DATA", "/nowhere"))
needs_given_data = pytest.mark.skipif(
    "SIGMASWEEP_DATA" not in os.environ, reason="SIGMASWEEP_DATA is not set: it names the folder of CIFAR-10 and others"
)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """A lossless file of CHW pixels."""
    buffer = io.BytesIO()
    options = {"lossless": True} if kind == "WEBP" else {}
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(buffer, kind, **options)
    return buffer.getvalue()


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def class_folder(path: Path, pixels: np.ndarray, labels: list[int], names: tuple[str, ...] = ("cat", "dog")) -> Path:
    for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        write(path / names[label] / f"{number:03d}.png", encoded(image))
    return path


def zipped(folder: Path, path: Path, top: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, f"{top}{file.relative_to(folder)}")
    return path


def idx(path: Path, array: np.ndarray, lengths: tuple[int, ...] | None = None, magic: int | None = None) -> Path:
    lengths = array.shape if lengths is None else lengths
    header = struct.pack(">I", 0x0800 + len(lengths) if magic is None else magic)
    data = header + struct.pack(f">{len(lengths)}I", *lengths) + array.astype(np.uint8).tobytes()
    return write(path, gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def parquet(path: Path, pixels: np.ndarray, labels: Any = None, names: list[str] | None = None, **more: Any) -> Path:
    """In the layout of Hugging Face's image sets."""
    images = [{"bytes": encoded(image, "WEBP"), "path": f"{n}.webp"} for n, image in enumerate(pixels)]
    columns: dict[str, Any] = {"image": images, **more}
    if labels is not None:
        columns["label"] = labels
    table = pa.table(columns)
    if names is not None:
        features = {"label": {"names": names, "_type": "ClassLabel"}, "image": {"_type": "Image"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=3)
    return path


def tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def cifar10_binary(pixels: np.ndarray, labels: list[int]) -> dict[str, bytes]:
    """Five batches of equal size, a test batch (the first images again) and the names."""
    records = [bytes([label]) + image.tobytes() for image, label in zip(pixels, labels, strict=True)]
    size = len(records) // 5
    files = {f"c/data_batch_{n + 1}.bin": b"".join(records[n * size : (n + 1) * size]) for n in range(5)}
    names = "\n".join(f"class{n}" for n in range(10)) + "\n\n"
    return {**files, "c/test_batch.bin": records[0] + records[1], "c/batches.meta.txt": names.encode()}


def cifar10_python(pixels: np.ndarray, labels: list[int], protocol: int = 2) -> dict[str, bytes]:
    size = len(pixels) // 5
    files = {}
    for n in range(5):
        rows = slice(n * size, (n + 1) * size)
        batch = {b"data": pixels[rows].reshape(size, -1), b"labels": labels[rows], b"batch_label": b"x"}
        files[f"c/data_batch_{n + 1}"] = pickle.dumps(batch, protocol)
    meta = {b"label_names": [f"class{n}".encode() for n in range(10)]}
    return {**files, "c/batches.meta": pickle.dumps(meta, protocol)}
