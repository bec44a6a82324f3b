"""The history of a schedule: every slot with what it found, or that it was missed, as a table and as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal
from zoneinfo import ZoneInfo

from pipeline.data.store import Store
from pipeline.engine import slots
from pipeline.engine.alarm import spread_margin
from pipeline.engine.slot_result import BLOB, Measured, from_record
from pipeline.engine.slots import ROOT, Slot
from pipeline.engine.table import ABSENT, Column, markdown
from pipeline.errors import StoreError

State = Literal["done", "missed", "begun"]


@dataclass(frozen=True)
class Entry:
    """One setting of a slot, or a slot that has none.

    Args:
        slot: its instant, ISO, UTC.
        state: `begun` is at work, or was cut off.
        verdict: `first`, `good`, `doubtful`, `regression`; empty of a slot without result.
        version: of the model, or which checkpoint.
        setting: its name.
        title: what the distance is called.
        distance: with the ends of its 95 % interval.
        difference: to the last good slot, with the ends of its 95 % interval.
        baseline: that slot's instant.
        champion: the alias was moved to this version.
        note: why a slot was missed, or raised an alarm.
        webhook: what became of it, where there was an alarm.
        count: slots, of a gap.
    """

    slot: str
    state: State
    verdict: str = ""
    version: str = ""
    setting: str = ""
    title: str = ""
    distance: float | None = None
    low: float | None = None
    high: float | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    baseline: str = ""
    champion: bool = False
    note: str = ""
    webhook: str = ""
    count: int = 1


def history(store: Store, schedule: str, last: int | None = None) -> list[Entry]:
    """All slots, oldest first.

    Args:
        last: so many of the newest slots and gaps.
    """
    ledger = slots.read_ledger(store, schedule)
    known = sorted({*ledger.outcomes, *ledger.begun} | ledger.gaps)
    entries: list[Entry] = []
    for instant in known[-last:] if last else known:
        slot = Slot(schedule, instant)
        if instant in ledger.gaps:
            entries.append(_gap(store, slot))
        if instant in ledger.outcomes:
            entries += _settled(store, slot, instant in ledger.told)
        elif instant in ledger.begun:
            failures = ledger.failures.get(instant, 0)
            note = f"{failures} attempts failed" if failures else ""
            entries.append(Entry(instant.isoformat(), "begun", note=note))
    return entries


def _settled(store: Store, slot: Slot, told: bool) -> list[Entry]:
    try:
        outcome = slots.read_outcome(store, slot)
    except StoreError as error:
        return [Entry(slot.instant.isoformat(), "missed", note=str(error))]
    assert outcome is not None
    if outcome["state"] == "missed":
        return [Entry(outcome["slot"], "missed", note=outcome["reason"])]
    webhook = str(store.manifest(slot.key("told")).meta["webhook"]) if told else ""
    return [_entry(outcome, setting, webhook) for setting in outcome["settings"]]


def _entry(outcome: Mapping[str, Any], setting: Mapping[str, Any], webhook: str) -> Entry:
    change = next((change for change in outcome["changes"] if change["name"] == setting["name"]), None)
    differs = () if change is None else (change["difference"], change["low"], change["high"])
    names = ("difference", "difference_low", "difference_high")
    is_alarm = outcome["verdict"] == "regression"
    return Entry(
        slot=outcome["slot"], state="done", verdict=outcome["verdict"], version=outcome["version"],
        setting=setting["name"], title=setting["title"], distance=setting["distance"], low=setting["low"],
        high=setting["high"], baseline=outcome["baseline"] or "", champion=outcome["champion"] is not None,
        note=outcome["why"] if is_alarm else "", webhook=webhook if is_alarm else "",
        **dict(zip(names, differs, strict=False)),
    )  # fmt: skip


def _gap(store: Store, slot: Slot) -> Entry:
    meta = store.manifest(f"{ROOT}/{slot.schedule}/gaps/{slot.stamp}").meta
    return Entry(
        meta["slot"], "missed", note=f"{meta['count']} slots up to {meta['until']}: {meta['reason']}",
        count=meta["count"],
    )  # fmt: skip


# -- for people --------------------------------------------------------------------------------------------------------


def history_table(entries: Sequence[Entry], zone: str) -> str:
    """A Markdown table in the schedule's time, and lines below it that count."""
    columns = [
        Column(f"slot ({zone})", tuple(_local(entry.slot, zone) for entry in entries), is_text=True),
        Column("result", tuple(entry.verdict or entry.state for entry in entries), is_text=True),
        Column("version", tuple(_version(entry) for entry in entries), is_text=True),
        Column("setting", tuple(entry.setting or ABSENT for entry in entries), is_text=True),
        Column("distance, 95 %", tuple(_interval(entry.distance, entry.low, entry.high) for entry in entries)),
        Column("to the last good slot, 95 %", tuple(_difference(entry) for entry in entries)),
        Column("note", tuple(_note(entry) for entry in entries), is_text=True),
    ]
    return "\n".join([markdown(columns), "", *(f"- {line}" for line in summary(entries))])


def summary(entries: Sequence[Entry]) -> list[str]:
    done = {entry.slot for entry in entries if entry.state == "done"}
    missed = sum(entry.count for entry in entries if entry.state == "missed")
    alarms = {entry.slot for entry in entries if entry.verdict == "regression"}
    lines = [f"{len(done)} slots with results, {missed} missed, {len(alarms)} alarms"]
    title = next((entry.title for entry in reversed(entries) if entry.title), "")
    return [*lines, f"distance: {title}"] if title else lines


def history_json(entries: Sequence[Entry]) -> str:
    return json.dumps([asdict(entry) for entry in entries], indent=1, allow_nan=False)


def margins(entries: Sequence[Entry], level: float) -> list[str]:
    """For each setting, the margin that the spread among versions asks for, in words."""
    lines = []
    for name in dict.fromkeys(entry.setting for entry in entries if entry.setting):
        by_version = {
            entry.version: entry.distance
            for entry in entries
            if entry.setting == name and entry.verdict != "regression" and entry.distance is not None
        }
        margin = spread_margin(by_version, level)
        if margin is None:
            lines.append(f"{name}: {len(by_version)} versions; it takes three of one recipe to tell a margin")
            continue
        mean = sum(by_version.values()) / len(by_version)
        lines.append(
            f"{name}: the spread among {len(by_version)} versions asks for a margin of {margin:.4g}, a share of "
            f"{margin / mean:.2g} (if all are of one recipe)"
        )
    return lines


def _local(slot: str, zone: str) -> str:
    return datetime.fromisoformat(slot).astimezone(ZoneInfo(zone)).strftime("%Y-%m-%d %H:%M %z")


def _version(entry: Entry) -> str:
    return f"{entry.version or ABSENT}{' (champion now)' if entry.champion else ''}"


def _interval(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return ABSENT
    return f"{value:.4g}" if low is None or high is None else f"{value:.4g} ({low:.4g} to {high:.4g})"


def _difference(entry: Entry) -> str:
    if entry.difference is None:
        return ABSENT
    return f"{entry.difference:+.3g} ({entry.difference_low:+.3g} to {entry.difference_high:+.3g})"


def _note(entry: Entry) -> str:
    webhook = f"; webhook {entry.webhook}" if entry.webhook not in ("", "none") else ""
    return f"{entry.note}{webhook}".replace("|", "\\|").replace("\n", " ")


# -- for comparisons ---------------------------------------------------------------------------------------------------


def last_good(store: Store, schedule: str, before: datetime, version: str | None = None) -> datetime | None:
    """The newest slot before an instant whose verdict is `good`, or `first`.

    Args:
        version: it benchmarked this one.
    """
    outcomes = slots.read_ledger(store, schedule).outcomes
    for instant in sorted((instant for instant in outcomes if instant < before), reverse=True):
        try:
            outcome = slots.read_outcome(store, Slot(schedule, instant))
        except StoreError:  # damaged: the one before it will do
            continue
        if outcome is None or outcome["state"] != "done" or outcome["verdict"] not in ("first", "good"):
            continue
        if version is None or outcome["version"] == version:
            return instant
    return None


def measured_at(store: Store, schedule: str, instant: datetime) -> list[Measured]:
    """What a slot measured, with all that a comparison needs.

    Raises:
        StoreError: its record is damaged.
    """
    manifest = store.manifest(Slot(schedule, instant).key("outcome"))
    blob = store.blob(manifest, BLOB) if BLOB in manifest.blobs else None
    return from_record(manifest.meta["settings"], blob)
