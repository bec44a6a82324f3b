"""What every command waits for before it can say anything."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
IMPORT_ALL = """
import pkgutil, sys, jobs
for module in pkgutil.iter_modules(jobs.__path__):
    __import__(f"jobs.{module.name}")
heavy = {"ray", "mlflow", "pandas", "scipy.stats", "matplotlib", "torchmetrics", "torch._inductor", "torch._dynamo"}
print(sorted(heavy & set(sys.modules)))
"""


def test_no_command_imports_what_it_may_not_need() -> None:
    """Each of these takes one second to four: a help text or a mistake would wait for all of them."""
    told = subprocess.run([sys.executable, "-c", IMPORT_ALL], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"
