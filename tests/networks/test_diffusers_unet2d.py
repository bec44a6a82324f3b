"""diffusers' UNet2DModel as one of our networks: the same denoiser as diffusers itself, from a folder that it wrote."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from pipeline.diffusion.denoiser import Denoiser
from pipeline.diffusion.preconditioning import DiscretePreconditioning
from pipeline.errors import CheckpointError, SettingsError
from pipeline.networks import DiffusersUNet2D
from pipeline.training.importing import recognise
from pipeline.training.snapshot import build_denoiser, weights_bytes

diffusers = pytest.importorskip("diffusers")

SMALL: dict[str, Any] = {
    "sample_size": 8, "in_channels": 3, "out_channels": 3, "block_out_channels": (8, 16), "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 8, "norm_num_groups": 4,
}  # fmt: skip
J = torch.tensor([0, 1, 250, 700, 998])


def folder(path: Path, unet: dict[str, Any] | None = None, **scheduler: Any) -> tuple[Any, Any]:
    """A random network and its scheduler as a pipeline's folder; both as diffusers has them."""
    torch.manual_seed(1)
    model = diffusers.UNet2DModel(**{**SMALL, **(unet or {})}).eval()
    made = diffusers.DDPMScheduler(clip_sample=False, **scheduler)
    model.save_pretrained(path / "unet")
    made.save_pretrained(path / "scheduler")
    return model, made


def denoiser_at(path: Path) -> Denoiser:
    found = recognise(path)
    [weights] = found.weights.values()
    return build_denoiser(found.model, weights_bytes(weights), torch.float32, "cpu")


def theirs(model: Any, scheduler: Any, x: Tensor, labels: Tensor | None) -> Tensor:
    """The image that diffusers finds in each x = y + sigma_j n, one at a time, and the sigmas; by its scheduler."""
    images = []
    for index, j in enumerate(J.tolist()):
        scaled = x[index : index + 1] * scheduler.alphas_cumprod[j].sqrt()
        classes = None if labels is None else labels[index : index + 1]
        output = model(scaled, j, class_labels=classes).sample[:, : x.shape[1]]
        images.append(scheduler.step(output, j, scaled, generator=torch.Generator()).pred_original_sample)
    return torch.cat(images)


SCHEDULERS: list[dict[str, Any]] = [
    {"prediction_type": "epsilon"},
    {"prediction_type": "v_prediction", "beta_schedule": "scaled_linear", "beta_start": 0.001, "beta_end": 0.012},
    {"prediction_type": "sample", "beta_schedule": "sigmoid"},
    {"prediction_type": "v_prediction", "beta_schedule": "squaredcos_cap_v2"},
    {"prediction_type": "sample", "trained_betas": [0.0001 + 0.00001 * j for j in range(1000)]},
]


@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=lambda value: "-".join(map(str, list(value.values())[:2]))[:40])
@pytest.mark.parametrize("classes", [None, 3])
def test_the_denoiser_is_that_of_diffusers(tmp_path: Path, scheduler: dict[str, Any], classes: int | None) -> None:
    model, made = folder(tmp_path, {"num_class_embeds": classes}, **scheduler)
    denoiser = denoiser_at(tmp_path)
    abar = made.alphas_cumprod[J].double()
    sigma = ((1 - abar) / abar).sqrt()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(len(J), 3, 8, 8, generator=generator) * (sigma**2 + 0.25).sqrt().float().reshape(-1, 1, 1, 1)
    labels = None if classes is None else torch.tensor([0, 1, 2, 0, 1])
    with torch.no_grad():
        expected = theirs(model, made, x, labels)
        found = denoiser(x, sigma, labels)
    scale = sigma.clamp(min=1).float().reshape(-1, 1, 1, 1)  # a large sigma's image is a difference of large numbers
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=1e-5)
    assert denoiser.preconditioning.coefficients(sigma, 0.5).c_noise.tolist() == J.tolist()


def test_a_label_of_none_adds_nothing_and_others_do(tmp_path: Path) -> None:
    folder(tmp_path, {"num_class_embeds": 2})
    denoiser = denoiser_at(tmp_path)
    x, sigma = torch.randn(1, 3, 8, 8), torch.tensor([1.0])
    none = denoiser(x, sigma, torch.tensor([-1]))
    assert torch.equal(none, denoiser(x, sigma))
    assert not torch.allclose(none, denoiser(x, sigma, torch.tensor([0])))
    with torch.no_grad():
        denoiser.network.unet.class_embedding.weight.zero_()
    assert torch.equal(none, denoiser(x, sigma, torch.tensor([1])))


def test_a_learned_variance_is_not_used(tmp_path: Path) -> None:
    folder(tmp_path, {"out_channels": 6})
    x = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        network = denoiser_at(tmp_path).network
        assert network(x, torch.tensor([5.0])).shape == (1, 6, 8, 8)
        assert denoiser_at(tmp_path)(x, torch.tensor([1.0])).shape == x.shape


def test_attention_of_old_files_is_renamed(tmp_path: Path) -> None:
    folder(tmp_path)
    path = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    new = safetensors.torch.load_file(path)
    old = dict(new)
    for now, before in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        old = {name.replace(f".{now}.", f".{before}."): value for name, value in old.items()}
    assert old.keys() != new.keys()
    safetensors.torch.save_file(old, path)
    [weights] = recognise(tmp_path).weights.values()
    assert weights.keys() == {f"unet.{name}" for name in new}


def test_a_bare_model_with_its_scheduler_beside_it_is_read(tmp_path: Path) -> None:
    folder(tmp_path)
    for path in [*(tmp_path / "unet").iterdir(), *(tmp_path / "scheduler").iterdir()]:
        path.rename(tmp_path / path.name)
    found = recognise(tmp_path)
    assert found.model.network == DiffusersUNet2D(
        block_out_channels=(8, 16), layers_per_block=1, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"), norm_num_groups=4,
    )  # fmt: skip
    assert found.model.preconditioning == DiscretePreconditioning()
    assert "UNet2DModel of diffusers" in found.lines()[0]


def test_what_cannot_be_expressed_is_refused_in_one_sentence(tmp_path: Path) -> None:
    folder(tmp_path)
    files = {"unet": tmp_path / "unet" / "config.json", "scheduler": tmp_path / "scheduler" / "scheduler_config.json"}
    good = {name: json.loads(path.read_text()) for name, path in files.items()}
    for name, change, problem in (
        ("unet", {"_class_name": "UNet2DConditionModel"}, "of UNet2DConditionModel"),
        ("unet", {"time_embedding_type": "fourier"}, "time_embedding_type is 'fourier'"),
        ("unet", {"class_embed_type": "timestep"}, "class_embed_type"),
        ("unet", {"in_channels": 4, "out_channels": 4}, "latent-space network"),
        ("unet", {"out_channels": 5}, "out_channels is 5"),
        ("unet", {"sample_size": None}, "sample_size"),
        ("unet", {"sample_size": [8, 16]}, "sample_size"),
        ("unet", {"sample_size": 9}, "multiple of 2"),
        ("unet", {"some_new_option": 1}, "'some_new_option', which is not known"),
        ("unet", {"layers_per_block": 10**9}, "layers_per_block"),
        ("unet", {"layers_per_block": 2}, "is missing"),
        ("unet", {"down_block_types": ["os.system", "DownBlock2D"]}, "down_block_types"),
        ("unet", {"num_class_embeds": "many"}, "num_class_embeds"),
        ("scheduler", {"_class_name": "EDMEulerScheduler"}, "the scheduler is EDMEulerScheduler"),
        ("scheduler", {"prediction_type": "flow"}, "prediction_type is 'flow'"),
        ("scheduler", {"beta_schedule": ["linear"]}, "beta_schedule"),
        ("scheduler", {"rescale_betas_zero_snr": True}, "infinite"),
        ("scheduler", {"beta_end": 2.0}, "beta_start: must be"),
        ("scheduler", {"trained_betas": [0.5, 1.5]}, "betas: must be"),
    ):
        files[name].write_text(json.dumps({**good[name], **change}))
        with pytest.raises(CheckpointError, match=problem) as caught:
            recognise(tmp_path)
        assert "\n" not in str(caught.value)
        files[name].write_text(json.dumps(good[name]))
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").rename(
        tmp_path / "unet" / "diffusion_pytorch_model.bin"
    )
    with pytest.raises(CheckpointError, match="safe_serialization"):
        recognise(tmp_path)
    files["scheduler"].unlink()
    with pytest.raises(CheckpointError, match="no scheduler"):
        recognise(tmp_path)


def test_the_extra_is_named_where_diffusers_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    net = DiffusersUNet2D(block_out_channels=(8,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",))
    with pytest.raises(SettingsError, match=r"sigmasweep\[diffusers\]"):
        net.build(8, 3, 0)


@pytest.mark.parametrize(
    "changes",
    [{"block_out_channels": ()}, {"block_out_channels": (8, 16)}, {"layers_per_block": 0}, {"norm_num_groups": 0}],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes)).split("_", maxsplit=1)[0] + "|down_block_types"):
        DiffusersUNet2D(**changes)
