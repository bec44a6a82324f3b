"""Where a person looks at what a job has tracked: addresses in MLflow's UI, printed at the end of a job."""

import re
from collections.abc import Mapping

from pipeline.engine.benchmark_result import BenchmarkResult
from pipeline.tracking.figures import series_colours
from pipeline.tracking.links import ui_command
from pipeline.tracking.mlflow_reporter import MlflowReporter
from pipeline.tracking.names import MAX_TAG_LENGTH
from pipeline.tracking.views import View, benchmark_view

ROOM_FOR_LINKS = 600  # characters of a description


def view_of(result: BenchmarkResult) -> View:
    """The saved view of a benchmark: the columns are those that its settings have."""
    rows = result.rows
    measured = [
        *(["accuracy"] if any(row.accuracy is not None for row in rows) else []),
        *(["seconds"] if any(row.seconds_per_1000 is not None for row in rows) else []),
    ]
    protocol = result.protocol
    seeds = (protocol.first_seed, protocol.num_images)
    return benchmark_view(result.name, protocol.digest, seeds, result.metric, measured)


def colour_runs(reporter: MlflowReporter, result: BenchmarkResult) -> None:
    """The runs of one solver get one colour, that of its line in the benchmark's figure."""
    colours = series_colours([row.solver for row in result.rows])
    for row in result.rows:
        with reporter.run(result.run_key(row), row.name, {}) as run:
            run.colour(colours[row.solver])


def print_addresses(reporter: MlflowReporter, addresses: Mapping[str, str]) -> None:
    """The addresses, below the command that starts the UI where no server is there already."""
    if not addresses:
        return
    command = ui_command(reporter.tracking_uri)
    print(f"Compare the runs in MLflow{f', started by{chr(10)}  {command}' if command else ''}")
    for word, address in addresses.items():
        print(f"  {word}: {address}")


def note(table: str, addresses: Mapping[str, str], file: str) -> str:
    """The description of a run: where to look, since the page folds all but the first lines, and its table.

    Short enough for a tag.

    Args:
        table: Markdown, which may be aligned with blanks.
        addresses: as `print_addresses` has them.
        file: the artifact that holds the whole table.
    """
    lines = re.sub(r" {2,}", " ", table).splitlines()
    whole, rest = len(lines), f"All of it: `{file}`, among the artifacts."
    while sum(len(line) + 1 for line in lines) > MAX_TAG_LENGTH - ROOM_FOR_LINKS:
        lines.pop()
    if len(lines) < whole:
        lines += ["", rest]
    links = [f"[{word}]({_within(address)})" for word, address in addresses.items()]
    return "\n".join([*([" · ".join(links), ""] if links else []), *lines])


def _within(address: str) -> str:
    """Within the UI, wherever that is served."""
    return f"#{address.partition('#')[2]}"
