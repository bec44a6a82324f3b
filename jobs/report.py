"""The report of a benchmark or a search, of what the store has: `python -m jobs.report CONFIG.yaml`."""

import sys
from pathlib import Path

from jobs import cli
from pipeline.config.settings import ReportJob
from pipeline.data.store import Store
from pipeline.engine.benchmark_record import find_record
from pipeline.report.content import content_of
from pipeline.report.page import write


def main(settings: ReportJob) -> None:
    print(f"Report: {write_report(Store(settings.store), settings.name, Path(settings.out))}")


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
