"""A benchmark on a schedule (docs/schedule.md):

    python -m jobs.schedule CONFIG.yaml                    serves: waits for each slot, until it is stopped
    python -m jobs.schedule fire CONFIG.yaml               settles what is due, and ends: for cron and Kubernetes
    python -m jobs.schedule fire CONFIG.yaml --slot 2026-11-26T02:00:00+00:00
    python -m jobs.schedule history CONFIG.yaml            every slot: table, figure, JSON, and what margin would do

Exit codes of fire: 0 good, 1 failed, 2 a mistake in the settings, 3 alarm: a regression, 4 another process is at work,
5 the slot is recorded as missed. Only these two are not worth a second call: 3 and 5.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from jobs import cli
from jobs.context import cost, open_store, tracked
from jobs.slot import history_figure, slot_work
from pipeline.config.schedule import ScheduleJob
from pipeline.data.dry_store import DryStore
from pipeline.engine.catch_up import CatchUp
from pipeline.engine.firing import Firing
from pipeline.engine.schedule_service import Service
from pipeline.engine.slot_history import history, history_json, history_table, margins
from pipeline.engine.slots import slot_of


def fire(settings: ScheduleJob, slot: str | None) -> int:
    """Settles what is due: up to a slot, or up to now."""
    with tracked(settings) as reporter:
        work = slot_work(settings, reporter)
        policy = CatchUp(
            settings.catch_up, settings.catch_up_limit, timedelta(seconds=settings.grace_s), settings.attempts
        )
        firing = Firing(
            work.store, settings.name, settings.times, policy, work.perform, work.tell, settings.retry_s
        )  # fmt: skip
        return firing.fire(None if slot is None else slot_of(settings.name, slot))


def serve(settings: ScheduleJob, arguments: Sequence[str]) -> None:
    """Waits for slots, and has a process settle each; the same command goes on where it was stopped."""
    settings.alarm.webhook()
    command = [sys.executable, "-m", "jobs.schedule", "fire", *arguments]
    Service(
        open_store(settings), settings.name, settings.times, command, settings.retry_s, settings.time_limit_s
    ).run()  # fmt: skip


def show(settings: ScheduleJob, out: str | None) -> None:
    """Prints the history, and writes it into a folder."""
    entries = history(open_store(settings), settings.name)
    table = history_table(entries, settings.time_zone)
    print(f"{table}\n")
    print(*(f"- {line}" for line in margins(entries, settings.alarm.level)), sep="\n")
    if out is not None:
        folder = Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "history.md").write_text(table + "\n", encoding="utf-8")
        (folder / "history.json").write_text(history_json(entries) + "\n", encoding="utf-8")
        (folder / "history.png").write_bytes(history_figure(entries, settings))
        print(f"\nTable, JSON and figure: {out}")


def dry_run(settings: ScheduleJob) -> list[str]:
    """The next slots and, of a checkpoint that is named, the cost of each."""
    now = datetime.now(UTC)
    following = [instant.isoformat() for _, instant in zip(range(3), settings.times.after(now), strict=False)]
    told = [f"the next slots: {', '.join(following)}"]
    return told if settings.model else told + cost(DryStore(settings.store), settings.benchmark)


def main(argv: Sequence[str]) -> int:
    """Returns:
    The exit code.
    """
    verb, rest = (argv[0], list(argv[1:])) if argv and argv[0] in ("fire", "history") else ("serve", list(argv))
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    if verb == "fire":
        own.add_argument("--slot")
    if verb == "history":
        own.add_argument("--out")
    options, others = own.parse_known_args(rest)
    jobs: dict[str, Callable[[ScheduleJob], int | None]] = {
        "fire": lambda settings: fire(settings, options.slot),
        "history": lambda settings: show(settings, options.out),
        "serve": lambda settings: serve(settings, others),
    }
    return cli.run(ScheduleJob, jobs[verb], __doc__, dry_run, others)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
