"""What jobs would cost, for --dry-run, also where what they need is not there yet."""

import math

from jobs.context import engine_points
from pipeline.config.generation import GenerateSettings
from pipeline.config.trainings import TrainSettings
from pipeline.data.dataset import Dataset, DatasetInfo
from pipeline.data.store import Store
from pipeline.diffusion.sampling import count_nfe
from pipeline.diffusion.timesteps import NoiseLevels
from pipeline.engine.timing import seconds_of_network
from pipeline.errors import CheckpointError, DataError, SettingsError
from pipeline.networks.cost import network_cost


def check_expected(settings: TrainSettings, info: DatasetInfo) -> None:
    """Raises:
    DataError: the images are not what the settings were written for.
    """
    problem = settings.expects.differs(info.shape, info.num_classes) if settings.expects else ""
    if problem:
        raise DataError(info.name, f"has {problem}, as `expects` has it: name another data set, or change `expects`")


def training_cost(store: Store, settings: TrainSettings) -> list[str]:
    """What a training would cost, for --dry-run: images, parameters, operations, and time where this network was timed
    before; and what was published of it.

    Raises:
        DataError: the data set is not there, and nothing says what its images will be like.
        SettingsError: the network does not fit the images.
    """
    (channels, size), num_classes, note = _images(store, settings)
    batch_size, network = settings.training.batch_size, settings.model.network
    steps = math.ceil(1000 * settings.training.duration_kimg / batch_size)
    try:
        cost = network_cost(network, size, channels, num_classes)
    except ValueError as error:
        raise SettingsError("model.network", str(error)) from error
    images = steps * batch_size
    lines = [
        f"{cost.parameters:,} parameters; {images:,} images in {steps:,} steps",
        f"{cost.flops / 1e9:.3g} GFLOP a forward pass of one image; about {3 * cost.flops * images:.2e} FLOP to train",
    ]
    seconds = seconds_of_network(store, network, size)
    if seconds is not None:
        lines.append(
            f"about {3 * seconds * images / 3600:,.1f} hours of one worker, taking three times as long for an image as "
            "an evaluation of this network was timed to take"
        )
    return lines + ([note] if note else []) + ([str(settings.published)] if settings.published else [])


def _images(store: Store, settings: TrainSettings) -> tuple[tuple[int, int], int, str]:
    """(channels, size) and classes of the images to train on, and a note where the data set is not there yet."""
    expects, conditional = settings.expects, settings.model.conditional
    if expects is None or Dataset.is_there(store, settings.dataset):
        info = Dataset.open(store, settings.dataset).info
        return (info.channels, info.height), info.num_classes if conditional else 0, ""
    note = f"data set {settings.dataset} is not in the store yet: counted for the images that `expects` tells of"
    return (expects.channels, expects.size), (expects.num_classes or 0) if conditional else 0, note


def cost_without_checkpoint(settings: GenerateSettings, missing: CheckpointError) -> list[str]:
    """What a grid would cost on a network that takes any noise level, where the checkpoint is not there to be asked.

    Raises:
        SettingsError: a grid has no such steps for any network.
    """
    points, count = engine_points(settings), settings.seeds.count
    try:
        evaluations = sum(count_nfe(point.sampler, NoiseLevels(), label=0) or 0 for point in points)
    except ValueError as error:
        raise SettingsError("sampler", str(error)) from error
    return [
        f"{len(points)} settings x {count:,} images: {count * evaluations:,} network evaluations, if the network takes "
        "all their noise levels",
        f"not ready: {missing}",
    ]
