"""What a training is: its model made definite by the data, and the folder it has in the store."""

from pipeline.data.dataset import DatasetInfo
from pipeline.digests import digest, plain
from pipeline.errors import DataError, SettingsError
from pipeline.training.settings import ModelSettings, ModelSpec, TrainingSettings

REVISION = 1  # of the code of training; raised when the same settings would give other weights

# What is no part of a training's identity: how long it goes on, how often it is saved and told of, and how it is
# computed where that changes no more than rounding and dropout masks, as the number of workers does.
_INCIDENTAL = frozenset(
    {"duration_kimg", "snapshot_kimg", "checkpoint_kimg", "log_kimg", "on_nan", "loss_bins"}
    | {"microbatch", "channels_last", "compile", "convolution", "norm"}
)


def resolve_model(settings: ModelSettings, info: DatasetInfo) -> ModelSpec:
    """The model for a data set; an empty sigma_data becomes the standard deviation of the data.

    Raises:
        DataError: the images are not square, or all alike.
        SettingsError: the network cannot be built for images of this shape.
    """
    if info.height != info.width:
        raise DataError(
            info.name,
            f"has images of {info.width}x{info.height} pixels, and networks take square ones: prepare it with a `size`",
        )
    sigma_data = info.std if settings.sigma_data is None else settings.sigma_data
    if not sigma_data > 0:
        raise DataError(info.name, f"has a standard deviation of {sigma_data}: there is nothing to learn")
    model = ModelSpec(
        network=settings.network,
        preconditioning=settings.preconditioning,
        sigma_data=sigma_data,
        resolution=info.height,
        channels=info.channels,
        num_classes=info.num_classes if settings.conditional else 0,
    )
    check_buildable(model)
    return model


def check_buildable(model: ModelSpec) -> None:
    """Raises:
    SettingsError: the network does not fit the images; found out without the memory it would need.
    """
    import torch

    try:
        with torch.device("meta"):
            model.network.build(model.resolution, model.channels, model.num_classes)
    except ValueError as error:
        raise SettingsError("model.network", str(error)) from error


def training_folder(name: str, model: ModelSpec, settings: TrainingSettings, dataset: DatasetInfo) -> str:
    """`<name>-<8 hex digits>` of all that determines the weights; so other settings are another training."""
    return f"{name}-{_identity(model, settings, dataset)[:8]}"


def training_key(name: str, model: ModelSpec, settings: TrainingSettings, dataset: DatasetInfo) -> str:
    """The key of the training's run in the tracker."""
    return digest(["training", name, _identity(model, settings, dataset)])


def _identity(model: ModelSpec, settings: TrainingSettings, dataset: DatasetInfo) -> str:
    essential = {key: value for key, value in plain(settings).items() if key not in _INCIDENTAL}
    return digest({"model": model, "training": essential, "dataset": dataset.digest, "revision": REVISION})
