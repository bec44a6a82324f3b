"""A figure: the distance slot by slot. Numbers in, PNG bytes out."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_ALARM, _FAINT = "#D55E00", "#999999"


@dataclass(frozen=True)
class Mark:
    """One setting of one slot.

    Args:
        instant: of the slot, with its time zone: the axis is in it.
        setting: a line of the figure.
        distance: less is better.
        low: the lower end of its interval, if it has one.
        high: the upper end.
        alarm: the slot raised one.
        champion: its version became the champion.
    """

    instant: datetime
    setting: str
    distance: float
    low: float | None = None
    high: float | None = None
    alarm: bool = False
    champion: bool = False


def distance_over_time(marks: Sequence[Mark], missed: Sequence[datetime], title: str, y_label: str) -> bytes:
    """One line a setting with its intervals; crosses on alarms, stars on new champions, ticks below for missed slots.

    Returns:
        A PNG.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for number, setting in enumerate(dict.fromkeys(mark.setting for mark in marks)):
        _draw(axes, [mark for mark in marks if mark.setting == setting], setting, _COLOURS[number % len(_COLOURS)])
    _ring(axes, [mark for mark in marks if mark.alarm], "X", _ALARM, "alarm")
    _ring(axes, [mark for mark in marks if mark.champion], "*", "#F0C000", "new champion")
    if missed:
        axes.plot(_days(missed), [0.02] * len(missed), "|", color=_FAINT, ms=14, mew=2, label="missed",
                  transform=axes.get_xaxis_transform())  # fmt: skip
    axes.set_title(title, loc="left", fontweight="bold", fontsize=11)
    axes.set_ylabel(y_label)
    axes.grid(True, color="#d9d9d9", lw=0.7)
    axes.set_axisbelow(True)
    axes.margins(y=0.15)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if marks or missed:
        _dates(axes, [*(mark.instant for mark in marks), *missed])
        axes.legend(frameon=False, fontsize=9)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _draw(axes: "Axes", marks: Sequence[Mark], setting: str, colour: str) -> None:
    below = [mark.distance - (mark.distance if mark.low is None else mark.low) for mark in marks]
    above = [(mark.distance if mark.high is None else mark.high) - mark.distance for mark in marks]
    x, y = _days([mark.instant for mark in marks]), [mark.distance for mark in marks]
    axes.errorbar(x, y, yerr=[below, above], color=colour, marker="o", ms=5, lw=1.4, capsize=2.5, elinewidth=1,
                  label=setting, zorder=3)  # fmt: skip


def _ring(axes: "Axes", marks: Sequence[Mark], marker: str, colour: str, label: str) -> None:
    if marks:
        axes.scatter(_days([mark.instant for mark in marks]), [mark.distance for mark in marks], marker=marker, s=170,
                     color=colour, edgecolors="#222222", linewidths=0.8, zorder=5, label=label)  # fmt: skip


def _days(instants: Sequence[datetime]) -> list[float]:
    """As matplotlib counts them."""
    from matplotlib.dates import date2num

    return [float(date2num(instant)) for instant in instants]


def _dates(axes: "Axes", instants: Sequence[datetime]) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    zone = instants[0].tzinfo
    locator = AutoDateLocator(tz=zone)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=zone))
