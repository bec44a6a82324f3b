"""One slot of a schedule: what it benchmarks, and whom it tells."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from jobs import cli
from jobs.benchmark import run_benchmark
from jobs.checkpoints import title_of
from jobs.context import open_store
from pipeline.config.checkpoints import CheckpointSettings
from pipeline.config.schedule import ScheduleJob
from pipeline.data.store import Store
from pipeline.digests import digest
from pipeline.engine import slots
from pipeline.engine.alarm import Margin
from pipeline.engine.firing import Found
from pipeline.engine.progress import say
from pipeline.engine.session import shared_session
from pipeline.engine.slot_benchmark import CHAMPION, Champion, Models, code_version, result_of
from pipeline.engine.slot_history import Entry, history, history_json, history_table
from pipeline.engine.slot_result import Measured
from pipeline.engine.slots import Slot
from pipeline.tracking.figures import pixels
from pipeline.tracking.history_figure import Mark, distance_over_time
from pipeline.tracking.mlflow_reporter import MlflowReporter
from pipeline.tracking.webhook import SENT, post

SHOWN = 200  # of the newest slots, in a run's table and figure


@dataclass(frozen=True)
class SlotWork:
    """Benchmarks slots and tells of them.

    Args:
        settings: of the schedule.
        store: its store.
        reporter: gets the runs of the benchmark, and one run a slot.
        models: the registry, where a registered model is benchmarked.
    """

    settings: ScheduleJob
    store: Store
    reporter: MlflowReporter
    models: Models | None

    def perform(self, slot: Slot) -> Found:
        """Benchmarks what the slot's first attempt found to be the newest version, on the slot's seeds."""
        settings = self.settings
        pinned = slots.pinned_of(self.store, slot) or slots.begin_slot(self.store, slot, self._pin(slot))
        benchmark = settings.of_checkpoint(pinned["checkpoint"], pinned["seeds"]["first"])
        with shared_session():
            result = run_benchmark(self.store, benchmark, self.reporter, slot.identity)
        margin = Margin(settings.alarm.margin, settings.alarm.unit, settings.alarm.level)
        measured = [Measured.of(evaluation) for evaluation in result.evaluations]
        found = result_of(self.store, slot, measured, pinned, margin, self._champion())
        return Found({**found.content, "benchmark": result.digest, "table": result.table()}, found.blobs)

    def tell(self, slot: Slot, outcome: Mapping[str, Any]) -> str:
        """Moves the alias, tells the tracker and, of an alarm, log and webhook. Told again, it changes nothing."""
        if outcome["state"] == "done" and outcome["champion"] is not None and self.models and self.settings.model:
            self.models.set_alias(self.settings.model, CHAMPION, outcome["champion"])
            say(f"slot {slot}: version {outcome['champion']} of {self.settings.model} is the {CHAMPION} now")
        self._track(slot, outcome)
        if outcome["state"] != "done":
            return "none"
        say(f"slot {slot}: {outcome['verdict']}: {outcome['why']}")
        return self._raise_alarm(slot, outcome) if outcome["verdict"] == "regression" else "none"

    def _pin(self, slot: Slot) -> dict[str, Any]:
        """What the slot is about from now on, whatever is registered while it runs."""
        settings, benchmark, version = self.settings, self.settings.benchmark, ""
        named = benchmark.checkpoint.model_dump()
        if settings.model is not None:
            assert self.models is not None
            version = str(self.models.newest(settings.model).version)
            named["training"] = f"models:/{settings.model}/{version}"
        checkpoint = title_of(self.store, CheckpointSettings(**named), self.reporter.tracking_uri)
        first, count = benchmark.seeds.first, benchmark.seeds.count
        if settings.slot_seeds == "disjoint":
            first = slot.first_seed(first, count, benchmark.execution.chunk_size)
        return {
            "model": settings.model,
            "version": version or checkpoint,
            "checkpoint": checkpoint,
            "seeds": {"first": first, "count": count},
            "settings": digest(settings),
            "code": code_version(),
        }

    def _champion(self) -> Champion | None:
        if self.models is None or self.settings.model is None:
            return None
        return Champion(self.models.aliases(self.settings.model).get(CHAMPION))

    def _track(self, slot: Slot, outcome: Mapping[str, Any]) -> None:
        """The run of the slot, with the history up to now."""
        entries = history(self.store, slot.schedule, SHOWN)
        verdict = outcome.get("verdict", outcome["state"])
        tags = {"kind": "slot", "schedule": slot.schedule, "slot": outcome["slot"], "verdict": verdict}
        tags["alarm"] = "regression" if verdict == "regression" else "none"
        if outcome["state"] == "done":
            tags |= {"version": outcome["version"], "code": outcome["code"], "benchmark": slot.schedule}
            tags |= {"model": outcome["model"]} if outcome["model"] else {}
        with self.reporter.run(slot.identity, f"{slot.schedule} {outcome['slot']}", tags) as run:
            run.text(cli.resolved_yaml(self.settings), "settings.yaml")
            run.text(history_table(entries, self.settings.time_zone), "history.md")
            run.text(history_json(entries), "history.json")
            run.image("history", pixels(history_figure(entries, self.settings)))
            if outcome["state"] == "done":
                run.text(outcome["table"], "table.md")
                run.metrics(metrics_of(outcome))

    def _raise_alarm(self, slot: Slot, outcome: Mapping[str, Any]) -> str:
        say(f"ALARM {slot}: {outcome['why']}")
        url = self.settings.alarm.webhook()
        if url is None:
            return "none"
        told = post(url, alarm_content(slot, outcome))
        say(f"slot {slot}: webhook: {told}" if told == SENT else f"slot {slot}: webhook failed: {told}")
        return told


def alarm_content(slot: Slot, outcome: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON that a webhook gets; `text` is what chats show, `id` tells a repetition."""
    text = f"{slot.schedule}: regression in the slot {outcome['slot']}: {outcome['why']}"
    names = ("slot", "model", "version", "code", "baseline", "settings", "changes")
    return {
        "event": "regression", "id": slot.identity, "schedule": slot.schedule, "text": text,
        **{name: outcome[name] for name in names},
    }  # fmt: skip


def metrics_of(outcome: Mapping[str, Any]) -> dict[str, float]:
    """The first setting's numbers under the names that all runs have, those of others with their number behind."""
    values: dict[str, float] = {}
    changes = {change["name"]: change for change in outcome["changes"]}
    for number, setting in enumerate(outcome["settings"]):
        end = f"_{number + 1}" if number else ""
        title = "fid" if setting["title"] == "FID" else "fd"
        values[f"{title}{end}"] = setting["distance"]
        if setting["low"] is not None:
            values |= {f"{title}_low{end}": setting["low"], f"{title}_high{end}": setting["high"]}
        if change := changes.get(setting["name"]):
            values |= {f"difference{end}": change["difference"], f"p_regression{end}": change["p"]}
    return values


def history_figure(entries: list[Entry], settings: ScheduleJob) -> bytes:
    """A PNG."""
    zone = ZoneInfo(settings.time_zone)
    marks = [
        Mark(
            datetime.fromisoformat(entry.slot).astimezone(zone), entry.setting, entry.distance, entry.low, entry.high,
            entry.verdict == "regression", entry.champion,
        )
        for entry in entries
        if entry.distance is not None
    ]  # fmt: skip
    missed = [datetime.fromisoformat(e.slot).astimezone(zone) for e in entries if e.state == "missed"]
    title = next((entry.title for entry in reversed(entries) if entry.title), "distance")
    return distance_over_time(marks, missed, f"{settings.name}: slot by slot", f"{title} (less is better)")


def slot_work(settings: ScheduleJob, reporter: MlflowReporter) -> SlotWork:
    """Raises:
    StoreError: the store cannot be written.
    SettingsError: the webhook's variable is not set.
    """
    settings.alarm.webhook()
    models: Models | None = None
    if settings.model is not None:
        from pipeline.tracking.registry import Registry

        models = Registry(reporter.tracking_uri)
    return SlotWork(settings, open_store(settings), reporter, models)
