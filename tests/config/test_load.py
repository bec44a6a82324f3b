"""Settings files: strict YAML, `--set`, and one sentence for each mistake."""

from pathlib import Path
from typing import Annotated, get_args

import pytest
from pydantic import Field

from pipeline.config.load import load, parse_yaml, set_key
from pipeline.config.unions import NestedKinds
from pipeline.diffusion.randomness import Window, Zero
from pipeline.diffusion.solvers import ExponentialSDE, Heun, Solver
from pipeline.diffusion.timesteps import EDMSteps, Timesteps
from pipeline.errors import SettingsError
from pipeline.training.settings import Frozen

SOLVERS = [solver.kind for solver in get_args(Solver)]


class Inner(Frozen):
    timesteps: Annotated[Timesteps, Field(discriminator="kind")] = EDMSteps()
    solver: Annotated[Solver, Field(discriminator="kind"), NestedKinds()] = Heun()
    solvers: list[Annotated[Solver, Field(discriminator="kind")]] = Field(default_factory=list)


class Outer(Frozen):
    lr: float = Field(default=1e-3, gt=0)
    steps: int = 1
    path: str = ""
    inner: Inner = Inner()
    needed: str


def written(folder: Path, text: str) -> Path:
    path = folder / "job.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("1E5", 1e5), ("-2.5e+3", -2500.0), (".5", 0.5), ("3.", 3.0), ("1_000.5", 1000.5), ("12", 12),
     (".inf", float("inf")), ("yes", True), ("1e", "1e"), ("e5", "e5"), ("1.2.3", "1.2.3"), ("0x1e5", 0x1E5)],
)  # fmt: skip
def test_a_number_is_a_number(text: str, value: object) -> None:
    assert parse_yaml(text, "here") == value
    assert type(parse_yaml(text, "here")) is type(value)


def test_a_file_and_overrides_make_settings(tmp_path: Path) -> None:
    path = written(tmp_path, "needed: x\nlr: 1e-4\ninner:\n  solver: {kind: alpha, alpha: 0.7}\n")
    settings = load(Outer, path, ["steps=7", "inner.timesteps={kind: edm, num_steps: 5}", "inner.timesteps.rho=3"])
    assert settings.lr == 1e-4
    assert settings.steps == 7
    assert settings.inner.solver.kind == "alpha"
    assert settings.inner.timesteps == EDMSteps(num_steps=5, rho=3.0)


def test_a_part_within_a_part_is_set_and_replaced_whole(tmp_path: Path) -> None:
    path = written(
        tmp_path, "needed: x\ninner:\n  solver: {kind: exponential_sde, beta: {kind: window, sigma_hi: 3}}\n"
    )
    assert load(Outer, path).inner.solver == ExponentialSDE(beta=Window(sigma_hi=3.0))
    assert load(Outer, path, ["inner.solver.beta.factor=2"]).inner.solver.beta == Window(factor=2.0, sigma_hi=3.0)
    assert load(Outer, path, ["inner.solver.beta={kind: zero}"]).inner.solver.beta == Zero()


def test_environment_variables_are_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_PLACE", "/data")
    assert load(Outer, written(tmp_path, "needed: ${SOME_PLACE}/x.gz")).needed == "/data/x.gz"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("lr: 1", "job.yaml: needed: is missing"),
        ("needed: x\nlr: 1\nlr: 2", "job.yaml: line 3, column 1: the key 'lr' stands twice"),
        ("needed: x\nlrr: 1", "job.yaml: lrr: unknown key; did you mean 'lr'?"),
        ("needed: x\nlr: -1", "job.yaml: lr: input should be greater than 0 (got -1)"),
        ("needed: x\nsteps: many", "job.yaml: steps: input should be a valid integer, unable to parse string as an "
                                   "integer (got 'many')"),
        ("needed: x\ninner: {solver: {kind: huen}}", "job.yaml: inner.solver: unknown kind 'huen'; did you mean "
                                                     f"'heun'?; known are {', '.join(SOLVERS)}"),
        ("needed: x\ninner: {solver: {alpha: 1}}", "job.yaml: inner.solver: needs a `kind` (got {'alpha': 1})"),
        ("needed: x\ninner: {solver: {kind: alpha, alpha: 2}}", "job.yaml: inner.solver.alpha: must be above 0 and at "
                                                                "most 1 (got 2.0)"),
        ("needed: x\ninner: {solver: {kind: alpha, alfa: 1}}", "job.yaml: inner.solver.alfa: unknown key; did you mean "
                                                               "'alpha'?"),
        ("needed: x\ninner: {solvers: [{kind: heun}, {kind: euler, order: 1}]}", "job.yaml: inner.solvers.1.order: "
                                                                                 "unknown key; known are kind"),
        ("needed: x\ninner: {timesteps: {kind: edm, sigma_min: 90}}", "job.yaml: inner.timesteps.sigma_min: must be "
                                                                      "positive and less than sigma_max (got 90.0 and "
                                                                      "80.0)"),
        ("needed: x\ninner: {timesteps: {kind: edm, num_steps: 0}}", "job.yaml: inner.timesteps.num_steps: must be at "
                                                                     "least 1 (got 0)"),
        ("needed: x\ninner: {solver: {kind: er_sde, beta: {kind: windw}}}", "job.yaml: inner.solver.beta: unknown kind "
            "'windw'; did you mean 'window'?; known are song, zero, constant, window, er_sde_5"),
        ("needed: x\ninner: {solver: {kind: er_sde, beta: {factor: 2}}}", "job.yaml: inner.solver.beta: needs a `kind` "
            "(got {'factor': 2})"),
        ("needed: x\ninner: {solver: {kind: er_sde, beta: {kind: constant, factr: 2}}}", "job.yaml: "
            "inner.solver.beta.factr: unknown key; did you mean 'factor'?"),
        ("needed: x\ninner: {solver: {kind: er_sde, beta: {kind: constant, factor: -2}}}", "job.yaml: "
            "inner.solver.beta.factor: must be 0 or more (got -2.0)"),
        ("needed: x\ninner: {solver: {kind: er_sde, beta: 2}}", "job.yaml: inner.solver.beta: input should be a valid "
            "dictionary or object to extract fields from (got 2)"),
        ("needed: ${NO_SUCH_VARIABLE}", "job.yaml: needed: the environment variable NO_SUCH_VARIABLE is not set (in "
                                        "'${NO_SUCH_VARIABLE}'); set it first"),
        ("[1, 2]", "job.yaml: must hold keys and values (got a list)"),
        ("a: [1", "job.yaml: line 1, column 6: expected ',' or ']', but got '<stream end>'"),
        ("a: !!python/object/apply:os.system [ls]", "job.yaml: line 1, column 4: could not determine a constructor for "
                                                    "the tag 'tag:yaml.org,2002:python/object/apply:os.system'"),
        ("{[1]: 2}", "job.yaml: line 1, column 2: a key must be a word"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_file_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(SettingsError) as raised:
        load(Outer, written(tmp_path, text))
    assert str(raised.value) == f"{tmp_path}/{sentence}"


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("steps", "--set: must be KEY=VALUE, such as training.seed=1 (got 'steps')"),
        ("lr.x=1", "lr.x: lr is 0.1 and has no keys; set it whole"),
        ("lr={", "--set lr: line 1, column 2: expected the node content, but found '<stream end>'"),
    ],
)
def test_a_mistake_in_an_override_is_one_sentence(tmp_path: Path, override: str, sentence: str) -> None:
    with pytest.raises(SettingsError) as raised:
        load(Outer, written(tmp_path, "needed: x\nlr: 0.1"), [override])
    assert str(raised.value) == sentence


def test_several_mistakes_are_counted(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"unknown key.* \(and 1 more\)$"):
        load(Outer, written(tmp_path, "needed: x\naaa: 1\nbbb: 2"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.yaml: there is no such file"):
        load(Outer, tmp_path / "none.yaml")


def test_a_key_is_set_where_nothing_was() -> None:
    content: dict[str, object] = {"a": None}
    set_key(content, "a.b.c", 1)
    assert content == {"a": {"b": {"c": 1}}}
