"""Our own checkpoints as a folder that can be given away: config.json, and safetensors for each set of weights."""

import json
import re
import shutil
import uuid
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch

from pipeline.data.formats import check_format
from pipeline.data.store import Store
from pipeline.data.unpickle import printable
from pipeline.digests import sha256
from pipeline.errors import CheckpointError
from pipeline.training.importing.found import Found, NotRecognisedError
from pipeline.training.settings import ModelSpec
from pipeline.training.snapshot import CheckpointRef, find_snapshot, read_weights

FORMAT = "sigmasweep checkpoint"
VERSION = 1
CONFIG = "config.json"
MAX_CONFIG_BYTES = 4 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def export_folder(store: Store, ref: CheckpointRef, folder: str | Path, licence: str | None = None) -> list[str]:
    """Writes a snapshot into a new folder, whole or not at all.

    Args:
        ref: names the snapshot; with `ema` given, only this set of weights is written, else all of them.
        licence: of the weights; empty keeps the one that they were imported with, if any.

    Returns:
        The names of the sets of weights.

    Raises:
        CheckpointError: there is no such snapshot, it is damaged, or the folder is there.
    """
    folder = Path(folder)
    if folder.exists():
        raise CheckpointError(folder, "is there already: name a new folder")
    snapshot = find_snapshot(store, ref)
    names: list[str] = [snapshot.weights] if ref.ema else list(snapshot.manifest.meta["weights"])
    partial = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:12]}")
    try:
        partial.mkdir(parents=True)
        digests = {}
        for name in names:
            data = read_weights(store, find_snapshot(store, CheckpointRef(ref.training, ref.at, name)))
            digests[name] = sha256(data)
            (partial / f"{name}.safetensors").write_bytes(data)
        about = {"training": snapshot.training, "num_images": snapshot.num_images, "dataset": dict(snapshot.dataset)}
        model = snapshot.model.model_dump(mode="json")
        config = {"format": FORMAT, "version": VERSION, "licence": licence or snapshot.licence, **about}
        text = json.dumps({**config, "model": model, "weights": digests}, indent=1)
        (partial / CONFIG).write_text(text + "\n", encoding="utf-8")
        partial.rename(folder)
    except OSError as error:
        raise CheckpointError(folder, f"cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return names


def is_own(folder: Path) -> bool:
    """Whether a folder's config.json says that we wrote it."""
    return (folder / CONFIG).is_file() and read_json(folder / CONFIG).get("format") == FORMAT


def read_own(folder: Path) -> Found:
    """What `export_folder` wrote.

    Raises:
        CheckpointError: a file is missing or damaged.
        NewerFormatError: a later version wrote it.
        NotRecognisedError: config.json does not hold what it should.
        ValidationError: of pydantic: the model's settings are wrong.
    """
    config = read_json(folder / CONFIG)
    try:
        check_format(folder / CONFIG, "a checkpoint's folder", config.get("version"), VERSION)
    except ValueError as error:
        raise NotRecognisedError(f"config.json: version: {error}") from error
    model = ModelSpec.model_validate(config.get("model"))
    digests, dataset, num_images = config.get("weights"), config.get("dataset"), config.get("num_images")
    if not isinstance(digests, dict) or not digests or not all(_NAME.fullmatch(name) for name in digests):
        raise NotRecognisedError("config.json must name the sets of weights with their sha256 under `weights`")
    if not isinstance(dataset, dict) or type(num_images) is not int or not 0 <= num_images < 10**12:
        raise NotRecognisedError("config.json must hold a `dataset` and the number `num_images`")
    weights = {name: _read_weights(folder / f"{name}.safetensors", expected) for name, expected in digests.items()}
    licence = config.get("licence")
    return Found(
        origin=f"a checkpoint of ours, {str(config.get('training'))[:200]}@{num_images}",
        model=model,
        weights=weights,
        licence=printable(licence)[:500] if isinstance(licence, str) and licence else None,
        num_images=num_images,
        dataset={key: printable(str(dataset[key]))[:200] for key in ("name", "digest") if key in dataset},
    )


def read_json(path: Path) -> dict[str, Any]:
    """A small JSON file that holds a dictionary.

    Raises:
        CheckpointError: it cannot be read or is none.
    """
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise CheckpointError(path, f"has more than {MAX_CONFIG_BYTES:,} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(path, f"cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(path, f"is not JSON ({str(error)[:100]})") from error
    if not isinstance(content, dict):
        raise CheckpointError(path, f"must hold keys and values (got a {type(content).__name__})")
    return content


def read_safetensors(path: Path, sha: str | None = None) -> dict[str, Any]:
    """The tensors in a file, by name.

    Raises:
        CheckpointError: it cannot be read, or is damaged.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(path, f"cannot be read ({error.strerror or error})") from error
    if sha is not None and sha256(data) != sha:
        raise CheckpointError(path, f"is damaged: its sha256 is not what {CONFIG} says")
    try:
        return dict(safetensors.torch.load(data))
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(path, f"is not a safetensors file ({str(error)[:100]})") from error


def _read_weights(path: Path, expected: Any) -> dict[str, Any]:
    return read_safetensors(path, str(expected))
