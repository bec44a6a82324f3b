"""Samples in the store: `samples/<digest>/`, where the digest names everything that determines the images.

`samples/<digest>/setting` tells what the digest stands for; `samples/<digest>/chunk-000007` holds the seeds
[7 C, 8 C), always whole. So work that was done once is found by any job, and n images are a view on whole chunks.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.data.chunk_file import Chunk, ImageFormat, decode, decode_nfe, encode, png
from pipeline.data.store import Manifest, Store
from pipeline.diffusion.decoding import Decoder, PixelDecoder
from pipeline.diffusion.labels import Labels
from pipeline.diffusion.sampling import Sampler
from pipeline.digests import digest, plain
from pipeline.errors import StoreError

ROOT = "samples"
SAMPLING = 1  # the revision of what no part has: how a chunk is cut into batches, and how states become pixels
_BLOB = "images.parquet"
_CHUNK = "chunk-"
WITHOUT_IMAGES = "none"  # the encoding of a chunk whose images were not kept


@dataclass(frozen=True)
class Execution:
    """How samples are computed, as far as it can change their bits.

    Args:
        precision: of the network; the state of the sampler is float64 always.
        batch_size: images the network sees at once. It must divide `chunk_size`, so that every batch is full.
        chunk_size: images of one chunk, the unit of work and of what is kept.
        threads: CPU threads of each actor. Fixed by settings, never by how many actors there are.
        channels_last: the network's memory layout; faster on CPUs and GPUs, and another order of summation.
        compile: compile the network. It costs up to a minute, so it repays itself on long work only: `true` a minute an
            actor and network; `ahead` once a kind of network and machine, whatever the weights, for all actors of a
            node and all later runs, and faster code on CPUs; `reduce-overhead` as `true`, with CUDA graphs on GPUs.
        device: `auto` takes GPUs where there are any. Images are named by the device's family.
        convolution: of 3x3 kernels: by the definition, or on a CPU with fewer multiplications (`winograd`), as exact in
            float32 and about twice as fast; its code is compiled once a machine and user.
        norm: group norms by torch or what it compiles, or on a CPU by code of our own (`native`), with the scale, shift
            and SiLU after them in one pass; nearer to the exact numbers, and compiled as that for convolutions is.
    """

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    batch_size: int = 64
    chunk_size: int = 256
    threads: int = 1
    channels_last: bool = True
    compile: Literal[False, True, "ahead", "reduce-overhead"] = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    convolution: Literal["direct", "winograd"] = field(default="direct", metadata={"since": 2})
    norm: Literal["torch", "native"] = field(default="torch", metadata={"since": 2})

    def __post_init__(self) -> None:
        for name in ("batch_size", "chunk_size", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1 (got {getattr(self, name)})")
        if self.compile not in (False, True, "ahead", "reduce-overhead"):
            raise ValueError(f"compile: must be true, false, ahead or reduce-overhead (got {self.compile})")
        if self.native and (self.precision == "fp16" or self.device == "cuda"):
            (name, value, mend), here = self.native[0], f"precision {self.precision}, device {self.device}"
            raise ValueError(f"{name}: {value} is for fp32 and bf16 on a CPU (got {here}); set it to {mend}")
        if self.chunk_size % self.batch_size:
            raise ValueError(f"batch_size: must divide chunk_size {self.chunk_size} (got {self.batch_size})")

    @property
    def native(self) -> list[tuple[str, str, str]]:
        """The settings that ask for code of our own, which only CPUs run: their names, values and the other value."""
        choices = ("convolution", self.convolution, "direct"), ("norm", self.norm, "torch")
        return [choice for choice in choices if choice[1] != choice[2]]


class Samples(NamedTuple):
    """Samples of consecutive seeds, n of them: int64 (n,), int64 (n,), uint8 (n, C, H, W), int64 (n,)."""

    seeds: NDArray[np.int64]
    labels: NDArray[np.int64]
    images: NDArray[np.uint8]
    nfe: NDArray[np.int64]


class Counts(NamedTuple):
    """Of a chunk: the evaluations counted for each seed, int64 (C,), and whether its images are there."""

    nfe: NDArray[np.int64]
    has_images: bool


class Network(NamedTuple):
    """A network as a key knows it: the sha256 of its safetensors file, and the model's settings, a `ModelSpec`."""

    weights: str
    model: Any


def samples_key(
    weights_sha256: str, model: Any, sampler: Sampler, labels: Labels, execution: Execution,
    device: Mapping[str, str], torch_version: str, namespace: str = "", decoder: Decoder | None = None,
    guide: Network | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Everything that determines the images of a setting, as JSON knows it; `digest` of it is the setting's name.

    Names, the format of images, the number of actors and the seeds asked for are not in it. Whatever is added to the
    pipeline later must leave the keys of old settings as they are.

    Args:
        weights_sha256: of the network's safetensors file.
        model: the model's settings, a `ModelSpec`.
        device: the family of the device (`pipeline.engine.devices.family`).
        torch_version: major and minor, such as "2.13".
        namespace: keeps samples apart that would otherwise be the same.
        decoder: from states to images; pixels by default.
        guide: the second network, where the sampler's guidance asks one.
    """
    fast_path = ("precision", "batch_size", "chunk_size", "threads", "channels_last", "compile", "convolution", "norm")
    chosen = plain(execution)
    networks = {"main": Network(weights_sha256, model), **({} if guide is None else {"guide": guide})}
    key: dict[str, Any] = plain(
        {
            "sampling": SAMPLING,
            "networks": {name: network._asdict() for name, network in networks.items()},
            "sampler": sampler,
            "labels": labels,
            "decoder": decoder or PixelDecoder(),
            "execution": {name: chosen[name] for name in fast_path if name in chosen},
            "device": device,
            "torch": torch_version,
            "namespace": namespace,
        }
    )
    return key


def setting_key(samples_digest: str) -> str:
    return f"{ROOT}/{samples_digest}/setting"


def chunk_key(samples_digest: str, index: int) -> str:
    return f"{ROOT}/{samples_digest}/{_CHUNK}{index:06d}"


def commit_setting(store: Store, key: Mapping[str, Any], **about: str) -> None:
    """Tells what the digest of a key stands for, with what people call it. What is there already stays."""
    name = setting_key(digest(key))
    try:
        if store.find(name) is not None:
            return
    except StoreError:  # damaged: written again below
        pass
    store.commit(name, {}, {"key": key, **about})


def read_setting(store: Store, samples_digest: str) -> dict[str, Any]:
    """The key of a setting.

    Raises:
        StoreError: the store has no samples of this name, or the setting is damaged.
    """
    key: dict[str, Any] = store.manifest(setting_key(samples_digest)).meta["key"]
    return key


def commit_chunk(store: Store, key: Mapping[str, Any], chunk: Chunk, image_format: ImageFormat = "png") -> Manifest:
    """Writes a chunk of the setting `key`. Writing it again is harmless: its content is the same."""
    name = digest(key)
    data = encode(chunk, name, key, image_format)
    meta = {"content": chunk.content_digest, "count": len(chunk), "encoding": image_format}
    return store.commit(chunk_key(name, chunk.index), {_BLOB: data}, meta)


def read_chunk(store: Store, samples_digest: str, index: int) -> Chunk:
    """A chunk, verified down to its pixels.

    Raises:
        StoreError: it is not there, or is damaged.
    """
    manifest = store.manifest(chunk_key(samples_digest, index))
    chunk = decode(store.blob(manifest, _BLOB), index, manifest.key)
    if chunk.content_digest != manifest.meta.get("content"):
        raise StoreError(manifest.key, "is damaged: its content is not what its manifest says")
    return chunk


def read_counts(store: Store, samples_digest: str, index: int) -> Counts:
    """What was counted of a chunk. The file's bytes are verified on the way.

    Raises:
        StoreError: the chunk is not there, or is damaged.
    """
    manifest = store.manifest(chunk_key(samples_digest, index))
    nfe = decode_nfe(store.blob(manifest, _BLOB), manifest.key)
    return Counts(nfe, manifest.meta.get("encoding") != WITHOUT_IMAGES)


def give_up_images(store: Store, samples_digest: str, index: int) -> int:
    """Writes a chunk again without its images; seeds, labels, evaluations and the content digest stay.

    Returns:
        The bytes that are free again.

    Raises:
        StoreError: it is not there or is damaged.
    """
    before = store.manifest(chunk_key(samples_digest, index))
    if before.meta.get("encoding") == WITHOUT_IMAGES:
        return 0
    data = encode(read_chunk(store, samples_digest, index), samples_digest, read_setting(store, samples_digest), "none")
    store.commit(before.key, {_BLOB: data}, {**before.meta, "encoding": WITHOUT_IMAGES})
    store.discard(before)
    return before.blobs[_BLOB].size - len(data)


def committed_chunks(store: Store, samples_digest: str) -> set[int]:
    """The indices of the chunks that are there, by one listing."""
    return chunk_indices(store.committed(f"{ROOT}/{samples_digest}"))


def chunk_indices(keys: list[str]) -> set[int]:
    """The indices in the keys of chunks, whatever else is among them."""
    names = (key.rpartition("/")[2] for key in keys)
    numbers = (name.removeprefix(_CHUNK) for name in names if name.startswith(_CHUNK))
    return {int(number) for number in numbers if number.isdecimal()}


def spans(first_seed: int, count: int, chunk_size: int) -> list[tuple[int, slice]]:
    """The chunks that the seeds [first_seed, first_seed + count) lie in, and which part of each is meant."""
    end = first_seed + count
    return [
        (index, slice(max(first_seed - index * chunk_size, 0), min(end - index * chunk_size, chunk_size)))
        for index in range(first_seed // chunk_size, -(-end // chunk_size))
    ]


def read_samples(store: Store, samples_digest: str, first_seed: int, count: int) -> Samples:
    """The samples of the seeds [first_seed, first_seed + count), count > 0.

    Raises:
        StoreError: some of them are not there, or are damaged.
    """
    parts = list(_parts(store, samples_digest, first_seed, count))
    return Samples(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def export_png(store: Store, samples_digest: str, first_seed: int, count: int, folder: str | Path) -> int:
    """Writes `<seed>.png` for every seed, and their labels as `dataset.json` in EDM's form.

    Returns:
        How many images were written.

    Raises:
        StoreError: some samples are not there or damaged, or the folder cannot be written.
    """
    root = Path(folder)
    labels: list[tuple[str, int]] = []
    try:
        root.mkdir(parents=True, exist_ok=True)
        for part in _parts(store, samples_digest, first_seed, count):
            for seed, label, image in zip(part.seeds, part.labels, part.images, strict=True):
                name = f"{seed:06d}.png"
                (root / name).write_bytes(png(image))
                labels.append((name, int(label)))
        unlabelled = all(label < 0 for _, label in labels)
        (root / "dataset.json").write_text(json.dumps({"labels": None if unlabelled else labels}))
    except OSError as error:
        raise StoreError(root, f"cannot be written ({error.strerror or error})") from error
    return len(labels)


def _parts(store: Store, samples_digest: str, first_seed: int, count: int) -> Iterator[Samples]:
    chunk_size = read_setting(store, samples_digest)["execution"]["chunk_size"]
    wanted = spans(first_seed, count, chunk_size)
    missing = {index for index, _ in wanted} - committed_chunks(store, samples_digest)
    if missing:
        raise StoreError(f"{ROOT}/{samples_digest}", _describe(missing, chunk_size))
    for index, part in wanted:
        chunk = read_chunk(store, samples_digest, index)
        yield Samples(chunk.seeds[part], chunk.labels[part], chunk.images[part], chunk.nfe[part])


def _describe(missing: set[int], chunk_size: int) -> str:
    first = min(missing)
    seeds = f"seeds {first * chunk_size} to {(first + 1) * chunk_size - 1}"
    more = f" and {len(missing) - 1} more chunks" if len(missing) > 1 else ""
    return f"chunk {first} ({seeds}){more} is not there: generate these images first, or ask for fewer"
