"""Writes the catalogue of the design space, with what the tests check each solver against.

    python -m tests.catalogue > docs/catalogue.md

A test module that compares solvers with independent code says so in `CHECKED`: by the kind of a solver, what it is
compared with.
"""

from importlib import import_module
from pathlib import Path

from pipeline.config.parts import design_space

MODULES = Path(__file__).parent / "diffusion"


def checked() -> dict[str, str]:
    """What every solver is compared with, in words, by its kind."""
    found: dict[str, list[str]] = {}
    for path in sorted(MODULES.glob("test_*.py")):
        if "\nCHECKED = {" in path.read_text(encoding="utf-8"):
            for kind, what in import_module(f"tests.diffusion.{path.stem}").CHECKED.items():
                found.setdefault(kind, []).append(what if isinstance(what, str) else ", ".join(what))
    return {kind: "; ".join(texts) for kind, texts in found.items()}


def catalogue() -> str:
    return design_space(checked())


if __name__ == "__main__":
    print(catalogue(), end="")
