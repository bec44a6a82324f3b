"""The files that are given for systemd and cron say what the jobs understand."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config.cron import Cron
from pipeline.config.load import load
from pipeline.config.schedule import ScheduleJob

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy" / "systemd" / "sigmasweep-schedule.service"
CRONTAB = ROOT / "deploy" / "crontab"
NIGHTLY = ROOT / "jobs" / "configs" / "nightly.yaml"


def test_systemd_understands_every_line_of_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/sigmasweep/.venv/bin/python", sys.executable))
    found = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True)
    assert [line for line in found.stderr.splitlines() if unit.stem in line] == []


def test_unit_and_crontab_serve_the_settings_that_are_shipped() -> None:
    assert "-m jobs.schedule jobs/configs/nightly.yaml" in UNIT.read_text()
    [line] = [line for line in CRONTAB.read_text().splitlines() if "jobs.schedule" in line]
    assert "-m jobs.schedule fire jobs/configs/nightly.yaml" in line
    settings = load(ScheduleJob, NIGHTLY)
    assert " ".join(line.split()[:5]) == settings.cron
    assert settings.times == Cron(settings.cron, settings.time_zone)
