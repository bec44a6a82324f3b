"""The pictures of a report: figures, and images as they lie in the store."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.data.dataset import Dataset
from pipeline.data.pictures import image_grid
from pipeline.data.samples import read_samples
from pipeline.data.store import Store
from pipeline.errors import DataError, StoreError
from pipeline.report.parts import Figure, Strip
from pipeline.report.tables import Row, distance, first_title
from pipeline.tracking.figures import Point, quality_against_cost

MOST_CLASSES = 20  # of which pictures are shown
PER_CLASS = 6  # images at most
MOST_SEEDS = 64  # that are looked at for them: these are kept whatever else is given up


def front_points(rows: Sequence[Row]) -> list[Point]:
    """The settings as points of a figure."""
    return [
        Point(row["solver"], row["nfe"], _number(row["distance"]), _steps(row), *_ends(row), best=bool(row["pareto"]))
        for row in rows
    ]


def front_figure(record: Mapping[str, Any], rows: Sequence[Row]) -> Figure:
    title = first_title(record)
    y_label = f"{title} (less is better)"
    light, dark = (quality_against_cost(front_points(rows), y_label=y_label, dark=dark) for dark in (False, True))
    best = sorted((row for row in rows if row["pareto"]), key=lambda row: float(row["nfe"]))
    told = "; ".join(f"{row['name']}: NFE {row['nfe']:g}, {distance(row)}" for row in best)
    return Figure("quality_against_nfe", light, dark, f"{title} against NFE. On the front: {told}.")


def tried_figure(search: Mapping[str, Any]) -> Figure:
    marks = [Point(**mark) for mark in search["marks"]]
    y_label = f"{search['distance']} (less is better)"
    light, dark = (quality_against_cost(marks, y_label=y_label, lines=False, dark=dark) for dark in (False, True))
    words = f"All {len(marks)} settings that the search measured, at the level of few images."
    return Figure("search", light, dark, words)


def strip(store: Store, record: Mapping[str, Any], row: Row) -> Strip | None:
    try:
        images = read_samples(store, row["samples_digest"], record["seeds"]["first"], record["pictures"]).images
    except StoreError:  # given up to free space
        return None
    picture = image_grid(images, len(images))
    return Strip(row["name"], f"NFE {row['nfe']:g} · {distance(row)}", data_uri(picture), picture.shape[1])


def class_strips(store: Store, record: Mapping[str, Any], rows: Sequence[Row]) -> tuple[str, tuple[Strip, ...]]:
    """Images of the best setting, class by class, of the first seeds."""
    measured = [row for row in rows if row["distance"] is not None]
    if not measured:
        return "", ()
    best = min(measured, key=lambda row: float(row["distance"]))
    try:
        count = min(MOST_SEEDS, record["seeds"]["count"])
        samples = read_samples(store, best["samples_digest"], record["seeds"]["first"], count)
    except StoreError:
        return "", ()
    classes = sorted({int(label) for label in samples.labels if label >= 0})[:MOST_CLASSES]
    names, strips = _class_names(store, record), []
    for label in classes:
        chosen = samples.images[samples.labels == label][:PER_CLASS]
        picture = image_grid(chosen, len(chosen))
        name = names[label] if label < len(names) else str(label)
        strips.append(Strip(name, "", data_uri(picture), picture.shape[1]))
    return best["name"], tuple(strips)


def _class_names(store: Store, record: Mapping[str, Any]) -> tuple[str, ...]:
    try:
        return Dataset.open(store, record["measures"][0]["reference"]).info.class_names
    except (DataError, StoreError):
        return ()


def data_uri(picture: NDArray[np.uint8]) -> str:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG", optimize=True)
    return png_uri(stream.getvalue())


def png_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _ends(row: Row) -> tuple[float | None, float | None]:
    half = next(iter(row["half_widths"].values()), None)
    if half is None or row["distance"] is None:
        return None, None
    return max(row["distance"] - half, 0.0), row["distance"] + half


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _steps(row: Row) -> str:
    return "adaptive" if row["num_steps"] is None else str(row["num_steps"])
