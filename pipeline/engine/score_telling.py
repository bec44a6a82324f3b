"""What scores say of a point, told to its run: numbers with the ends of their intervals, classes, the nearest pairs."""

from collections.abc import Mapping, Sequence

from pipeline.data.store import Store
from pipeline.engine.measures import Measure
from pipeline.engine.run import PointResult
from pipeline.engine.scoring import Scored, Scorer
from pipeline.engine.table import classes_csv
from pipeline.engine.work import Seeds
from pipeline.metrics.scores import ClassRow, Estimate
from pipeline.reporting import Run


class ScoreTeller:
    """Scores points by all measures; keeps what a table needs, by the name of the point.

    Args:
        store: where features and scores are.
        measures: those without scores are passed over.
        seeds: the images that are scored.
    """

    def __init__(self, store: Store, measures: Sequence[Measure], seeds: Seeds) -> None:
        self.values: dict[str, Mapping[str, Estimate]] = {}
        self.classes: dict[str, tuple[ClassRow, ...]] = {}
        self._scorers = [Scorer(store, measure, seeds) for measure in measures if measure.scores]

    def tell(self, result: PointResult, run: Run) -> None:
        """One point whose features are in the store."""
        found = [scorer.score(result) for scorer in self._scorers]
        values = {key: value for scored in found for key, value in scored.values.items()}
        self.values[result.point.name] = values
        if values:
            run.metrics(_with_ends(values), step=round(result.nfe))
        for scored in found:
            self._tell_beside(result, run, scored)

    def _tell_beside(self, result: PointResult, run: Run, scored: Scored) -> None:
        """What is no number of the point as a whole."""
        if scored.classes:
            self.classes[result.point.name] = scored.classes
            run.text(classes_csv({result.point.name: scored.classes}), "per_class.csv")
        if scored.picture is not None:
            run.image("nearest_pairs", scored.picture)


def _with_ends(values: Mapping[str, Estimate]) -> dict[str, float]:
    """Every number, and the ends of its interval where it has one, each under a key of its own."""
    told = {key: estimate.value for key, estimate in values.items()}
    for key, estimate in values.items():
        if estimate.low is not None and estimate.high is not None:
            told |= {f"{key}_low": estimate.low, f"{key}_high": estimate.high}
    return told
