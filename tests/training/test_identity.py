from dataclasses import replace

import pytest

from pipeline.data.dataset import DatasetInfo
from pipeline.diffusion.noise import LogUniform
from pipeline.errors import DataError, SettingsError
from pipeline.networks import MLP, DDPMpp
from pipeline.training.identity import resolve_model, training_folder, training_key
from pipeline.training.settings import ModelSettings, Optimizer, TrainingSettings

INFO = DatasetInfo("digits", 10, 1, 16, 16, 0, (), (0.0,), 0.37, "abc")
NETWORK = MLP(hidden=8, num_layers=0)


def _folder(model: ModelSettings | None = None, info: DatasetInfo = INFO, **fields: object) -> str:
    settings = TrainingSettings.model_validate(fields)
    return training_folder("mine", resolve_model(model or ModelSettings(network=NETWORK), info), settings, info)


@pytest.mark.parametrize(
    "fields",
    [
        {"duration_kimg": 7.0}, {"snapshot_kimg": 7.0}, {"checkpoint_kimg": 7.0}, {"log_kimg": 7.0}, {"on_nan": "skip"},
        {"loss_bins": 3}, {"microbatch": 4}, {"channels_last": False}, {"compile": True},
    ],
)  # fmt: skip
def test_how_long_how_often_and_where_do_not_make_another_training(fields: dict[str, object]) -> None:
    assert _folder(**fields) == _folder()


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": 1}, {"batch_size": 8}, {"x_flip": True}, {"precision": "bf16"}, {"noise": LogUniform()},
        {"optimizer": Optimizer(lr=0.1)}, {"ema": {"halflife_kimg": [5.0]}}, {"ema": {"power_stds": [0.05]}},
        {"weighting": {"kind": "inverse_variance"}}, {"stratified": True},
    ],
)  # fmt: skip
def test_what_determines_the_weights_makes_another_training(fields: dict[str, object]) -> None:
    assert _folder(**fields) != _folder()


def test_a_training_from_before_there_were_more_settings_keeps_its_folder() -> None:
    assert _folder() == "mine-722d1030"


def test_so_do_the_model_and_the_content_of_the_data_but_not_its_name() -> None:
    assert _folder(ModelSettings(network=MLP(hidden=16))) != _folder()
    assert _folder(ModelSettings(network=NETWORK, sigma_data=0.4)) != _folder()
    assert _folder(info=replace(INFO, digest="abd")) != _folder()
    assert _folder(info=replace(INFO, name="other")) == _folder()
    assert _folder().startswith("mine-")
    assert len(_folder()) == len("mine-") + 8


def test_a_run_in_the_tracker_belongs_to_one_name() -> None:
    model, settings = resolve_model(ModelSettings(network=NETWORK), INFO), TrainingSettings()
    assert training_key("a", model, settings, INFO) != training_key("b", model, settings, INFO)


def test_an_empty_sigma_data_is_the_deviation_of_the_data() -> None:
    assert resolve_model(ModelSettings(network=NETWORK, sigma_data=None), INFO).sigma_data == 0.37
    assert resolve_model(ModelSettings(network=NETWORK), INFO).sigma_data == 0.5


def test_data_that_cannot_be_learnt_is_refused_in_a_sentence() -> None:
    with pytest.raises(DataError, match=r"digits: has images of 24x16 pixels.*`size`"):
        resolve_model(ModelSettings(network=NETWORK), replace(INFO, width=24))
    with pytest.raises(DataError, match=r"deviation of 0\.0"):
        resolve_model(ModelSettings(network=NETWORK, sigma_data=None), replace(INFO, std=0.0))
    with pytest.raises(SettingsError, match=r"model.network: channel_mult: 5 levels .* \(got 24\)"):
        resolve_model(ModelSettings(network=DDPMpp(channel_mult=(1,) * 5)), replace(INFO, width=24, height=24))


def test_a_training_of_before_keeps_its_folder() -> None:
    """As they were named before there were settings that came later."""
    assert _folder() == "mine-722d1030"
    ema, adam = {"halflife_kimg": [5.0, 50]}, {"lr": 2e-4, "ramp_up_kimg": 100}
    assert _folder(ema=ema, optimizer=adam, x_flip=True) == "mine-27a2c633"
    assert _folder(ema={**ema, "power_stds": []}, optimizer=adam, x_flip=True) == "mine-27a2c633"
