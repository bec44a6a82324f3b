"""The commands: `python -m jobs.NAME CONFIG.yaml [--set a.b=c ...] [--dry-run]`."""

import os
import sys

if not sys.stderr.isatty():  # in the log of a cluster's job, a line a quarter of a minute is enough
    os.environ.setdefault("TQDM_MININTERVAL", "15")
