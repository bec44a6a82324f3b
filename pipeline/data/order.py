"""The order in which training sees the images: a pure function of (seed, position), with no state to save or to restore.

The stream of positions 0, 1, 2, ... is endless; every `num_images` of them are one epoch, and each epoch is its own
permutation. The permutation is a Feistel network over the grid of about sqrt(n) x sqrt(n) (Black and Rogaway, "Ciphers
with arbitrary finite domains", 2002): O(1) an image, nothing cached. It is written in integer arithmetic of its own, so
that no version of any library changes it.
"""

import math

import numpy as np
from numpy.typing import NDArray

NUM_ROUNDS = 8  # of the Feistel network; even for three images all permutations come equally often (tested)
_WORD = 0xFFFFFFFFFFFFFFFF
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def image_index(seed: int, position: NDArray[np.int64], num_images: int) -> NDArray[np.int64]:
    """The images at some positions of the endless stream.

    Args:
        seed: any integer; its lowest 64 bits count.
        position: of any shape, 0 or more; `position // num_images` is the epoch.
        num_images: in the data set, 1 or more.

    Returns:
        Indices of the same shape, in [0, num_images); over each epoch a permutation.

    Raises:
        ValueError: `num_images` or a position is out of range.
    """
    if num_images < 1:
        raise ValueError(f"num_images: must be 1 or more (got {num_images})")
    place = np.asarray(position, dtype=np.int64)
    flat = place.reshape(-1)
    if flat.size and int(flat.min()) < 0:
        raise ValueError(f"position: must be 0 or more (got {int(flat.min())})")
    epoch, within = np.divmod(flat, num_images)
    key = _mix(_mix(np.full(1, seed & _WORD, np.uint64)) + epoch.astype(np.uint64))
    return _permute(within.astype(np.uint64), key, num_images).astype(np.int64).reshape(place.shape)


def _permute(x: NDArray[np.uint64], key: NDArray[np.uint64], n: int) -> NDArray[np.uint64]:
    """x (M,) in [0, n) -> (M,) in [0, n), a permutation for each key (M,). What falls outside [0, n) walks on."""
    rows = math.isqrt(n - 1) + 1
    columns = -(-n // rows)
    x = _feistel(x, key, rows, columns)
    outside = np.flatnonzero(x >= n)
    while outside.size:  # fewer than one in sqrt(n) at first; a permutation's cycle always comes back inside
        x[outside] = _feistel(x[outside], key[outside], rows, columns)
        outside = outside[x[outside] >= n]
    return x


def _feistel(x: NDArray[np.uint64], key: NDArray[np.uint64], rows: int, columns: int) -> NDArray[np.uint64]:
    """A permutation of [0, rows * columns): each round shifts one coordinate by a hash of the other."""
    row, column = np.divmod(x, np.uint64(columns))
    for number in range(NUM_ROUNDS):
        round_key = key + np.full(1, number, np.uint64) * _GOLDEN
        if number % 2 == 0:
            row = (row + _mix(round_key ^ _mix(column)) % np.uint64(rows)) % np.uint64(rows)
        else:
            column = (column + _mix(round_key ^ _mix(row)) % np.uint64(columns)) % np.uint64(columns)
    return row * np.uint64(columns) + column


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output function of splitmix64 (Steele, Lea, Flood, 2014); arrays only: numpy warns of scalars that wrap."""
    x = x + _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
