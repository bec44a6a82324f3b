"""Frees space in a store without breaking what is referenced: `python -m jobs.prune CONFIG.yaml`."""

import sys
from contextlib import suppress

from jobs import cli
from jobs.context import open_store
from pipeline.config.upkeep import PruneJob
from pipeline.data.store import Store
from pipeline.engine.prune import Retention, prunable, summary
from pipeline.errors import StoreError


def main(settings: PruneJob) -> None:
    store = open_store(settings)
    found = list(prunable(store, retention(settings)))
    for removal in found:
        with suppress(StoreError):  # it was damaged or is gone: the next one
            removal.carry_out(store)
    print(*summary(found), sep="\n")


def retention(settings: PruneJob) -> Retention:
    return Retention(**{name: getattr(settings, name) for name in Retention.__dataclass_fields__})


def dry_run(settings: PruneJob) -> list[str]:
    return [f"would go: {line}" for line in summary(list(prunable(Store(settings.store), retention(settings))))]


if __name__ == "__main__":
    sys.exit(cli.run(PruneJob, main, __doc__, dry_run))
