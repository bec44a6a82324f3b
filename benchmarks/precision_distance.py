"""How far a faster path moves the distance: the same seeds by both paths, and the difference with its 95 % interval.

    python -m benchmarks.precision_distance jobs/configs/fashion-mnist.yaml --set benchmark.seeds.count=2500 \\
        --path precision=bf16,compile=ahead --points "euler, num_steps=8"

Takes a study whose training is done; what it has generated is used again. Told for each setting and extractor: both
distances to the reference, the second minus the first, and its interval, by a jackknife over 20 blocks of seeds in
which both paths lose the same images: the noise of the images is common to both and mostly falls out. Below it, how
many of the pixels differ, and by how much at most.
"""

import argparse
import json
import sys
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from jobs.context import engine_actors, engine_points, engine_seeds, measures_of
from jobs.study import of_training
from pipeline.config.load import load
from pipeline.config.studies import StudyJob
from pipeline.data.features import read_features
from pipeline.data.samples import Execution, read_samples
from pipeline.data.store import Store
from pipeline.engine.generation import PointResult, Seeds, generate
from pipeline.engine.measures import Measure
from pipeline.metrics.frechet import frechet_distance
from pipeline.metrics.moments import Moments
from pipeline.training.snapshot import find_training

BLOCKS = 20


@dataclass(frozen=True)
class Row:
    """One setting and extractor.

    Args:
        before: the distance by the study's own path.
        after: by the other one.
        interval: half of the difference's 95 % interval.
        pixels: the share that differs.
        most: the largest difference of a pixel, in 256 levels.
    """

    name: str
    extractor: str
    before: float
    after: float
    difference: float
    interval: float
    pixels: float
    most: int


def distances(store: Store, result: PointResult, seeds: Seeds, measure: Measure) -> np.ndarray:
    """To the reference: of all images, then without one block each."""
    found = read_features(
        store, result.samples_digest, measure.plan.digest, seeds.first, seeds.count, result.chunk_size
    ).features
    blocks = [Moments.of(part) for part in np.array_split(found, BLOCKS)]
    chosen = [blocks, *(blocks[:index] + blocks[index + 1 :] for index in range(BLOCKS))]
    gaussians = (reduce(add, some).gaussian() for some in chosen)
    return np.array([frechet_distance(gaussian, measure.reference.gaussian).value for gaussian in gaussians])


def compare(store: Store, pair: tuple[PointResult, PointResult], seeds: Seeds, measure: Measure) -> Row:
    before, after = (distances(store, result, seeds, measure) for result in pair)
    one, other = (
        read_samples(store, result.samples_digest, seeds.first, seeds.count).images.astype(np.int16) for result in pair
    )
    apart = np.abs(one - other)
    without = (after - before)[1:]
    error = np.sqrt((BLOCKS - 1) / BLOCKS * np.square(without - without.mean()).sum())
    t = 2.093  # of 19 degrees of freedom
    return Row(
        pair[0].point.name, measure.plan.distance_name, float(before[0]), float(after[0]),
        float(after[0] - before[0]), float(t * error), float((apart > 0).mean()), int(apart.max()),
    )  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a study's YAML file")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="as of the jobs")
    parser.add_argument("--path", default="precision=bf16", metavar="KEY=VALUE,...", help="of execution")
    parser.add_argument("--points", action="append", default=[], metavar="NAME", help="some settings; all by default")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here")
    return parser.parse_args()


def other_path(execution: Execution, text: str) -> Execution:
    """The execution with some of its fields changed."""
    pairs = dict(part.split("=") for part in text.split(","))
    typed = {key: {"true": True, "false": False}.get(value, value) for key, value in pairs.items()}
    return replace(execution, **typed)


def main() -> None:
    options = arguments()
    study = load(StudyJob, options.config, options.set)
    store = Store(study.store)
    settings = of_training(study, find_training(store, study.train.name))
    points = [point for point in engine_points(settings) if not options.points or point.name in options.points]
    seeds, actors = engine_seeds(settings.seeds), engine_actors(settings)
    rows = []
    measures = measures_of(store, settings, settings.metrics, points)
    plans = [measure.plan for measure in measures]
    paths = settings.execution, other_path(settings.execution, options.path)
    both = [generate(store, points, seeds, execution, actors, plans) for execution in paths]
    for pair in zip(*both, strict=True):
        rows += [compare(store, pair, seeds, measure) for measure in measures]
    print(f"{seeds.count:,} images; {paths[0]}, then {paths[1]}\n")
    print("| setting | extractor | distance | other path | difference | pixels that differ | most |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for row in rows:
        change = f"{row.difference:+.3g} +- {row.interval:.2g}"
        numbers = f"{row.before:.4g} | {row.after:.4g} | {change} | {row.pixels:.2%} | {row.most}"
        print(f"| {row.name} | {row.extractor} | {numbers} |")
    if options.json:
        options.json.write_text(json.dumps({"rows": [vars(row) for row in rows]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
