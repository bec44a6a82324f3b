"""What makes a worker compute the same twice, and what that may not cost."""

import subprocess
import sys
from pathlib import Path

import torch

from pipeline.engine.devices import fixed_arithmetic, fixed_compiler

READY = """
import sys
from pipeline.engine.actor import Actor
from pipeline.engine.devices import fixed_arithmetic
with fixed_arithmetic(1):
    heavy = {"scipy", "sympy", "matplotlib", "pandas", "torchmetrics", "mlflow", "torch._inductor", "torch._dynamo"}
    print(sorted(heavy & set(sys.modules)))
"""


def test_a_worker_that_is_ready_has_imported_nothing_that_generation_does_not_need() -> None:
    """Each of these takes a good part of a second, at every start of every actor."""
    told = subprocess.run(
        [sys.executable, "-c", READY], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == "[]"


def test_arithmetic_is_fixed_within_the_block_and_as_before_after_it() -> None:
    threads = torch.get_num_threads()
    with fixed_arithmetic(1):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.get_num_threads() == 1
        assert torch.get_deterministic_debug_mode() == 2  # an operation that has no fixed order raises
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == threads


def test_compilers_make_fixed_code_within_the_block_and_only_there() -> None:
    with fixed_arithmetic(1):
        fixed_compiler()
        from torch._inductor import config

        assert config.deterministic
        assert torch.are_deterministic_algorithms_enabled()
    assert not config.deterministic
    assert not torch.are_deterministic_algorithms_enabled()
