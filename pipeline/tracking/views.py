"""Saved views of MLflow's runs page: which runs, in which order, with which columns and charts.

MLflow keeps a saved view in a tag of the experiment, `mlflow.sharedViewState.<key>`: JSON with a name, two times, and
the state of the page as a text. The page takes it up when its address says `viewStateShareKey=<key>` and says nothing
of filters or order itself, and lists it under "Views". None of this is documented; it is as MLflow 3.17's page reads
it, and the tests look at the page.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.digests import digest
from pipeline.tracking import names

VIEW_TAG = "mlflow.sharedViewState."
OURS = "sigmasweep-"  # the keys of views that jobs make begin so
_NAME, _CREATED = "attributes.`Run Name`", "runDateAndNestInfo"
_NAME_WIDTH = 210  # pixels, as those that follow: heads whole, and numbers to four digits
_WIDTHS = {"metrics": 84, "params": 96, "tags": 150, "attributes": 160}
_WIDTHS_OF = {"params.point.solver": 116, "metrics.nfe": 58, "tags.pareto": 70, "tags.state": 90}


@dataclass(frozen=True)
class View:
    """One saved view.

    Args:
        name: what a person reads in the list.
        group: of several of one group only the newest stay.
        tags: the runs that carry them are shown.
        columns: from left to right, each as `metrics.fd`, `params.point.solver`, `tags.pareto`, `attributes.Dataset`.
        order: the column that the runs are sorted by, the least first; empty: the newest first.
        scatter: pairs of metrics (x, y), a chart each.
        parallel: params, then metrics, of the chart with parallel coordinates; empty: no such chart.
        images: keys of pictures that are shown beside each other.
    """

    name: str
    group: str
    tags: Mapping[str, str]
    columns: Sequence[str]
    order: str = ""
    scatter: Sequence[tuple[str, str]] = ()
    parallel: tuple[Sequence[str], Sequence[str]] = ((), ())
    images: Sequence[str] = ()

    @property
    def key(self) -> str:
        """Of the same runs it is the same, whatever is shown of them."""
        return f"{OURS}{digest({'view': dict(self.tags)})[:12]}"

    def state(self) -> dict[str, Any]:
        """The state of the page, in its own words."""
        columns = [_canonical(column) for column in self.columns]
        widths = {_canonical(column): _width(column) for column in self.columns}
        shown: dict[str, Any] = {
            "searchFilter": where(self.tags),
            "selectedColumns": columns,
            "columnOrder": [_NAME, *columns, _CREATED],
            "columnWidths": {_NAME: _NAME_WIDTH, **widths},
            "runsHiddenMode": "SHOW_ALL",  # the grid of images takes the first ten by itself
        }
        if self.order:
            shown |= {"orderByKey": _canonical(self.order), "orderByAsc": True}
        charts = self.charts()
        if not charts:
            return shown
        sections = [_section("compare", "Compare", 2, 400), _section("images", "The same seeds", 1, 760)]
        others = {**_section("others", "Model metrics", 3, 360), "display": False, "isGenerated": True}
        return {
            **shown,
            "compareRunCharts": charts,
            "compareRunSections": [*sections, others],
            "isAccordionReordered": True,
        }

    def charts(self) -> list[dict[str, Any]]:
        """The charts, in their order; the page adds one for each other metric, behind a fold."""
        charts = [
            {"type": "SCATTER", "xaxis": _axis(x), "yaxis": _axis(y), "runsCountToCompare": 100}
            for x, y in self.scatter
        ]
        if any(self.parallel):
            params, metrics = (list(keys) for keys in self.parallel)
            chosen = {"selectedParams": params, "selectedMetrics": metrics}
            charts.append({"type": "PARALLEL", **chosen, "showAllRuns": True, "runsCountToCompare": 100})
        images = [{"type": "IMAGE", "imageKeys": [key], "step": 0, "showRunParams": False} for key in self.images]
        return [
            {"uuid": f"chart-{number}", "metricSectionId": section, "isGenerated": False, "deleted": False, **chart}
            for number, (section, chart) in enumerate(
                [("compare", chart) for chart in charts] + [("images", chart) for chart in images]
            )
        ]


def benchmark_view(
    name: str, protocol: str, seeds: tuple[int, int], distance: str, measured: Sequence[str] = ()
) -> View:
    """The settings of a benchmark, the best first: those that were measured by one protocol, on the same seeds.

    Args:
        name: of the benchmark.
        protocol: its digest.
        seeds: the first, and how many.
        distance: the metric that ranks, `fid` or `fd`.
        measured: further metrics worth a column.
    """
    metrics = [names.NFE, distance, f"{distance}_low", f"{distance}_high", *measured]
    first, count = seeds
    return View(
        f"{name}, seeds {first}-{first + count - 1}",
        f"benchmark {name}",
        {"kind": "sampler", names.BENCHMARK: name, names.PROTOCOL_DIGEST: protocol},
        [
            *(f"params.{key}" for key in (names.POINT_SOLVER, names.POINT_STEPS)),
            *(f"metrics.{key}" for key in metrics),
            f"tags.{names.PARETO}",
            "attributes.Dataset",
            f"tags.{names.CHECKPOINT}",
        ],
        f"metrics.{distance}",
        scatter=[(names.NFE, distance)],
        parallel=((names.POINT_SOLVER, names.POINT_STEPS), (names.NFE, distance)),
        images=[names.SAMPLES_IMAGE],
    )


def search_view(name: str) -> View:
    """The trials of a search, the best first."""
    metrics = (names.NFE, names.FD, names.NUM_IMAGES)
    return View(
        f"{name}: trials",
        f"search {name}",
        {"kind": "search", "search": name},
        [
            *(f"params.{key}" for key in (names.POINT_SOLVER, names.POINT_STEPS)),
            *(f"metrics.{key}" for key in metrics),
            "tags.state",
        ],
        f"metrics.{names.FD}",
        scatter=[(names.NFE, names.FD)],
        parallel=((names.POINT_SOLVER, names.POINT_STEPS), (names.NFE, names.FD)),
    )


def comparison_view() -> View:
    """All comparisons of two settings, the newest first."""
    metrics = (names.DIFFERENCE, names.DIFFERENCE_LOW, names.DIFFERENCE_HIGH, names.P_BETTER, names.IMAGES_TO_TELL)
    columns = [*(f"metrics.{key}" for key in metrics), f"tags.{names.COMPARED_WITH}", f"tags.{names.PROTOCOL}"]
    return View("comparisons of two", "comparisons", {"kind": "comparison"}, columns)


def envelope(view: View, now: int) -> str:
    """The value of the view's tag; both times are `now` (ms), by which a view that a person changed is told apart."""
    times = {"createdAt": now, "updatedAt": now}
    return json.dumps({"name": view.name, "group": view.group, **times, "state": json.dumps(view.state())})


def is_untouched(value: str) -> bool:
    """Whether a view's tag is as a job wrote it."""
    try:
        found = json.loads(value)
        return bool(found["createdAt"] == found["updatedAt"])
    except (ValueError, KeyError, TypeError):
        return False


def surplus_views(tags: Mapping[str, str], most: int, most_of_group: int) -> list[str]:
    """Those of an experiment's tags that are views too many: of the ones that jobs made and nobody changed, all but
    the newest."""
    found = {
        key: json.loads(value) for key, value in tags.items() if key.startswith(VIEW_TAG + OURS) and is_untouched(value)
    }
    kept, groups = 0, Counter[str]()
    surplus = list[str]()
    for key in sorted(found, key=lambda key: -int(found[key]["createdAt"])):
        group = str(found[key].get("group", ""))
        groups[group] += 1
        if kept == most or groups[group] > most_of_group:
            surplus.append(key)
        else:
            kept += 1
    return surplus


def where(tags: Mapping[str, str]) -> str:
    """The runs that carry these tags, in the language of MLflow's search."""
    return " and ".join(f"tags.`{key}` = {_quoted(value)}" for key, value in tags.items())


def _quoted(value: str) -> str:
    """MLflow's search knows no way to escape a quote, but knows both kinds of quotes."""
    return f'"{value}"' if "'" in value else f"'{value}'"


def _canonical(column: str) -> str:
    kind, _, key = column.partition(".")
    return f"{kind}.`{key}`"


def _width(column: str) -> int:
    return _WIDTHS_OF.get(column) or _WIDTHS[column.partition(".")[0]]


def _axis(metric: str) -> dict[str, str]:
    return {"key": metric, "type": "METRIC"}


def _section(uuid: str, name: str, columns: int, height: int) -> dict[str, Any]:
    shape = {"columns": columns, "cardHeight": height}
    return {"uuid": uuid, "name": name, "display": True, "isReordered": False, "deleted": False, **shape}
