"""The design space in tables: every part of the math with its order, its cost and the paper it is from.

Made of the code alone: orders and evaluations are asked of instances, references are read from docstrings. The tests
add what each solver is checked against, and write the file: `python -m tests.catalogue > docs/catalogue.md`.
"""

import inspect
import re
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import fields
from itertools import product
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pipeline.config.catalogue import PARTS, fields_told, first_paragraph, members
from pipeline.diffusion.solvers import Solver
from pipeline.metrics.scores import Score

HEAD = """# Catalogue

Made by `python -m tests.catalogue > docs/catalogue.md`; a test fails when it is stale. Every part goes with every
other: each solver with each schedule, scaling, time grid, stochasticity and guidance. Every key that settings take:
[settings.md](settings.md).

The order is that of the global error, as a test measures it on data with a known answer, on the smooth grids and with
every schedule and scaling (where it could not be read off, `tests/diffusion/test_solvers.py` says so and why); of a
stochastic solver it is the weak order, measured on a linear denoiser. Evaluations are calls of the denoiser a step;
the last step, to sigma = 0, is Euler's in all and costs one (the embedded pairs ask once more at their first step).
Guidance by a second network doubles them.
"""
CHECKED_HEAD = """## Checked against

What each solver agrees with besides its order: code that was written independently of it.
"""
SCORES_HEAD = """## Scores

What is measured beside the Frechet distance (`metrics.scores`), from stored features alone; a name in brackets is that
of the number where the extractor is not the published Inception network. How to ask for them:
[metrics.md](metrics.md).
"""
NOT_OF_THE_SPACE = ("Labels", "Extractors", "Scores", "Image sources")
EDM = "2206.00364"
_ARXIV = re.compile(r"arXiv[: ]\s*(\d{4}\.\d{4,5})")
_EDM_WORDS = re.compile(r"Karras et al\. 2022|Table 1")
_CITATION = re.compile(r"[A-Z][\w'-]+(?:,? (?:and [A-Z][\w'-]+|et al\.))?,? (?:19|20)\d\d")
_MOST_STEPS = 6  # the largest whole number that is tried for a field on which the order may depend


def design_space(checked: Mapping[str, str]) -> str:
    """The text of `docs/catalogue.md`.

    Args:
        checked: by the kind of a solver or score, the independent code that it is compared with.
    """
    sections = [_section(title, union) for title, union in space().items()]
    rows = [row(f"`{part.kind}`", checked.get(part.kind, "")) for part in members(Solver)]
    told = "\n".join([CHECKED_HEAD, row("kind", "by a test, against"), rule(2), *rows, ""])
    return "\n".join([HEAD, *sections, told, scores_section(checked)])


def space() -> dict[str, Any]:
    """The unions that the catalogue tells of, by title."""
    return {title: union for title, union in PARTS.items() if not title.startswith(NOT_OF_THE_SPACE)}


def reference(part: type) -> str:
    """The papers that a part's docstring names, as Markdown; its file's where the file has no other part; or empty."""
    module = sys.modules[part.__module__]
    texts = [inspect.getdoc(part) or ""]
    of_file = [item for item in vars(module).values() if getattr(item, "__module__", "") == part.__module__]
    if sum("kind" in getattr(item, "__dataclass_fields__", ()) for item in of_file) == 1:
        texts.append(module.__doc__ or "")
    return next((found for text in texts if (found := _papers(" ".join(text.split())))), "")


def without_reference() -> Iterable[str]:
    """`title: kind` of the parts whose docstrings name no paper."""
    for title, union in space().items():
        yield from (f"{title.split(' (')[0]}: {part.kind}" for part in members(union) if not reference(part))


def variants(part: type) -> list[Any]:
    """The instances of a part over all its fields that have few values: choices, switches, and whole numbers on which
    the order depends. Every other field has its default."""
    options = {field.name: _choices(part, field.name) for field in fields(part)}
    found = []
    for values in product(*options.values()):
        with suppress(ValueError):  # choices that do not go together
            found.append(part(**dict(zip(options, values, strict=True))))
    return found


def _choices(part: Any, name: str) -> list[Any]:
    """Values of one field, the default first."""
    default, annotation = getattr(part(), name), get_type_hints(part)[name]
    values: list[Any] = []
    if annotation is bool:
        values = [False, True]
    elif get_origin(annotation) is Literal:
        values = list(get_args(annotation))
    elif annotation is int:
        orders = {value: order for value in range(1, _MOST_STEPS + 1) if (order := _order(part, name, value))}
        values = list(orders) if len(set(orders.values())) > 1 else []
    return [default, *(value for value in values if value != default)]


def _order(part: Any, name: str, value: int) -> int:
    """Of the part with this value; 0 where it refuses the value."""
    try:
        return int(part(**{name: value}).order)
    except (ValueError, AttributeError):
        return 0


def _papers(text: str) -> str:
    numbers = list(dict.fromkeys(_ARXIV.findall(text)))
    if not numbers and _EDM_WORDS.search(text):
        numbers = [EDM]
    if numbers:
        return ", ".join(f"[{number}](https://arxiv.org/abs/{number})" for number in numbers)
    found = _CITATION.search(text)
    return found[0] if found else ""


def _section(title: str, union: Any) -> str:
    head, tell = (_SOLVER_HEAD, _solver) if union is Solver else (_HEAD, _other)
    rows = [row(*tell(part)) for part in members(union)]
    return "\n".join([f"## {title}", "", row(*head), rule(len(head)), *rows, ""])


def scores_section(checked: Mapping[str, str]) -> str:
    """What every score tells: a line for each of its numbers."""
    rows = [
        row(f"`{score.kind}`", f"`{number.key}`" + (f" (`{number.plain_key}`)" if number.plain_key else ""),
            number.better, _needs(score), number.estimand or f"none: {number.why_none}", reference(score),
            checked.get(score.kind, ""))
        for score in get_args(Score) for number in score.numbers
    ]  # fmt: skip
    head = ("kind", "number", "better", "needs", "its 95 % interval is of", "reference", "by a test, against")
    return "\n".join([SCORES_HEAD, row(*head), rule(len(head)), *rows, ""])


def _needs(score: Any) -> str:
    used = sorted(score.uses - score.needs)
    return ", ".join(sorted(score.needs)) + (f"; takes {', '.join(used)}" if used else "")


_HEAD = ("kind", "parameters", "", "reference")
_SOLVER_HEAD = ("kind", "order", "evaluations", "stochastic", "parameters", "", "reference")


def _other(part: Any) -> tuple[str, ...]:
    return f"`{part.kind}`", fields_told(part), first_paragraph(part), reference(part)


def _solver(part: Any) -> tuple[str, ...]:
    found = variants(part)
    stochastic = "yes" if found[0].stochastic else "no"
    kind, *rest = _other(part)
    return kind, _by_variant(found, "order"), _by_variant(found, "evaluations"), stochastic, *rest


def _by_variant(found: list[Any], name: str) -> str:
    """A property of all variants: `2`; or where it varies, by the field that it depends on: `max_order 1, 2: 2, 3`."""
    values = [getattr(variant, name) for variant in found]
    if len(set(values)) == 1:
        return str(values[0])
    cause = [field.name for field in fields(found[0]) if _decides(found, values, field.name)]
    if not cause:
        return f"{min(values)} to {max(values)}"
    by_cause = dict(sorted((getattr(variant, cause[0]), value) for variant, value in zip(found, values, strict=True)))
    return f"`{cause[0]}` {', '.join(map(str, by_cause))}: {', '.join(map(str, by_cause.values()))}"


def _decides(found: list[Any], values: list[Any], name: str) -> bool:
    """Whether the values are a function of this one field."""
    pairs = {(getattr(variant, name), value) for variant, value in zip(found, values, strict=True)}
    return len(pairs) == len({choice for choice, _ in pairs}) > 1


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def rule(columns: int) -> str:
    return f"|{'---|' * columns}"
