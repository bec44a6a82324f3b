"""The memory that a network's activations lie in, on a CPU."""

import ctypes
from functools import cache

# Of <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


@cache
def keep_freed_memory() -> bool:
    """Tells the C library to keep the memory that is freed, for the rest of this process. Whether it can (glibc does).

    It gives large blocks back to the system otherwise, and a network, whose activations are large, pays for every page
    of them again at each evaluation.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or none that can be asked
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))
