"""What a distance costs beside the network: `python benchmarks/evaluation.py [--quick] [--json FILE]`.

Features: the loops that the engine runs over images (reading, batches, the extractor; and the same with moments, whose
products are taken in float64), against forward passes of the same network on the same batch and nothing else. Networks:
the default classifier of small images, and one whose features are as many as Inception's.

The distance: CPU time at 2,048 features, from moments to the number, beside the arithmetic of torchmetrics (eigenvalues
of the product) and of torch-fidelity (scipy's root of the product) on the same two Gaussians.

References: the statistics of a data set, twice. The second time nothing may be extracted.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # also where it is run as a file

import numpy as np
import scipy.linalg
import torch

from benchmarks.report import Row, run
from pipeline.data.dataset import Dataset, commit_dataset
from pipeline.data.samples import Execution
from pipeline.data.sources.base import Item
from pipeline.data.store import Store
from pipeline.engine.references import BATCH, MomentsWorker, reference_moments
from pipeline.engine.work import ExtractorPlan
from pipeline.metrics.extractors import Classifier
from pipeline.metrics.extractors.classifier import ClassifierNetwork, to_bytes
from pipeline.metrics.frechet import frechet_distance
from pipeline.metrics.moments import Gaussian, Moments

FEATURES, IMAGES = 2048, 50_000
SPEED, CPU_SECONDS, SECOND_TIME = 0.97, 1.0, 0.0
SHAPE = (3, 32, 32)


def classifier(**settings: Any) -> tuple[ExtractorPlan, ClassifierNetwork]:
    """An extractor that was never trained, and its network."""
    chosen = Classifier(**settings)
    torch.manual_seed(0)
    network = ClassifierNetwork(SHAPE, 10, chosen.width, chosen.num_features).eval()
    return ExtractorPlan(chosen, to_bytes(network)), network


def put_images(store: Store, count: int) -> Dataset:
    """Random pixels: no network here is faster on some images than on others."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, *SHAPE), dtype=np.uint8)
    commit_dataset(store, "images", (Item(str(i), image, i % 10) for i, image in enumerate(images)))
    return Dataset.open(store, "images")


def features(quick: bool) -> Iterator[Row]:
    """Rounds of both loops in turn, so that a machine that slows down slows both."""
    rounds, chunk = (5, range(512)) if quick else (15, range(1024))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        dataset = put_images(Store(folder), chunk.stop)
        for name, settings in (("default", {}), ("wide, 2,048 features", {"width": 64, "num_features": FEATURES})):
            plan, network = classifier(**settings)
            worker = MomentsWorker(dataset, plan, "cpu", 1)
            batch = torch.from_numpy(dataset.images(np.arange(BATCH["cpu"])))
            forward = alone(network, batch, len(chunk))
            loops = {
                "features": lambda worker=worker: worker.features(chunk),
                "features and moments": lambda worker=worker: worker.moments(chunk),
            }
            times: dict[str, list[float]] = {what: [] for what in ("forward", *loops)}
            for _ in range(1 + rounds):  # the first is not counted
                for what, work in {"forward": forward, **loops}.items():
                    times[what].append(clock(work))
            bare = times.pop("forward")[1:]
            for what, taken in times.items():
                ratio = statistics.median(one / loop for one, loop in zip(bare, taken[1:], strict=True))
                more = {
                    "images_per_s": len(chunk) / statistics.median(taken[1:]),
                    "forward_images_per_s": len(chunk) / statistics.median(bare),
                }
                yield Row(f"{what}, classifier ({name}): of the network's own speed", ratio, SPEED, more=more)


def alone(network: Any, batch: torch.Tensor, count: int) -> Callable[[], None]:
    """Forward passes over as many images, of one batch that is ready."""

    def work() -> None:
        with torch.inference_mode():
            for _ in range(count // len(batch)):
                network(batch)

    return work


def clock(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def distance(quick: bool) -> Iterator[Row]:
    """One thread. Features whose variances fall by a power, as those of real networks do."""
    torch.set_num_threads(1)
    random, scale = torch.Generator().manual_seed(0), torch.arange(1, FEATURES + 1) ** -0.75
    a, b = (
        Moments.of(torch.randn(times * FEATURES, FEATURES, generator=random) * scale).gaussian() for times in (3, 4)
    )
    ours, value = cpu_seconds(lambda: frechet_distance(a, b).value, 3 if quick else 9)
    more: dict[str, Any] = {"distance": value}
    for name, theirs in (("torchmetrics", of_torchmetrics), ("torch_fidelity", of_torch_fidelity)):
        taken, found = cpu_seconds(lambda theirs=theirs: theirs(a, b), 1)
        more |= {f"{name}_s": taken, f"{name}_over_ours": taken / ours, f"{name}_differs": abs(found / value - 1)}
    yield Row("one distance at 2,048 features, seconds of CPU", ours, CPU_SECONDS, at_most=True, more=more)
    few = Moments.of(torch.randn(FEATURES // 2, FEATURES, generator=random) * scale).gaussian()
    singular, _ = cpu_seconds(lambda: frechet_distance(few, b).value, 1)
    yield Row("the same of fewer images than features, seconds of CPU", singular)


def cpu_seconds(work: Callable[[], float], repeats: int) -> tuple[float, float]:
    """The median of some, and what the work gave."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        value = work()
        times.append(time.process_time() - start)
    return statistics.median(times), value


def of_torchmetrics(a: Gaussian, b: Gaussian) -> float:
    from torchmetrics.image.fid import _compute_fid

    arguments = (torch.from_numpy(x) for x in (a.mean, a.covariance, b.mean, b.covariance))
    return float(_compute_fid(*arguments))


def of_torch_fidelity(a: Gaussian, b: Gaussian) -> float:
    """Its formula, on scipy's root; it is not installed beside a torch without torchvision."""
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance)
    means = np.square(a.mean - b.mean).sum()
    return float(means + np.trace(a.covariance) + np.trace(b.covariance) - 2 * np.trace(root.real))


def references(quick: bool) -> Iterator[Row]:
    """The second time is another process's, as far as the store knows."""
    count = IMAGES // 10 if quick else IMAGES
    with tempfile.TemporaryDirectory() as folder:
        dataset = put_images(Store(folder), count)
        plan, _ = classifier(width=8)
        taken, extracted = [], []
        for _ in range(2):
            with counted() as images:
                taken.append(
                    clock(lambda: reference_moments(Store(folder), dataset, plan, Execution(), progress=False))
                )
            extracted.append(images[0])
    assert extracted[0] == count
    more = {"images": count, "first_s": taken[0], "second_s": taken[1]}
    name = "images extracted when a reference is asked for again"
    yield Row(name, float(extracted[1]), SECOND_TIME, at_most=True, more=more)


class counted:  # noqa: N801 - reads as a verb
    """Counts the images that classifiers see within the block."""

    def __enter__(self) -> list[int]:
        self._forward, images = ClassifierNetwork.forward, [0]

        def forward(network: Any, batch: torch.Tensor) -> Any:
            images[0] += len(batch)
            return self._forward(network, batch)

        ClassifierNetwork.forward = forward  # type: ignore[method-assign]
        return images

    def __exit__(self, *_: object) -> None:
        ClassifierNetwork.forward = self._forward  # type: ignore[method-assign]


def measure(quick: bool) -> Iterator[Row]:
    for part in (distance, features, references):
        yield from part(quick)


if __name__ == "__main__":
    sys.exit(run(measure, __doc__))
