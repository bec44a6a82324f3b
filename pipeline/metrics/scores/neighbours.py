"""Distances between two sets of features in blocks: 50,000 x 50,000 of them would be 20 GB."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
BLOCK = 2048  # rows and columns at once: 32 MB in float64


def blocks(n: int) -> Iterator[slice]:
    """[0, n) in slices of at most `BLOCK`."""
    for first in range(0, n, BLOCK):
        yield slice(first, min(first + BLOCK, n))


def squared_distances(x: NDArray[np.floating], y: NDArray[np.floating]) -> Float64:
    """|x_i - y_j|^2, shape (N, M), in float64.

    By |x|^2 + |y|^2 - 2 x y about the mean of y: what rounding leaves of it is 1e-16 of the squared spread.
    """
    centre = np.mean(y, axis=0, dtype=np.float64)
    a, b = x - centre, y - centre
    products = a @ b.T
    products *= -2
    products += np.square(a).sum(axis=1)[:, None]
    products += np.square(b).sum(axis=1)
    return np.maximum(products, 0, out=products)


def distances_in_blocks(x: NDArray[np.floating], y: NDArray[np.floating]) -> Iterator[tuple[slice, slice, Float64]]:
    """All of them, block by block: which of x and which of y, and their squared distances."""
    for rows in blocks(len(x)):
        for columns in blocks(len(y)):
            yield rows, columns, squared_distances(x[rows], y[columns])


def nearest(
    x: NDArray[np.floating], y: NDArray[np.floating], k: int, itself: bool = False
) -> tuple[Float64, NDArray[np.int64]]:
    """The k nearest of y for every x: squared distances, ascending, and indices, both of shape (N, k).

    Args:
        itself: x and y are the same set, and nothing is its own neighbour.

    Raises:
        ValueError: y has fewer than k to be neighbours.
    """
    if len(y) - int(itself) < k:
        raise ValueError(f"k: {len(y)} features have no {k} neighbours each")
    distances = np.empty((len(x), k))
    indices = np.empty((len(x), k), np.int64)
    for rows in blocks(len(x)):
        distances[rows], indices[rows] = _nearest(x[rows], y, k, rows.start if itself else None)
    return distances, indices


def _nearest(
    x: NDArray[np.floating], y: NDArray[np.floating], k: int, offset: int | None
) -> tuple[Float64, NDArray[np.int64]]:
    best, where = np.empty((len(x), 0)), np.empty((len(x), 0), np.int64)
    for columns in blocks(len(y)):
        block = squared_distances(x, y[columns])
        if offset is not None:
            _forget_itself(block, offset, columns)
        some = _smallest(block, k)
        best = np.concatenate([best, np.take_along_axis(block, some, axis=1)], axis=1)
        where = np.concatenate([where, some + columns.start], axis=1)
        kept = _smallest(best, k)
        best, where = np.take_along_axis(best, kept, axis=1), np.take_along_axis(where, kept, axis=1)
    order = np.argsort(best, axis=1, kind="stable")
    return np.take_along_axis(best, order, axis=1), np.take_along_axis(where, order, axis=1)


def _smallest(block: Float64, k: int) -> NDArray[np.int64]:
    """The columns of the k smallest of each row, in no order."""
    if block.shape[1] <= k:
        return np.broadcast_to(np.arange(block.shape[1]), block.shape)
    return np.argpartition(block, k - 1, axis=1)[:, :k]


def _forget_itself(block: Float64, offset: int, columns: slice) -> None:
    """The rows are those from `offset` on: where row and column are the same image, the distance does not count."""
    both = np.arange(max(offset, columns.start), min(offset + len(block), columns.start + block.shape[1]))
    block[both - offset, both - columns.start] = np.inf
