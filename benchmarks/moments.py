"""Times what a distance costs beside the extractor: `python -m benchmarks.moments [--features 2048] [--images 512]`."""

import argparse

import torch

from benchmarks.report import seconds
from pipeline.metrics.frechet import frechet_distance
from pipeline.metrics.moments import Moments


def moments_of_many(num: int, d: int, random: torch.Generator) -> Moments:
    """Features whose variances fall by a power, as those of real networks do."""
    scale = torch.arange(1, d + 1) ** -0.75
    return Moments.of(torch.randn(num, d, generator=random) * scale)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--images", type=int, default=512, help="of a chunk")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    random = torch.Generator().manual_seed(0)
    d = args.features
    chunk = torch.randn(args.images, d, generator=random)
    first, second, few = (moments_of_many(num, d, random).gaussian() for num in (3 * d, 4 * d, d // 2))
    part = Moments.of(chunk)
    rows = {
        f"moments of {args.images} images": lambda: Moments.of(chunk),
        "sum of two moments": lambda: part + part,
        "to bytes and back": lambda: Moments.from_bytes(part.to_bytes()),
        "distance, full rank": lambda: frechet_distance(first, second),
        "distance, fewer images than features": lambda: frechet_distance(few, second),
    }
    print(f"{d} features, {torch.get_num_threads()} threads, median of {args.repeats}")
    for name, work in rows.items():
        print(f"{name:40s} {seconds(work, args.repeats):8.3f} s")


if __name__ == "__main__":
    main()
