"""What a benchmark found, and how it is told."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.digests import digest
from pipeline.engine.comparison import Compared, comparison_json, comparison_table
from pipeline.engine.evaluation import Evaluation
from pipeline.engine.scoring import Heading
from pipeline.engine.table import Row, benchmark_table, classes_csv, rows_csv, rows_json
from pipeline.metrics.protocol import FID, EvaluationProtocol
from pipeline.metrics.scores import ClassRow


@dataclass(frozen=True)
class BenchmarkResult:
    """What a benchmark found.

    Args:
        name: of the benchmark.
        rows: one a setting, by rising NFE.
        titles: what the distance of each extractor is called, by the extractor's name; the first one ranks.
        headings: of the scores, in their order.
        classes: by the name of a setting, class by class, where a score goes by class.
        notes: lines that should stand below the numbers.
        picture: the same seeds in the same columns, one row a setting; uint8 (H, W, 3).
        generated: images that were generated for it; all others were in the store.
        link: where a person can compare the runs, or an empty text.
        protocol: of the distance that ranks.
        followed: the published protocol that the settings name, or `legacy`; or an empty text.
        compared: each setting against the baseline, on the same seeds, by the first distance.
        baseline_named: the baseline was named, and is not the best one.
        evaluations: of each setting, in the order of the settings, by the first measure.
    """

    name: str
    rows: tuple[Row, ...]
    titles: Mapping[str, str]
    headings: tuple[Heading, ...]
    classes: Mapping[str, tuple[ClassRow, ...]]
    notes: tuple[str, ...]
    picture: NDArray[np.uint8] = field(repr=False, compare=False)
    generated: int
    link: str
    protocol: EvaluationProtocol
    followed: str = ""
    compared: tuple[Compared, ...] = ()
    baseline_named: bool = False
    evaluations: tuple[Evaluation, ...] = field(default=(), repr=False, compare=False)

    def comparisons(self) -> str:
        """The settings against the baseline, as a Markdown table; an empty text where nothing was compared."""
        title = next(iter(self.titles.values()))
        return comparison_table(self.compared, title, not self.baseline_named) if self.compared else ""

    def table(self) -> str:
        """A Markdown table that is aligned as plain text too."""
        table = benchmark_table(self.rows, self.titles, self.headings)
        return "\n".join([table, *(f"\n{note}" for note in self.notes)])

    def to_json(self) -> str:
        about = {"distances": self.titles, "scores": self.headings, "classes": self.classes, "notes": self.notes}
        about["comparisons"] = comparison_json(self.compared)
        return rows_json(self.rows, benchmark=self.name, **about)

    def to_csv(self) -> str:
        return rows_csv(self.rows)

    def classes_csv(self) -> str:
        """A line for every setting and class; an empty text where no score goes by class."""
        return classes_csv(self.classes)

    @property
    def metric(self) -> str:
        """What the distance that ranks is called in the tracker."""
        return distance_metric(self.protocol)

    @property
    def run_keys(self) -> tuple[str, ...]:
        """Of the settings' runs in the tracker, the best setting first."""
        return tuple(self.run_key(row) for row in sorted(self.rows, key=lambda row: row.distance))

    def run_key(self, row: Row) -> str:
        """Of a setting's run in the tracker."""
        return run_key(self.name, row.samples_digest, self.protocol)

    @property
    def digest(self) -> str:
        """Names the benchmark and its record: other images or another protocol under the same name are another one."""
        return digest({"benchmark": self.name, "rows": [[row.samples_digest, row.protocol] for row in self.rows]})


def run_key(benchmark: str, samples: str, protocol: EvaluationProtocol) -> str:
    """What makes the run of a setting the same run: the benchmark's name and everything that its numbers depend on."""
    return digest({"benchmark": benchmark, "samples": samples, "protocol": protocol.digest})


def distance_metric(protocol: EvaluationProtocol) -> str:
    return "fid" if protocol.distance == FID else "fd"
