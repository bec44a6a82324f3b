"""Spaces: what may be chosen, and what a grid over them would try."""

from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.config.load import validate
from pipeline.config.search import SearchSettings
from pipeline.config.space import Choice, Domain, FullGrid, Range, choose, expansions, one_by_one, parse_space
from pipeline.errors import SettingsError

SPACE: dict[str, Any] = {
    "sampler.timesteps.num_steps": {"low": 4, "high": 10},
    "sampler.timesteps.rho": {"low": 3.0, "high": 12.0},
    "sampler.stochasticity": [
        {"kind": "none"},
        {"kind": "churn", "S_churn": {"low": 1, "high": 30, "log": True}, "S_noise": {"any": [1.0, 1.003]}},
    ],
}


def first(_path: str, domain: Domain) -> float:
    return domain.low if isinstance(domain, Range) else 0


def settings(**changes: Any) -> SearchSettings:
    content = {
        "name": "s", "checkpoint": {"training": "x"}, "space": SPACE, "budget": {"nfe": 1e6},
        "metrics": {"extractors": [{"kind": "classifier"}]}, **changes,
    }  # fmt: skip
    return validate(SearchSettings, content, "search.yaml")


def test_what_stands_within_a_choice_is_asked_only_where_it_is_chosen() -> None:
    asked: list[str] = []

    def pick(path: str, domain: Domain) -> float:
        asked.append(path)
        return first(path, domain) if path != "sampler.stochasticity" else churn

    space = parse_space(SPACE)
    churn = 0
    assert choose([space], pick)["sampler.stochasticity"] == {"kind": "none"}
    assert asked == ["sampler.timesteps.num_steps", "sampler.timesteps.rho", "sampler.stochasticity"]
    asked.clear()
    churn = 1
    assert choose([space], pick)["sampler.stochasticity"] == {"kind": "churn", "S_churn": 1, "S_noise": 1.0}
    assert asked[-2:] == ["sampler.stochasticity=1.S_churn", "sampler.stochasticity=1.S_noise"]


def test_several_spaces_are_alternatives_whose_questions_are_told_apart() -> None:
    spaces = [parse_space({"sampler.timesteps.rho": {"low": low, "high": 9.0}}) for low in (1.0, 5.0)]
    asked: dict[str, Domain] = {}

    def pick(path: str, domain: Domain) -> float:
        asked[path] = domain
        return 1 if path == "space" else first(path, domain)

    assert choose(spaces, pick) == {"sampler.timesteps.rho": 5.0}
    assert asked == {"space": Choice((0, 1)), "1:sampler.timesteps.rho": Range(5.0, 9.0)}


def test_a_grid_takes_all_choices_and_so_many_numbers_of_each_range() -> None:
    grid = FullGrid([parse_space(SPACE)], points=3)
    assert len(grid) == 3 * 3 * (1 + 3 * 2)
    everything = grid.some(1000)
    assert len({str(chosen) for chosen in everything}) == len(grid) == len(everything)
    assert {chosen["sampler.timesteps.num_steps"] for chosen in everything} == {4, 7, 10}
    assert len(grid.some(10)) == 10
    assert expansions(Range(1, 100, log=True), 3) == [1, 10, 100]
    assert expansions(Range(1, 3), 10) == [1, 2, 3]
    assert expansions(Range(0.05, 0.25, step=0.05, text="posthoc-{}"), 3) == [
        "posthoc-0.05", "posthoc-0.15", "posthoc-0.25"
    ]  # fmt: skip


def test_every_value_is_tried_once_before_a_search_is_begun() -> None:
    tried = list(one_by_one(parse_space(SPACE)))
    assert len(tried) == 1 + 1 + 1 + 4
    assert tried[0] == {
        "sampler.timesteps.num_steps": 4, "sampler.timesteps.rho": 3.0, "sampler.stochasticity": {"kind": "none"}
    }  # fmt: skip


def test_a_setting_of_the_space_is_named_by_what_was_chosen() -> None:
    name, point = settings().point(choose(settings().spaces, first))
    assert name == "num_steps=4, rho=3, none"
    assert point.sampler.build().timesteps.num_steps == 4  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"space": {}}, "space: is empty"),
        ({"space": {"seeds.first": [1]}}, "seeds.first cannot be searched; keys begin with one of checkpoint."),
        ({"space": {"sampler.solver": []}}, "sampler.solver has nothing to choose from"),
        ({"space": {"sampler.timesteps.rho": {"low": 3}}}, "sampler.timesteps.rho: a range needs high"),
        ({"space": {"sampler.timesteps.rho": {"low": 5, "high": 2}}}, "low must be less than high .got 5 and 2."),
        ({"space": {"sampler.timesteps.rho": {"low": "a", "high": 2}}}, "low must be a number .got 'a'."),
        ({"space": {"sampler.timesteps.rho": {"low": 0, "high": 2, "log": True}}}, "log goes with a low above 0"),
        ({"space": {"sampler.timesteps.rho": {"low": 0, "high": 2, "lgo": True}}}, "a range has no lgo; known are"),
        ({"space": {"checkpoint.ema": {"low": 0.1, "high": 0.2, "text": "posthoc"}}}, "must hold {} once"),
        ({"space": {"sampler.solver": [{"kind": "huen"}]}}, "did you mean 'heun'"),
        ({"space": {"sampler.timesteps.num_steps": {"low": -2, "high": 4}}}, "space .num_steps=-2"),
        ({"budget": {}}, "nfe: or minutes: must be given"),
        ({"images": [500, 500]}, "must rise"),
        (
            {"final": {"seeds": {"first": 4999, "count": 10}}},
            "seeds 4999-5008 overlap those of the search",
        ),
    ],
)
def test_a_mistake_is_one_sentence(changes: dict[str, Any], told: str) -> None:
    with pytest.raises((SettingsError, ValidationError), match=told) as caught:
        settings(**changes)
    assert "\n" not in str(caught.value)
