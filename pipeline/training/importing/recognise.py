"""Which kind of checkpoint lies at a path."""

from pathlib import Path

from pydantic import ValidationError

from pipeline.data.pickled_networks import read_network_pickle
from pipeline.errors import CheckpointError
from pipeline.training.importing.diffusers_folder import UNET_CONFIGS, read_diffusers
from pipeline.training.importing.found import Found, NotRecognisedError, check_fits, refuse
from pipeline.training.importing.nvlabs import network_of
from pipeline.training.importing.own_folder import is_own, read_own


def recognise(path: str | Path) -> Found:
    """The checkpoint at a path, read whole and checked; nothing is written.

    Args:
        path: an NVlabs pickle, a folder of diffusers with config.json, or a folder that `jobs.export_checkpoint` made.

    Raises:
        CheckpointError: it cannot be read, is damaged or has no counterpart here.
    """
    path = Path(path)
    try:
        found = _read(path)
        check_fits(found)
    except ValidationError as error:
        first = error.errors()[0]
        raise refuse(path, ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")) from error
    except NotRecognisedError as error:
        raise refuse(path, error) from error
    return found


def _read(path: Path) -> Found:
    if path.is_file():
        return network_of(read_network_pickle(path))
    if is_own(path):
        return read_own(path)
    if any((path / name).is_file() for name in UNET_CONFIGS):
        return read_diffusers(path)
    if path.is_dir():
        raise CheckpointError(path, "is a folder without config.json: neither ours nor one of diffusers")
    raise CheckpointError(path, "there is no such file or folder")
