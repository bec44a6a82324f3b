import subprocess
import sys

import pytest

from pipeline.networks.heap import keep_freed_memory

# Pages that the system had to give for a block of 64 MiB, once it had been asked for some times.
PROGRAM = """
import resource, sys, torch
from pipeline.networks.heap import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 * 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for _ in range(5):
    pages()
print(sum(pages() for _ in range(3)))
"""


@pytest.mark.skipif(not keep_freed_memory(), reason="this C library cannot be told to keep memory")
def test_a_block_that_was_freed_is_there_again_without_the_system() -> None:
    def pages(how: str) -> int:
        run = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
        return int(run.stdout)

    assert pages("kept") < 100
    assert pages("given back") > 1000  # without it they are asked for anew, or this test would tell nothing
