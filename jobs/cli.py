"""The command line that all jobs share: CONFIG.yaml, --set, --dry-run, and errors as one sentence."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import yaml

from jobs.places import check_places
from jobs.stopping import Terminated, stoppable
from pipeline.addresses import public, without_user
from pipeline.config.job import Job
from pipeline.config.load import load
from pipeline.data.unpickle import printable
from pipeline.errors import RunFailedError, SigmasweepError, UserError

Settings = TypeVar("Settings", bound=Job)


def run(
    model: type[Settings], job: Callable[[Settings], int | None], description: str | None,
    dry_run: Callable[[Settings], Sequence[str]] | None = None, argv: Sequence[str] | None = None,
) -> int:  # fmt: skip
    """Runs a job from the command line.

    Args:
        model: the job's settings.
        job: what it does; what it returns is the exit code, if it returns one.
        description: for --help.
        dry_run: lines that tell what the job would cost, beside the resolved settings.
        argv: arguments; the process's own where empty.

    Returns:
        The exit code: 0 or the job's own, 2 for a mistake of the user's (nothing was done), 1 for work that failed,
        130 when stopped by Ctrl-C and 143 by SIGTERM.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("config", help="a YAML file; jobs/configs/ has examples")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="such as training.seed=1")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved settings and the cost, and stop")
    arguments = parser.parse_args(argv)
    try:
        with stoppable():
            settings = load(model, arguments.config, arguments.set)
            check_places(settings, arguments.config)
            if arguments.dry_run:
                print(resolved_yaml(settings), end="")
                print(*(f"# {line}" for line in (dry_run(settings) if dry_run else ())), sep="\n")
            else:
                return job(settings) or 0
    except UserError as error:
        print(f"error: {printable(without_user(str(error)))}", file=sys.stderr)
        return 2
    except RunFailedError as error:
        print(f"failed: {printable(without_user(str(error)))}", file=sys.stderr)
        return 1
    except SigmasweepError as error:
        print(f"error: {without_user(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        print("stopped; run the same command again to go on", file=sys.stderr)
        return 143 if isinstance(stop, Terminated) else 130
    return 0


def resolved_yaml(settings: Job) -> str:
    """The settings with every default written out; running this text again is the same job.

    Users and passwords within addresses are left out: where the text is run, variables say them (docs/tracking.md).
    """
    return yaml.safe_dump(public(settings.model_dump(mode="json")), sort_keys=False, allow_unicode=True)
