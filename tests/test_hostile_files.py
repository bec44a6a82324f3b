"""Files that were made to do harm: what each may cost is one sentence. SECURITY.md lists them all; the tests of damaged
and foreign files are with their readers."""

import json
import os
import resource
import struct
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save

from pipeline.config.load import load, parse_yaml
from pipeline.config.trainings import TrainJob
from pipeline.data.prepare import prepare
from pipeline.data.sources import CifarBinary, Folder, ParquetImages, Source
from pipeline.data.sources import folder as folder_source
from pipeline.data.store import Store
from pipeline.digests import canonical, sha256
from pipeline.errors import CheckpointError, DataError, SettingsError, StoreError
from pipeline.tracking.figures import Point, quality_against_cost
from pipeline.tracking.noise_figure import loss_against_noise
from pipeline.training.importing import own_folder, recognise
from pipeline.training.snapshot import build_denoiser
from tests.data import files
from tests.data.files import noise
from tests.engine.tiny import MODEL

PNG = files.encoded(noise(1, 4, 4))
MUCH = 1 << 30  # bytes that no refusal may take


@pytest.fixture(autouse=True)
def _little_memory() -> Iterator[None]:
    """Whoever believes a claim of gigabytes gets a MemoryError here, and the test fails."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MUCH, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


# -- settings

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(12)
)


@pytest.mark.parametrize("text", [LAUGHS, "a: &a [*a]", "a: &a {b: *a}", "a: &a\n- [*a, 1]"])
def test_aliases_that_stand_for_billions_of_values_are_refused_at_once(text: str, tmp_path: Path) -> None:
    (tmp_path / "bomb.yaml").write_text(text)
    start = time.monotonic()
    with pytest.raises(SettingsError, match=r"bomb.yaml: its aliases \(\*name\) stand for more than 1,000,000 values"):
        load(TrainJob, tmp_path / "bomb.yaml")
    assert time.monotonic() - start < 2


def test_aliases_of_reasonable_size_are_read() -> None:
    assert parse_yaml("a: &a {x: [1, 2]}\nb: [*a, *a]", "here") == {"a": {"x": [1, 2]}, "b": [{"x": [1, 2]}] * 2}


@pytest.mark.parametrize("text", ["!!python/object/apply:os.system ['false']", "!!python/name:os.system", "!ruby/x y"])
def test_a_tag_that_would_run_something_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="could not determine a constructor"):
        parse_yaml(f"store: {text}", "here")


# -- data sets


OUTSIDE = ("../../up-4711.png", "/tmp/up-4711.png", "a/../../b.png", "..\\..\\up-4711.png", "c.png")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_in_an_archive_that_lead_out_of_it_write_nothing_there(kind: str, store: Store, tmp_path: Path) -> None:
    path = tmp_path / "in" / f"a.{kind}"
    path.parent.mkdir()
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name in OUTSIDE:
                archive.writestr(name, PNG)
        source: Source = Folder(str(path))
    else:
        batch = bytes(3073)
        names = [f"../../{name}.bin" for name in ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4")]
        source = CifarBinary(str(files.tar(path, dict.fromkeys([*names, "/tmp/data_batch_5.bin"], batch))))
    before = sorted(tmp_path.rglob("*.*"))
    try:
        prepare(store, "a", source, progress=False)
    except DataError:  # such names may be refused, or be no more than names
        assert kind == "zip"
    written = [path for path in sorted(tmp_path.rglob("*.*")) if path not in before]
    assert all(path.is_relative_to(tmp_path / "store") for path in written)
    assert not list(Path("/tmp").glob("up-4711.png")) + list(Path("/tmp").glob("data_batch_5.bin"))


def test_a_listing_that_unpacks_to_gigabytes_is_refused(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_source, "_MAX_FILE", 1 << 20)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", PNG)
        archive.writestr("dataset.json", b" " * (1 << 21))
    with pytest.raises(DataError, match=r"dataset.json is a file of 2097152 bytes, more than 1048576"):
        prepare(store, "a", Folder(str(tmp_path / "a.zip")), progress=False)


def test_a_link_among_images_is_only_ever_an_image(store: Store, tmp_path: Path) -> None:
    """It is followed, as whoever put it there could have copied the file; what is no image is refused, and devices,
    pipes and links to folders are not looked at."""
    files.write(tmp_path / "set" / "a.png", PNG)
    (tmp_path / "set" / "b.png").symlink_to("/etc/passwd")
    (tmp_path / "set" / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "set" / "round").symlink_to(tmp_path / "set")
    os.mkfifo(tmp_path / "set" / "pipe.png")
    with pytest.raises(DataError, match=r"1 broken image.*b.png.*not an image of a known format") as caught:
        prepare(store, "a", Folder(str(tmp_path / "set")), progress=False)
    assert "root:" not in str(caught.value)
    assert store.keys("") == []


def _thrift(number: int) -> bytes:
    """As Parquet's footer writes an integer: zigzag, seven bits a byte."""
    number, found = number << 1, b""
    while number > 127:
        found, number = found + bytes([number & 127 | 128]), number >> 7
    return found + bytes([number])


def test_a_parquet_file_that_claims_absurd_rows_is_refused(store: Store, tmp_path: Path) -> None:
    rows, path = 12_345, tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": pa.array([PNG] * rows, pa.binary())}), path)
    data = path.read_bytes()
    length = struct.unpack("<I", data[-8:-4])[0]
    footer = data[-8 - length : -8].replace(b"\x16" + _thrift(rows), b"\x16" + _thrift(1 << 40))
    path.write_bytes(data[: -8 - length] + footer + struct.pack("<I", len(footer)) + b"PAR1")
    assert pq.ParquetFile(path).metadata.num_rows == 1 << 40
    with pytest.raises(DataError, match="claims 1099511627776 rows"):
        prepare(store, "a", ParquetImages(str(path)), progress=False)


def test_a_parquet_file_that_unpacks_to_gigabytes_is_refused(store: Store, tmp_path: Path) -> None:
    from pipeline.data.sources import parquet

    pq.write_table(
        pa.table({"image": [bytes(1 << 22)] * 4}), tmp_path / "a.parquet", compression="zstd", use_dictionary=False
    )
    assert (tmp_path / "a.parquet").stat().st_size < 10_000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet, "_MAX_UNPACKED", 1 << 23)
        with pytest.raises(DataError, match=r"claims 167\d\d\d\d\d bytes of images in one row group"):
            prepare(store, "a", ParquetImages(str(tmp_path / "a.parquet")), progress=False)


# -- checkpoints


def _safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def _tensor(shape: list[int], start: int, end: int) -> dict[str, object]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}


HEADERS = {
    "a header of exabytes": _safetensors({}, length=1 << 62),
    "a header longer than the file": _safetensors({}, length=1 << 20),
    "a tensor of terabytes without data": _safetensors({"w": _tensor([1 << 40], 0, 1 << 42)}),
    "a shape larger than its data": _safetensors({"w": _tensor([1 << 40], 0, 4)}, bytes(4)),
    "sizes that overflow": _safetensors({"w": _tensor([1 << 62, 1 << 62], 0, 4)}, bytes(4)),
    "negative sizes": _safetensors({"w": _tensor([-1], 0, 4)}, bytes(4)),
    "two tensors in one place": _safetensors({"a": _tensor([1], 0, 4), "b": _tensor([1], 0, 4)}, bytes(4)),
    "an unknown type": _safetensors({"w": {"dtype": "OBJECT", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    "bottomless nesting": _safetensors(b"[" * 100_000),
    "a pickle": b"\x80\x04cos\nsystem\n(S'false'\ntR.",
    "tensors of another network": save({"w": torch.zeros(3)}),
}


@pytest.mark.parametrize("name", HEADERS)
def test_weights_that_claim_what_they_do_not_hold_are_refused(name: str) -> None:
    with pytest.raises(CheckpointError, match="do not fit the model") as caught:
        build_denoiser(MODEL, HEADERS[name], torch.float32, "cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "network",
    [{"kind": "mlp", "num_layers": 10**9}, {"kind": "mlp", "hidden": 10**9}, {"kind": "ddpmpp", "num_blocks": 10**9},
     {"kind": "ddpmpp", "channel_mult": [1] * 10_000}, {"kind": "edm2", "num_blocks": 10**9},
     {"kind": "adm", "model_channels": 2**40}],
)  # fmt: skip
def test_a_model_larger_than_any_memory_is_refused_before_it_is_built(
    network: dict[str, object], tmp_path: Path
) -> None:
    data = save({"w": torch.zeros(3)})
    (tmp_path / "raw.safetensors").write_bytes(data)
    model = {"network": network, "preconditioning": {"kind": "edm"}, "sigma_data": 0.5, "resolution": 8, "channels": 1}
    config = {
        "format": own_folder.FORMAT, "version": own_folder.VERSION, "model": {**model, "num_classes": 0},
        "weights": {"raw": sha256(data)}, "dataset": {}, "num_images": 1,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    start = time.monotonic()
    with pytest.raises(CheckpointError) as caught:
        recognise(tmp_path)
    assert time.monotonic() - start < 10
    assert "\n" not in str(caught.value)


# -- a store


def _forged(store: Store, key: str, blob_key: str, own: str = "") -> None:
    body = {
        "format": 1,
        "key": own or key,
        "blobs": {"x": {"key": blob_key, "sha256": sha256(b""), "size": 0}},
        "meta": {},
    }
    (Path(store.uri) / f"{key}.json").parent.mkdir(parents=True, exist_ok=True)
    text = {"sha256": sha256(canonical(body).encode()), **body}
    (Path(store.uri) / f"{key}.json").write_text(json.dumps(text))


@pytest.mark.parametrize(
    ("blob_key", "own"),
    [
        ("../precious", ""), ("/etc/passwd", ""), ("cache/other-1-x", ""), ("cache/a-1-../../../precious", ""),
        ("cache/a-1-..\\x", ""), ("../precious-1-x", "../precious"), ("cache/other-1-x", "cache/other"),
    ],
)  # fmt: skip
def test_a_forged_manifest_names_nothing_but_its_own_files(
    store: Store, tmp_path: Path, blob_key: str, own: str
) -> None:
    """What a manifest names may be deleted when space is freed."""
    (tmp_path / "precious").write_text("mine")
    _forged(store, "cache/a", blob_key, own)
    with pytest.raises(StoreError, match="the manifest is damaged"):
        store.find("cache/a")
    _forged(store, "cache/a", "cache/a-1-x")
    assert store.find("cache/a") is not None


# -- names

NAMES = [
    "$\\frac{1}{$",
    "$\\input{/etc/passwd}$",
    "<script>alert(1)</script>",
    "a\nb\t\x00c",
    "\u202egnp.exe",
    "%s %(x)s {0}",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore:Glyph")  # a sign that the font does not have
def test_a_figure_shows_any_name_as_text(name: str) -> None:
    points = [Point(name, 1.0, 2.0, label=name), Point("other", 2.0, 1.0)]
    assert quality_against_cost(points, title=name, y_label=name).startswith(b"\x89PNG")
    assert loss_against_noise([0.1, 1.0], [1.0, 2.0], [0.1, 0.1], name, -1.2, 1.2).startswith(b"\x89PNG")
