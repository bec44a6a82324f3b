"""Writes the catalogue of the design space, with what the tests check each solver against.

    python -m tests.catalogue > docs/catalogue.md

A test module that compares solvers or scores with independent code says so in `CHECKED`: by the kind, what it is
compared with.
"""

from importlib import import_module
from pathlib import Path

from pipeline.config.parts import design_space

MODULES = ("diffusion", "metrics.scores")


def checked() -> dict[str, str]:
    """What every solver and score is compared with, in words, by its kind."""
    found: dict[str, list[str]] = {}
    for package in MODULES:
        folder = Path(__file__).parent / package.replace(".", "/")
        for path in sorted(folder.glob("test_*.py")):
            if "\nCHECKED = {" not in path.read_text(encoding="utf-8"):
                continue
            for kind, what in import_module(f"tests.{package}.{path.stem}").CHECKED.items():
                found.setdefault(kind, []).append(what if isinstance(what, str) else ", ".join(what))
    return {kind: "; ".join(texts) for kind, texts in found.items()}


def catalogue() -> str:
    return design_space(checked())


if __name__ == "__main__":
    print(catalogue(), end="")
