"""The order in which training sees the images: a pure function of (seed, position), with no state to save.

The stream of positions 0, 1, 2, ... is endless; every `num_images` of them are one epoch, and each epoch is its own
permutation: the images sorted by a 64-bit hash of (seed, epoch, image). The hash is written out here in integer
arithmetic, so that no version of any library changes the order. (A Feistel network would need no sort, but was visibly
uneven for few images, and slower.)
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

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
    position = np.asarray(position, dtype=np.int64)
    if position.size and int(position.min()) < 0:
        raise ValueError(f"position: must be 0 or more (got {int(position.min())})")
    epoch, place = np.divmod(position, num_images)
    index = np.empty(position.shape, np.int64)
    for number in np.unique(epoch).tolist():
        here = epoch == number
        index[here] = _permutation(seed & _WORD, number, num_images)[place[here]]
    return index


@lru_cache(maxsize=2)  # a batch may lie across two epochs
def _permutation(seed: int, epoch: int, num_images: int) -> NDArray[np.int64]:
    """(num_images,); about 0.1 s for a million images, once an epoch."""
    key = _mix(_mix(np.full(1, seed, np.uint64)) + np.uint64(epoch))
    hashes = _mix(key + np.arange(num_images, dtype=np.uint64) * _GOLDEN)
    permutation = np.argsort(hashes, kind="stable").astype(np.int64)
    permutation.flags.writeable = False
    return permutation


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output function of splitmix64 (Steele, Lea, Flood, 2014); for arrays: numpy warns of scalars that wrap."""
    x = x + _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
