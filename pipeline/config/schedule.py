"""The settings of `jobs.schedule`."""

import os
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from pipeline.config.cron import Cron
from pipeline.config.job import Job
from pipeline.config.studies import StudyBenchmark
from pipeline.errors import SettingsError
from pipeline.training.settings import Frozen

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class AlarmSettings(Frozen):
    """When a slot raises an alarm (`docs/schedule.md` tells how to choose the margin).

    Args:
        margin: a distance that is larger than the last good slot's by no more than this is none. It must cover by how
            much trainings of one recipe differ.
        unit: of the margin: a `share` of the last good slot's distance (0.1 is a tenth), or a `distance`.
        level: how often a slot may raise an alarm where the true distance is larger by just the margin.
        webhook_from: the name of the environment variable that holds the address of a webhook, which gets every alarm
            as a JSON POST. The address is never logged. Empty: no webhook.
    """

    margin: float = Field(ge=0)
    unit: Literal["share", "distance"] = "share"
    level: float = Field(default=0.001, gt=0, lt=0.5)
    webhook_from: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")

    def webhook(self) -> str | None:
        """The address, from the environment.

        Raises:
            SettingsError: the variable is not set, or holds no address of http or https.
        """
        if self.webhook_from is None:
            return None
        found = os.environ.get(self.webhook_from, "")
        if not found.startswith(("http://", "https://")):
            state = "holds no address that begins with https:// or http://" if found else "is not set"
            raise SettingsError("alarm.webhook_from", f"the environment variable {self.webhook_from} {state}")
        return found


class ScheduleJob(Job):
    """`jobs.schedule`: a benchmark at the instants of a cron expression, each one compared with the last good one.

    Args:
        name: of the schedule. With the UTC instant it is the identity of a slot.
        cron: five fields, as cron has them.
        time_zone: of the expression, such as Europe/Berlin.
        catch_up: of slots that were not done at their time: `latest` does the last one, `all` the last
            `catch_up_limit` ones, oldest first, `skip` none that was not begun within `grace_s`. What is not done is
            recorded as missed.
        catch_up_limit: of `all`.
        grace_s: of `skip`: seconds after its instant in which a slot may begin.
        attempts: a slot that failed so many times is recorded as missed.
        retry_s: seconds before the next attempt.
        time_limit_s: an attempt that takes longer is ended by the service, and has failed.
        model: the name of a registered model, whose newest version is benchmarked. Empty: `benchmark.checkpoint`.
        slot_seeds: `common`: every slot has the seeds of `benchmark.seeds`, and slots are compared image by image;
            `disjoint`: every slot has seeds of its own, as many, and no image is made twice.
        benchmark: what is measured. With `reuse: none` each slot computes all anew, in a namespace of its own.
        alarm: when a slot raises an alarm.
    """

    name: str = Field(min_length=1, max_length=100, pattern=NAME)
    cron: str
    time_zone: str = "UTC"
    catch_up: Literal["skip", "latest", "all"] = "latest"
    catch_up_limit: int = Field(default=24, ge=1, le=1000)
    grace_s: float = Field(default=600, gt=0)
    attempts: int = Field(default=3, ge=1)
    retry_s: float = Field(default=30, ge=0)
    time_limit_s: float = Field(default=86400, gt=0)
    model: str | None = Field(default=None, min_length=1)
    slot_seeds: Literal["common", "disjoint"] = "common"
    benchmark: StudyBenchmark
    alarm: AlarmSettings

    @model_validator(mode="before")
    @classmethod
    def _name_of_benchmark(cls, content: Any) -> Any:
        """The benchmark's name is the schedule's, unless it has one."""
        if isinstance(content, Mapping) and isinstance(benchmark := content.get("benchmark"), Mapping):
            return {**content, "benchmark": {"name": content.get("name"), **benchmark}}
        return content

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.times  # noqa: B018  what is wrong with the expression is told here
        if (self.model is None) != bool(self.benchmark.checkpoint.training):
            raise ValueError(
                "model: give either the name of a registered model, or benchmark.checkpoint.training, and not both"
            )
        return self

    @property
    def times(self) -> Cron:
        return Cron(self.cron, self.time_zone)

    def of_checkpoint(self, title: str, first_seed: int) -> StudyBenchmark:
        """The benchmark of a slot: with the title of its checkpoint, and its first seed."""
        content = self.benchmark.model_dump()
        content["checkpoint"] = {"training": title}
        content["seeds"]["first"] = first_seed
        return StudyBenchmark.model_validate(content)
