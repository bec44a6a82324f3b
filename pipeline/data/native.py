"""Native code of the project's own, compiled once a machine and user; it is loaded from a folder closed to others."""

import fcntl
import os
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from pipeline.data.cache import Kept, kept
from pipeline.data.private_folder import private_folder
from pipeline.data.store import Store
from pipeline.digests import digest, sha256
from pipeline.errors import SettingsError, StoreError

_FOLDER = "compiled"
_FILE = "code.so"
_FLAGS = ("-std=c++20", "-O3", "-march=native", "-fPIC", "-DAT_PARALLEL_OPENMP=1")


def instructions() -> list[str]:
    """Those that the CPU has, as far as torch knows them."""
    return sorted(name for name, there in torch.cpu.get_capabilities().items() if there)


@cache
def load_operators(source: Path, key: str) -> None:
    """Compiles a C++ file of operators, or takes what was compiled before, and makes torch know them.

    Args:
        source: the file; headers lie beside it.
        key: of the setting that asks for it, for the error.

    Raises:
        SettingsError: it cannot be compiled here.
        StoreError: the folder cannot be used.
    """
    folder = private_folder(_FOLDER)
    text, headers = source.read_bytes(), [header.read_bytes() for header in sorted(source.parent.glob("*.h"))]
    parts: dict[str, Any] = {
        "source": [sha256(part) for part in (text, *headers)],
        "flags": _FLAGS,
        "torch": [torch.__version__, str(torch.version.git_version)],
        "instructions": instructions(),
        "compiler": _compiler(),
    }
    name = digest(parts)
    try:
        with (folder / f".{name}.lock").open("w") as file, TemporaryDirectory(dir=folder) as here:
            fcntl.flock(file, fcntl.LOCK_EX)  # the actors of a node begin at once
            found = kept(Store(folder), name, _FILE, lambda: Kept(_compiled(source, Path(here), key), {}))
            path = Path(here) / _FILE
            path.write_bytes(found.data)  # the verified bytes, and no others
            torch.ops.load_library(str(path))  # type: ignore[no-untyped-call]
    except OSError as error:
        raise StoreError(folder, f"cannot be used ({error})") from error


def _compiled(source: Path, here: Path, key: str) -> bytes:
    """Linked against torch's own OpenMP, which is there, so that its threads and ours are the same."""
    torch_folder = Path(torch.__file__).parent
    headers = (torch_folder / "include", torch_folder / "include/torch/csrc/api/include")
    built, linked = here / "code.o", here / _FILE
    compile_it = [*_FLAGS, "-fopenmp", *(f"-I{path}" for path in headers), "-c", str(source), "-o", str(built)]
    link_it = ["-shared", str(built), "-o", str(linked), f"-L{torch_folder / 'lib'}", "-ltorch_cpu", "-lc10"]
    for arguments in (compile_it, link_it):
        try:
            run = subprocess.run([_compiler(), *arguments], capture_output=True, text=True, check=False)
        except OSError as error:
            raise SettingsError(key, f"needs a C++ compiler on this machine ({error}), or set it otherwise") from error
        if run.returncode:
            lines = [line for line in run.stderr.splitlines() if "error" in line] or ["it says nothing"]
            raise SettingsError(key, f"{source.name} cannot be compiled on this machine ({lines[0][:200]})")
    return linked.read_bytes()


def _compiler() -> str:
    return os.environ.get("CXX", "c++")
