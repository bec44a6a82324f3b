"""Whether a slot is worse than the last good one, by more than may be; and whether it is better beyond doubt.

Two questions, and two kinds of chance.

*Has the pipeline got worse?* Two trainings of one recipe differ, though nothing is wrong: their seeds do. So an alarm
is about the true distances of two checkpoints differing by more than a margin, which covers that spread. The null
hypothesis is D_new <= (1 + m) D_old (or D_old + m); its test is one-sided, on the sampling error alone, at `level` by
the number of settings (Bonferroni). Where the true difference is within the margin, fewer than `level` slots raise it.

*Is this checkpoint better than the champion?* That is about these two checkpoints and no others, so no margin comes in:
the null hypothesis is D_new >= D_champion, tested at `level`. It must be refused for every setting, each at `level`.

The error is that of the influences (`pipeline.metrics.uncertainty`). On common seeds those of the difference are the
differences, image by image, and what the two share cancels. On disjoint seeds the errors add as squares. A normal
quantile stands for both: the skewness of two slots of equal size cancels in the difference, and is what the 95 %
interval of one distance must allow for.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy.special import ndtr, ndtri

from pipeline.engine.slot_result import Measured
from pipeline.metrics.uncertainty import QUANTILE, within

Verdict = Literal["first", "good", "doubtful", "regression"]


@dataclass(frozen=True)
class Margin:
    """How much worse is no regression, and how sure an alarm must be; see `AlarmSettings`."""

    value: float
    unit: Literal["share", "distance"] = "share"
    level: float = 0.001


@dataclass(frozen=True)
class Contrast:
    """A difference of two distances and its standard error.

    Args:
        value: the new one's less the old one's, each as the question weighs it.
        error: from the images alone.
        paired: on common seeds.
    """

    value: float
    error: float
    paired: bool

    @property
    def p(self) -> float:
        """The one-sided p-value of the null hypothesis that the true one is not above zero."""
        if self.error == 0.0:
            return 0.0 if self.value > 0 else 1.0
        return float(ndtr(-self.value / self.error))


@dataclass(frozen=True)
class Change:
    """Of one setting, since the last good slot.

    Args:
        name: of the setting.
        difference: of the distances, the new one's less the old one's.
        low: the lower end of its 95 % interval.
        high: the upper end.
        paired: on common seeds.
        beyond: how far the new distance lies beyond the old one's and the margin; below zero it is within.
        p: of no regression: so seldom would chance alone show this where the true distance is at the margin.
        visible: the regression beyond the old distance that is found in 8 of 10 slots.
    """

    name: str
    difference: float
    low: float
    high: float
    paired: bool
    beyond: float
    p: float
    visible: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Judgement:
    """Of a slot.

    Args:
        verdict: `first` where there is nothing to compare it with; `doubtful` where a distance lies beyond the margin,
            and the images are too few to be sure: no alarm, but later slots are not compared with this one, or a
            regression that was missed once would be the measure of all that come.
        why: in words, for whoever reads the alarm.
        changes: one a setting that could be compared.
    """

    verdict: Verdict
    why: str
    changes: tuple[Change, ...] = ()


def judge(new: Sequence[Measured], old: Sequence[Measured], margin: Margin) -> Judgement:
    """Compares a slot's settings with those of the same names in the last good slot; none where there was no slot."""
    before = {setting.name: setting for setting in old}
    pairs = [(setting, before[setting.name]) for setting in new if setting.name in before]
    hindered = {reason for pair in pairs if (reason := hindrance(*pair))}
    pairs = [pair for pair in pairs if hindrance(*pair) is None]
    if not pairs:
        return Judgement("first", "; ".join(sorted(hindered)) or "there is no slot before with these settings")
    changes = tuple(_change(one, other, margin, len(pairs)) for one, other in pairs)
    worse = [change for change in changes if change.p < margin.level / len(pairs)]
    if worse:
        return Judgement("regression", "; ".join(_sentence(change, margin, len(pairs)) for change in worse), changes)
    if any(change.beyond > 0 for change in changes):
        why = "a distance is larger by more than the margin, which may be chance: later slots are compared with others"
        return Judgement("doubtful", why, changes)
    return Judgement("good", "no distance is larger by more than the margin, as far as the images tell", changes)


def better_beyond_doubt(new: Sequence[Measured], champion: Sequence[Measured], level: float) -> bool:
    """Whether every setting is better than the champion's of the same name, each at this level."""
    before = {setting.name: setting for setting in champion}
    if not new or any(s.name not in before or hindrance(s, before[s.name]) for s in new):
        return False
    return all(contrast(before[setting.name], setting).p < level for setting in new)


def hindrance(new: Measured, old: Measured) -> str | None:
    """Why two cannot be compared; None where they can."""
    if new.protocol != old.protocol:
        return f"{new.name}: was measured in another way before ({old.count:,} images; by another protocol)"
    if new.influences is None or old.influences is None:
        return f"{new.name}: has no interval: there must be more images than features"
    return None


def contrast(new: Measured, old: Measured, factor: float = 1.0, shift: float = 0.0) -> Contrast:
    """new - factor * old - shift, with its error.

    Raises:
        ValueError: one of the two has no influences.
    """
    if new.influences is None or old.influences is None:
        raise ValueError(f"{new.name}: has no influences")
    value = new.distance - factor * old.distance - shift
    one, other = np.asarray(new.influences, np.float64), factor * np.asarray(old.influences, np.float64)
    if (new.first_seed, new.count) == (old.first_seed, old.count):
        return Contrast(value, _error(one - other, new.strata), paired=True)
    return Contrast(value, math.hypot(_error(one, new.strata), _error(other, old.strata)), paired=False)


def _error(psi: np.ndarray[Any, Any], strata: np.ndarray[Any, Any] | None) -> float:
    """The standard error of a number whose images have these influences."""
    chance, groups = within(psi, strata)
    return float(np.sqrt(np.square(chance).sum() / max(len(psi) - groups, 1) / len(psi)))


def _change(new: Measured, old: Measured, margin: Margin, settings: int) -> Change:
    factor, shift = (1 + margin.value, 0.0) if margin.unit == "share" else (1.0, margin.value)
    plain, beyond = contrast(new, old), contrast(new, old, factor, shift)
    reach = QUANTILE * plain.error
    allowed = (factor - 1) * old.distance + shift
    quantiles = float(ndtri(1 - margin.level / settings) + ndtri(0.8))
    return Change(
        new.name, plain.value, plain.value - reach, plain.value + reach, plain.paired, beyond.value, beyond.p,
        _visible(allowed, quantiles * beyond.error, old.distance),
    )  # fmt: skip


def _visible(allowed: float, reach: float, distance: float) -> float:
    """The regression v with v = allowed + reach at v: the influences of a larger distance are larger, to first order as
    its square root."""
    if distance <= 0:
        return allowed + reach
    share = reach * reach / distance  # (v - allowed)^2 = share (distance + v), solved for v
    half = allowed + share / 2
    return half + math.sqrt(half * half - allowed * allowed + share * distance)


def _sentence(change: Change, margin: Margin, settings: int) -> str:
    allowed = f"{margin.value:.1%}" if margin.unit == "share" else f"{margin.value:g}"
    return (
        f"{change.name}: the distance is larger by {change.difference:.4g} ({change.low:.4g} to {change.high:.4g}), "
        f"more than the margin of {allowed} (p = {change.p:.2g}, level {margin.level / settings:.2g})"
    )


def spread_margin(by_version: Mapping[str, float], level: float = 0.001) -> float | None:
    """The margin that the spread among versions of one recipe asks for: with it, an equal version's true distance lies
    beyond the margin in fewer than `level` cases, if distances are normally distributed.

    The difference of two of them, by the spread of k others, has Student's t with k - 1 degrees of freedom:
    t(1 - level) sqrt(2) s. The spread as measured has the images' chance in it, so the margin errs to the wide side.

    Args:
        by_version: a distance for each version, all of one recipe and of other training seeds.

    Returns:
        In units of the distance; None of fewer than three.
    """
    from scipy.stats import t

    if len(by_version) < 3:
        return None
    values = np.array(list(by_version.values()))
    return float(t.ppf(1 - level, len(values) - 1) * math.sqrt(2) * values.std(ddof=1))
