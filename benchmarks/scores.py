"""How long each score takes, and how much memory: `python benchmarks/scores.py [--num 5000] [--features 64 2048]`."""

import argparse
import resource
import time
from typing import get_args

import numpy as np
import torch

from pipeline.metrics.scores import FeatureSet, Score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num", type=int, nargs="+", default=[5000], help="images, and images of the reference")
    parser.add_argument("--features", type=int, nargs="+", default=[64, 2048])
    options = parser.parse_args()
    print("| score | images | features | reference, s | measure, s | memory, MB |\n|---|---|---|---|---|---|")
    for num in options.num:
        for d in options.features:
            for kind in get_args(Score):
                measure(kind(), num, d)


def measure(score: Score, num: int, d: int) -> None:
    images, reference = features(num, d, 0), features(num, d, 1)
    start = time.perf_counter()
    prepared = score.prepare(reference)
    middle = time.perf_counter()
    score.measure(images, reference, prepared)
    end = time.perf_counter()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # of the process so far
    print(
        f"| `{score.kind}` | {num:,} | {d:,} | {middle - start:.2f} | {end - middle:.2f} | {memory:,.0f} |", flush=True
    )


def features(num: int, d: int, seed: int) -> FeatureSet:
    random = np.random.default_rng(seed)
    x = random.normal(size=(num, d)).astype(np.float32)
    logits = random.normal(size=(num, 10)).astype(np.float32)
    return FeatureSet(x, logits, logits, np.arange(num) % 10)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
