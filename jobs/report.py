"""The report of a benchmark or a search, of what the store has: `python -m jobs.report CONFIG.yaml`."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs import cli
from jobs.context import open_reporter
from jobs.screen import print_addresses
from pipeline.config.upkeep import ReportJob
from pipeline.data.store import Store
from pipeline.digests import digest
from pipeline.engine.benchmark_record import find_record
from pipeline.report.content import content_of
from pipeline.report.page import write
from pipeline.tracking import names
from pipeline.tracking.views import benchmark_view, search_view


def main(settings: ReportJob) -> None:
    store = Store(settings.store)
    print(f"Report: {write_report(store, settings.name, Path(settings.out))}")
    _print_addresses(settings, *find_record(store, settings.name))


def _print_addresses(settings: ReportJob, record: Mapping[str, Any], search: Mapping[str, Any] | None) -> None:
    """Where the runs are, if jobs on this machine tracked them; a report needs no tracker."""
    reporter, found = open_reporter(settings), dict[str, str]()
    if search is not None:
        found |= reporter.addresses(search_view(str(search["name"])), wait=False)
    if "protocol_digest" in record:  # records of before have none
        seeds = (record["seeds"]["first"], record["seeds"]["count"])
        view = benchmark_view(str(record["name"]), record["protocol_digest"], seeds, names.FD)
        before = "final " if search is not None else ""
        found |= {f"{before}{word}": address for word, address in reporter.addresses(view, wait=False).items()}
    print_addresses(reporter, found)


def summary_key(name: str, search: str) -> str:
    """What makes the run of a search's summary the same run.

    Args:
        name: of the search.
        search: its digest.
    """
    return digest({"search": name, "state": search})


def write_report(store: Store, name: str, folder: Path) -> Path:
    """Writes the page and its figures into a folder, and returns where the page lies.

    Raises:
        SettingsError: nothing of this name was told into the store.
        StoreError: the folder cannot be written.
    """
    return write(content_of(store, *find_record(store, name)), folder)


def report_folder(store: str, out: str | None, name: str) -> Path:
    """Where a job writes its report: into its own folder, or beside a local store."""
    if out:
        return Path(out)
    return (Path("reports") if "://" in store else Path(store).parent / "reports") / name


if __name__ == "__main__":
    sys.exit(cli.run(ReportJob, main, __doc__))
