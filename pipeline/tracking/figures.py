"""Figures: quality against cost. Plain functions from numbers to PNG bytes, without any state of pyplot.

Grids of images need no axes and are in `pipeline.data.pictures`.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, distinct for colour-blind readers, the yellow left out: it is too pale for a line on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_ON_DARK = ("#56B4E9", "#E69F00", "#2EBF91", "#E29BC5", "#F0E442", "#F08A4B", "#F2F2F2")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


@dataclass(frozen=True)
class _Style:
    """Of what is not data."""

    ink: str
    faint: str
    paper: str
    colours: tuple[str, ...]


_LIGHT = _Style("#222222", "#d9d9d9", "#ffffff", _COLOURS)
_DARK = _Style("#e4e4e4", "#3c4043", "#17191c", _ON_DARK)
_FRONT = "nothing is better in both"
_LOG_SPREAD = 8.0  # largest by smallest distance, from which a logarithmic axis reads better


@dataclass(frozen=True)
class Point:
    """One setting in a figure.

    Args:
        series: the line it belongs to, such as the solver.
        cost: what it costs, such as evaluations an image; above 0.
        distance: its quality, less is better.
        label: a short word beside the mark, or empty.
        low: lower end of the distance's interval, if there is one.
        high: upper end.
        best: nothing is better in both cost and distance; it gets a ring.
    """

    series: str
    cost: float
    distance: float
    label: str = ""
    low: float | None = None
    high: float | None = None
    best: bool = False


def quality_against_cost(
    points: Sequence[Point],
    title: str = "",
    x_label: str = "network evaluations per image (NFE)",
    y_label: str = "Frechet distance (less is better)",
    lines: bool = True,
    dark: bool = False,
) -> bytes:
    """One line a series, or marks alone; intervals as bars, rings around what nothing beats in both.

    Points whose distance is not finite are left out. The axes are logarithmic where the numbers spread widely. `dark`
    is for a dark page.

    Returns:
        A PNG.
    """
    from matplotlib.figure import Figure

    shown, style = [p for p in points if np.isfinite(p.distance)], _DARK if dark else _LIGHT
    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained", facecolor=style.paper)
    axes = figure.add_subplot(facecolor=style.paper)
    for number, series in enumerate(dict.fromkeys(p.series for p in shown)):
        _draw_series(axes, series, [p for p in shown if p.series == series], number, lines, style)
    front = sorted((p for p in shown if p.best), key=lambda p: p.cost)
    if front:
        axes.step([p.cost for p in front], [p.distance for p in front], where="post", color="#999999", lw=1, ls=":",
                  zorder=1)  # fmt: skip
        axes.scatter([p.cost for p in front], [p.distance for p in front], s=150, facecolors="none",
                     edgecolors=style.ink, linewidths=1.3, zorder=4, label=_FRONT)  # fmt: skip
    _set_scales(axes, shown)
    _dress(axes, title, x_label, y_label, bool(shown), style)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def series_colours(series: Sequence[str]) -> dict[str, str]:
    """The colour that each series has in a figure of these, `#rrggbb`."""
    found = dict.fromkeys(series)
    return {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(found)}


def pixels(png: bytes) -> NDArray[np.uint8]:
    """A PNG as uint8 (H, W, 3)."""
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


def _draw_series(axes: "Axes", series: str, points: list[Point], number: int, is_line: bool, paper: _Style) -> None:
    points = sorted(points, key=lambda p: (p.cost, p.distance))
    colour, marker = paper.colours[number % len(paper.colours)], _MARKERS[number % len(_MARKERS)]
    x, y = [p.cost for p in points], [p.distance for p in points]
    below = [max(p.distance - p.low, 0.0) if p.low is not None else 0.0 for p in points]
    above = [max(p.high - p.distance, 0.0) if p.high is not None else 0.0 for p in points]
    style: dict[str, Any] = {"color": colour, "marker": marker, "ls": "-" if is_line else "none"}
    axes.errorbar(x, y, yerr=[below, above] if any(below) or any(above) else None, **style,
                  markersize=6, lw=1.8, capsize=2.5, elinewidth=1, label=series, zorder=3)  # fmt: skip
    for point in points:
        if point.label:
            axes.annotate(point.label, (point.cost, point.distance), xytext=(7, 7), textcoords="offset points",
                          fontsize=8, color=colour, zorder=5, parse_math=False)  # fmt: skip


def _set_scales(axes: "Axes", points: list[Point]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, StrMethodFormatter

    costs, distances = sorted({p.cost for p in points}), [p.distance for p in points]
    if distances and min(distances) > 0 and max(distances) / min(distances) >= _LOG_SPREAD:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    if len(costs) > 1 and costs[0] > 0 and costs[-1] / costs[0] >= 3:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    if costs:
        axes.set_xticks(_spread(costs, axes.get_xscale() == "log"))


def _spread(values: list[float], is_log: bool) -> list[float]:
    """Those of the values that leave room between their labels on the axis."""
    scale = np.log(values) if is_log else np.asarray(values)
    span = float(scale[-1] - scale[0]) or 1.0
    kept = [0]
    for index in range(1, len(values)):
        if (scale[index] - scale[kept[-1]]) / span >= 0.05:
            kept.append(index)
    return [values[index] for index in kept]


def _dress(axes: "Axes", title: str, x_label: str, y_label: str, has_legend: bool, paper: _Style) -> None:
    style: dict[str, Any] = {"color": paper.ink, "fontsize": 11}
    style["parse_math"] = False  # a name is text, whatever signs are in it
    axes.set_title(title, loc="left", fontweight="bold", **style)
    axes.set_xlabel(x_label, **style)
    axes.set_ylabel(y_label, **style)
    axes.grid(True, color=paper.faint, lw=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=paper.ink, labelsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(paper.ink)
    axes.margins(x=0.06, y=0.1)
    if has_legend:
        handles, labels = axes.get_legend_handles_labels()
        order = sorted(range(len(labels)), key=lambda index: labels[index] == _FRONT)  # the rings come last
        legend = axes.legend([handles[i] for i in order], [labels[i] for i in order], frameon=False, fontsize=9,
                             labelcolor=paper.ink)  # fmt: skip
        for text in legend.get_texts():
            text.set_parse_math(False)
