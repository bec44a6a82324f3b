"""The catalogue of the design space."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import pytest

from pipeline.config.parts import design_space, reference, space, variants, without_reference
from pipeline.diffusion.solvers import Solver
from pipeline.metrics.scores import Score
from tests.catalogue import checked

# What is nobody's idea: the plain choice of each list, and this project's own.
OWN = {"Time grids: explicit", "Stochasticity: none", "Guidance: none", "Networks: mlp"}


@dataclass(frozen=True)
class Toy:
    """A solver from a book, Hairer and Wanner 1993."""

    kind: Literal["toy"] = "toy"
    steps: int = 2
    batch: int = 7
    form: Literal["long", "short"] = "long"
    corrected: bool = False
    weight: float = 1.0
    stochastic: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= 3 or (self.corrected and self.form == "short"):
            raise ValueError

    @property
    def order(self) -> int:
        return min(self.steps, 2)

    @property
    def evaluations(self) -> int:
        return 2 if self.corrected else 1


def section(text: str, title: str) -> str:
    return text[text.index(f"## {title}") :].split("\n## ")[0]


@pytest.mark.parametrize("title", space())
def test_every_part_of_the_math_has_a_row(title: str) -> None:
    rows = section(design_space({}), title)
    assert [row.split("`")[1] for row in rows.splitlines() if row.startswith("| `")] == [
        part.kind for part in get_args(space()[title]) or (space()[title],)
    ]


def test_every_part_names_the_paper_that_it_is_from() -> None:
    told = "name the paper in the docstring, as `arXiv 2206.00364`"
    assert set(without_reference()) == OWN, told


def test_a_solver_is_told_with_its_orders_over_all_its_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    found = variants(Toy)
    assert found[0] == Toy()
    assert len(found) == 3 * 3  # steps, and the form and the correction that go together
    assert {variant.batch for variant in found} == {7}, "the order does not depend on it"
    monkeypatch.setattr("pipeline.config.parts.members", lambda union: (Toy,))
    row = next(row for row in section(design_space({}), "Solvers").splitlines() if "`toy`" in row)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1] == "`steps` 1, 2, 3: 1, 2, 2"
    assert cells[2] == "`corrected` False, True: 1, 2"
    assert cells[-1] == "Hairer and Wanner 1993"


@pytest.mark.parametrize("solver", get_args(Solver), ids=lambda solver: solver.kind)
def test_the_first_variant_of_a_solver_is_the_one_without_settings(solver: type) -> None:
    assert variants(solver)[0] == solver()


@pytest.mark.parametrize(
    ("text", "paper"),
    [
        ("A grid (Sabour et al., arXiv 2404.14507,\nTable 2).", "[2404.14507](https://arxiv.org/abs/2404.14507)"),
        ("Levels (Table 1, column VE).", "[2206.00364](https://arxiv.org/abs/2206.00364)"),
        ("A method of Song et al. 2021, that is all.", "Song et al. 2021"),
        ("Nothing at all.", ""),
    ],
)
def test_the_reference_is_read_from_the_docstring(text: str, paper: str) -> None:
    assert reference(type("Part", (), {"__doc__": text, "__module__": __name__, "kind": "x"})) == paper


def test_what_is_checked_is_a_solver_or_a_score_and_every_score_is() -> None:
    scores = {score.kind for score in get_args(Score)}
    assert set(checked()) <= {solver.kind for solver in get_args(Solver)} | scores
    assert scores <= set(checked())


@pytest.mark.parametrize("score", get_args(Score), ids=lambda score: score.kind)
def test_every_number_of_a_score_has_a_row_with_its_paper(score: type) -> None:
    rows = [row for row in section(design_space({}), "Scores").splitlines() if row.startswith(f"| `{score.kind}` |")]
    assert [row.split("`")[3] for row in rows] == [number.key for number in score.numbers]
    assert all(reference(score) and reference(score) in row for row in rows)
