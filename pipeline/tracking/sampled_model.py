"""A registered model as MLflow's `pyfunc`: seeds in, images out. Imported by the few lines of code in its files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from mlflow.pyfunc import PythonModel
from numpy.typing import NDArray

from pipeline.config.load import validate
from pipeline.config.points import SamplerSettings
from pipeline.diffusion.decoding import PixelDecoder, quantize
from pipeline.diffusion.denoiser import Denoiser
from pipeline.diffusion.labels import Balanced
from pipeline.diffusion.sampling import sample
from pipeline.errors import SettingsError
from pipeline.training.importing.own_folder import read_own
from pipeline.training.settings import ModelSpec
from pipeline.training.snapshot import build_denoiser, weights_bytes

DEFAULTS = {"sampler": "{}", "batch_size": 64, "device": "cpu"}


def params() -> list[Any]:
    """What `predict` takes beside the seeds, for the model's signature."""
    from mlflow.types import ParamSpec

    kinds = {str: "string", int: "long"}
    return [ParamSpec(name, kinds[type(value)], value) for name, value in DEFAULTS.items()]


class SampledModel(PythonModel):  # type: ignore[misc]
    """One set of weights with a sampler."""

    def load_context(self, context: Any) -> None:
        """Raises:
        CheckpointError: the files are damaged.
        """
        found = read_own(Path(context.artifacts["checkpoint"]))
        self._model: ModelSpec = found.model
        self._weights = weights_bytes(next(iter(found.weights.values())))
        self._denoisers: dict[str, Denoiser] = {}

    def predict(
        self,
        context: Any,
        model_input: np.ndarray,  # any other hint, or none, has MLflow warn of it
        params: Mapping[str, Any] | None = None,
    ) -> NDArray[np.uint8]:
        """Images.

        Args:
            model_input: seeds, whole numbers: one image each; a list, an array, or the first column of a table.
            params: `sampler`: its settings as YAML, as in a settings file, by default Heun's method in 18 steps;
                `batch_size`: images at a time; `device`: of torch.

        Returns:
            uint8 of shape (N, C, H, W); of a network that knows classes, the classes in turn as `jobs.generate` has
            them, by the seed.

        Raises:
            SettingsError: the sampler is none.
        """
        wanted = {**DEFAULTS, **(params or {})}
        sampler = _sampler(str(wanted["sampler"]))
        denoiser = self._denoiser(str(wanted["device"]))
        images = []
        for seeds in torch.split(_seeds(model_input), int(wanted["batch_size"])):
            labels = Balanced().of(seeds, self._model.num_classes)
            there = seeds.to(wanted["device"]), labels.to(wanted["device"])
            with torch.inference_mode():
                made = sample(denoiser, denoiser.levels, sampler, there[0], self._model.shape, there[1]).images
                images.append(quantize(PixelDecoder().decode(made)).cpu())
        return torch.cat(images).numpy()

    def _denoiser(self, device: str) -> Denoiser:
        if device not in self._denoisers:
            self._denoisers[device] = build_denoiser(self._model, self._weights, torch.float32, device)
        return self._denoisers[device]


def _sampler(text: str) -> Any:
    try:
        content = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise SettingsError("sampler", f"is not YAML ({str(error).splitlines()[0]})") from error
    return validate(SamplerSettings, content, "sampler").build()


def _seeds(model_input: Any) -> torch.Tensor:
    values = model_input.iloc[:, 0] if hasattr(model_input, "iloc") else model_input
    return torch.from_numpy(np.asarray(values, dtype=np.int64).reshape(-1))
