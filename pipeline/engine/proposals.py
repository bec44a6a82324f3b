"""What to try next, proposed by Optuna: a multi-objective Parzen estimator (Bergstra et al. 2011; Ozaki et al. 2022).

Here alone Optuna is met. It keeps nothing: each generation is asked of a sampler that is made anew from the seed, the
generation and all earlier trials, so the same trials give the same proposals, whatever happened to the process.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from pipeline.config.space import Choice, Domain, Range, Space, choose
from pipeline.digests import digest
from pipeline.errors import SettingsError

ATTEMPTS = 20  # for each proposal, before the space counts as tried out

Params = dict[str, float]


class Told(Protocol):
    """An earlier trial."""

    @property
    def params(self) -> Any: ...


def propose(
    spaces: Sequence[Space], told: Sequence[tuple[Told, float, float]], count: int, seed: int, generation: int,
    accept: Callable[[dict[str, Any]], bool],
) -> list[tuple[Params, dict[str, Any]]]:  # fmt: skip
    """New settings of the spaces.

    Args:
        told: earlier trials with what each came to: two numbers, less being better in both.
        count: of the proposals.
        seed: of the search.
        generation: of the proposals; with the seed it decides all chance.
        accept: whether a setting is worth a trial: it is valid, and was not tried before.

    Returns:
        (what was picked by its path, the dotted keys and their values) of each; fewer where so many attempts found no
        more.

    Raises:
        SettingsError: Optuna is not installed.
    """
    optuna = _optuna()
    chance = int(digest({"seed": seed, "generation": generation})[:8], 16) % 2**31
    with warnings.catch_warnings():  # `group`, which conditional subspaces need, is called experimental since 2.8
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(seed=chance, multivariate=True, group=True, n_startup_trials=2 * count)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    for trial, cost, quality in told:
        params, known = dict(trial.params), _known(spaces, trial.params, optuna)
        study.add_trial(optuna.trial.create_trial(params=params, distributions=known, values=[cost, quality]))
    found: list[tuple[Params, dict[str, Any]]] = []
    for _ in range(ATTEMPTS * count):
        if len(found) == count:
            break
        asked, picked = study.ask(), dict[str, float]()
        chosen = choose(spaces, _asks(asked, picked))
        if accept(chosen):
            found.append((picked, chosen))
        else:
            study.tell(asked, state=optuna.trial.TrialState.FAIL)
    return found


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise SettingsError("search", "needs the package optuna: pip install 'sigmasweep[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _asks(trial: Any, params: Params) -> Callable[[str, Domain], float]:
    def pick(path: str, domain: Domain) -> float:
        if isinstance(domain, Choice):
            value = trial.suggest_categorical(path, list(range(len(domain.options))))
        elif domain.is_whole:
            value = trial.suggest_int(path, domain.low, domain.high, step=domain.step or 1, log=domain.log)
        else:
            value = trial.suggest_float(path, domain.low, domain.high, step=domain.step, log=domain.log)
        params[path] = value
        return float(value)

    return pick


def _known(spaces: Sequence[Space], params: Params, optuna: Any) -> dict[str, Any]:
    """The distribution of everything that a trial picked."""
    found: dict[str, Any] = {}

    def pick(path: str, domain: Domain) -> float:
        found[path] = _distribution(domain, optuna.distributions)
        return params[path]

    choose(spaces, pick)
    return found


def _distribution(domain: Domain, known: Any) -> Any:
    if isinstance(domain, Choice):
        return known.CategoricalDistribution(list(range(len(domain.options))))
    assert isinstance(domain, Range)
    if domain.is_whole:
        return known.IntDistribution(domain.low, domain.high, log=domain.log, step=domain.step or 1)
    return known.FloatDistribution(domain.low, domain.high, log=domain.log, step=domain.step)
