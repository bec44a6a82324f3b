"""A folder of the library diffusers with an unconditional or class-conditional `UNet2DModel`.

Two layouts are known: a pipeline's (`unet/`, `scheduler/`), and a bare model's with its scheduler beside it.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.diffusion.preconditioning import DiscretePreconditioning
from pipeline.networks import DiffusersUNet2D
from pipeline.training.importing.found import Found, NotRecognisedError
from pipeline.training.importing.own_folder import read_json, read_safetensors
from pipeline.training.settings import ModelSpec

UNET_CONFIGS = ("unet/config.json", "config.json")
_SCHEDULER_CONFIGS = ("scheduler/scheduler_config.json", "scheduler_config.json")
_WEIGHTS = "diffusion_pytorch_model.safetensors"
_SCHEDULERS = ("DDPMScheduler", "DDIMScheduler", "PNDMScheduler")  # all have DDPM's levels
_SCHEDULES = {
    "linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine", "sigmoid": "sigmoid",
}  # fmt: skip
_PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v", "sample": "sample"}

# Settings of UNet2DModel that are not fields of our network: the value that each must have, beside those read below.
_FIXED: Mapping[str, tuple[Any, ...]] = {
    "time_embedding_type": ("positional",),
    "class_embed_type": (None,),
    "num_train_timesteps": (None,),
}
_READ = {"sample_size", "in_channels", "num_class_embeds"}
# Attention in files of before 2023 has other names.
_RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def read_diffusers(folder: Path) -> Found:
    """Raises:
    CheckpointError: a file is missing or damaged.
    NotRecognisedError: a setting has no counterpart here.
    ValidationError: of pydantic: a setting is wrong.
    """
    config_path = next(folder / name for name in UNET_CONFIGS if (folder / name).is_file())
    config = read_json(config_path)
    if config.get("_class_name") != "UNet2DModel":
        raise NotRecognisedError(
            f"{config_path.name} is of {str(config.get('_class_name') or 'no class')[:100]}; of diffusers, "
            "UNet2DModel is read (latent and text-conditional networks are not)"
        )
    scheduler_path = next((folder / name for name in _SCHEDULER_CONFIGS if (folder / name).is_file()), None)
    if scheduler_path is None:
        raise NotRecognisedError(f"has no scheduler ({' or '.join(_SCHEDULER_CONFIGS)}), which says the noise levels")
    model = ModelSpec.model_validate(
        {
            "network": _network(config),
            "preconditioning": _preconditioning(read_json(scheduler_path)),
            "sigma_data": 0.5,
            "resolution": _resolution(config),
            "channels": _channels(config),
            "num_classes": config.get("num_class_embeds") or 0,
        }
    )
    tensors = read_safetensors(_weights_path(config_path.parent))
    weights = {f"unet.{_renamed(name)}": tensor for name, tensor in tensors.items()}
    levels = f"{model.preconditioning.kind} levels, {config.get('_diffusers_version', 'unknown version')}"
    return Found(origin=f"UNet2DModel of diffusers ({levels})", model=model, weights={"weights": weights})


def _network(config: Mapping[str, Any]) -> dict[str, Any]:
    known = {field.name for field in dataclasses.fields(DiffusersUNet2D)} - {"kind"}
    settings = {name: value for name, value in config.items() if not name.startswith("_")}
    for name, value in settings.items():
        if name in _FIXED and value not in _FIXED[name]:
            raise NotRecognisedError(f"{name} is {str(value)[:100]!r}, and only {_FIXED[name][0]!r} is read")
        if name not in known | _READ | _FIXED.keys():
            raise NotRecognisedError(f"config.json has the setting {name[:100]!r}, which is not known here")
    if settings.get("num_class_embeds") is not None and type(settings["num_class_embeds"]) is not int:
        raise NotRecognisedError("num_class_embeds must be a whole number")
    network = {name: value for name, value in settings.items() if name in known}
    if network.get("out_channels") == config.get("in_channels"):
        network["out_channels"] = None
    return {"kind": "diffusers_unet2d", **network}


def _resolution(config: Mapping[str, Any]) -> int:
    size = config.get("sample_size")
    if isinstance(size, list) and len(size) == 2 and size[0] == size[1]:
        size = size[0]
    if type(size) is not int:
        raise NotRecognisedError(f"sample_size must be one whole number, as images are square (got {str(size)[:100]})")
    return size


def _channels(config: Mapping[str, Any]) -> int:
    channels, out = config.get("in_channels", 3), config.get("out_channels", 3)
    if channels not in (1, 3):
        raise NotRecognisedError(f"is a latent-space network ({channels} channels), whose decoder is not built yet")
    if out not in (channels, 2 * channels):
        raise NotRecognisedError(f"out_channels is {out}, which is neither in_channels nor twice that")
    return int(channels)


def _preconditioning(config: Mapping[str, Any]) -> dict[str, Any]:
    """The levels that the network was trained on; what a scheduler says of sampling is left to the sampler here."""
    if config.get("_class_name") not in _SCHEDULERS:
        raise NotRecognisedError(
            f"the scheduler is {str(config.get('_class_name'))[:100]}; known are {', '.join(_SCHEDULERS)}"
        )
    if config.get("rescale_betas_zero_snr"):
        raise NotRecognisedError("rescale_betas_zero_snr makes the last noise level infinite, which is not read")
    schedule, prediction = config.get("beta_schedule", "linear"), config.get("prediction_type", "epsilon")
    for name, value, known in (
        ("beta_schedule", schedule, _SCHEDULES), ("prediction_type", prediction, _PREDICTIONS),
    ):  # fmt: skip
        if not isinstance(value, str) or value not in known:
            raise NotRecognisedError(f"{name} is {str(value)[:100]!r}; known are {', '.join(known)}")
    if config.get("trained_betas") is not None:
        return {"kind": "discrete", "prediction": _PREDICTIONS[prediction], "betas": config["trained_betas"]}
    return {
        "kind": "discrete",
        "schedule": _SCHEDULES[schedule],
        "beta_start": config.get("beta_start", DiscretePreconditioning.beta_start),
        "beta_end": config.get("beta_end", DiscretePreconditioning.beta_end),
        "M": config.get("num_train_timesteps", DiscretePreconditioning.M),
        "prediction": _PREDICTIONS[prediction],
    }


def _weights_path(folder: Path) -> Path:
    path = folder / _WEIGHTS
    if not path.is_file() and (folder / "diffusion_pytorch_model.bin").is_file():
        raise NotRecognisedError(
            "has its weights as diffusion_pytorch_model.bin, a pickle: save it with diffusers' safe_serialization=True"
        )
    return path


def _renamed(name: str) -> str:
    parts = name.split(".")
    return ".".join(_RENAMED.get(part, part) if "attentions" in parts else part for part in parts)
