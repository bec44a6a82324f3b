"""Writes the catalogue of the design space, with what the tests check each solver against.

    python -m tests.catalogue > docs/catalogue.md

A test module that compares solvers with independent code says so in `CHECKED`: by the kind of a solver, what it is
compared with.
"""

from importlib import import_module
from importlib.util import find_spec

from pipeline.config.parts import design_space

MODULES = ("test_solvers", "test_against_diffusers", "test_stochastic_solvers")


def checked() -> dict[str, str]:
    """What every solver is compared with, in words, by its kind."""
    found: dict[str, list[str]] = {}
    for name in MODULES:
        if find_spec(f"tests.diffusion.{name}"):
            for kind, what in import_module(f"tests.diffusion.{name}").CHECKED.items():
                found.setdefault(kind, []).append(what if isinstance(what, str) else ", ".join(what))
    return {kind: "; ".join(texts) for kind, texts in found.items()}


def catalogue() -> str:
    return design_space(checked())


if __name__ == "__main__":
    print(catalogue(), end="")
