"""What a search tells the tracker of its trials."""

from pipeline.config.search import SearchSettings
from pipeline.digests import digest
from pipeline.engine.generation import PointResult
from pipeline.engine.measures import Measure
from pipeline.engine.point_summary import checkpoint_tags, point_params, point_summary
from pipeline.engine.trials import Trial
from pipeline.engine.work import Seeds
from pipeline.reporting import Reporter


def tell_trial(
    reporter: Reporter, settings: SearchSettings, search: str, measure: Measure, trial: Trial,
    result: PointResult | None,
) -> None:  # fmt: skip
    """The run of a trial, which gets a distance at every number of images.

    Args:
        search: the digest of the search.
        measure: the one that decides.
        result: of its last images; None where they could not be made.
    """
    tags = {"kind": "search", "search": settings.name, "state": trial.state, "samples": trial.samples}
    protocol = {"extractor": measure.plan.distance_name, "dataset": measure.reference.title}
    about = {} if result is None else checkpoint_tags(result)
    seeds = Seeds(settings.first_seed, settings.images[-1])
    with reporter.run(digest({"search": search, "samples": trial.samples}), trial.name, tags | protocol | about) as run:
        if result is not None:
            run.params({"point": point_summary(result), **point_params(result, seeds, settings.execution)})
            run.dataset(measure.reference.title, measure.reference.digest, "reference", {})
        for images, distance in trial.distances.items():
            run.metrics({"fd": distance}, step=images)
        rmse = {} if trial.rmse is None else {"trajectory_rmse": trial.rmse}
        run.metrics({"nfe": trial.nfe, "num_images": trial.images, **rmse})
