"""Images into the training format: `python -m jobs.prepare CONFIG.yaml`."""

import sys

from jobs import cli
from jobs.context import alone, open_store
from pipeline.config.datasets import DatasetSettings, PrepareJob
from pipeline.data.prepare import prepare
from pipeline.data.store import Store


def prepare_dataset(store: Store, settings: DatasetSettings) -> None:
    """Prepares one data set, unless it is there, and says what it holds."""
    with alone(store, "data-set", settings):
        info = prepare(
            store, settings.name, settings.source, size=settings.size, channels=settings.channels,
            pad_to=settings.pad_to, part=settings.part, max_images=settings.max_images, on_broken=settings.on_broken,
        )  # fmt: skip
    classes = f"{info.num_classes} classes" if info.num_classes else "no classes"
    print(
        f"data set {info.name}: {info.num_images:,} images of {info.channels}x{info.height}x{info.width}, {classes}; "
        f"standard deviation {info.std:.4f} (a good sigma_data); digest {info.digest}"
    )


def main(settings: PrepareJob) -> None:
    prepare_dataset(open_store(settings), settings)


if __name__ == "__main__":
    sys.exit(cli.run(PrepareJob, main, __doc__))
