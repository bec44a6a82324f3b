"""The Inception path, on random weights: the published ones are not needed to see that they would be used rightly."""

import importlib.util
import io
import os
import pickle
from types import ModuleType

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pipeline.digests import sha256
from pipeline.errors import DataError, SettingsError
from pipeline.metrics.extractors import Inception

SHAPE = (3, 16, 16)


@pytest.fixture(scope="module")
def torch_fidelity(torchvision_imports: None) -> ModuleType:
    return pytest.importorskip("torch_fidelity", reason="the extra `inception` is not installed")


@pytest.fixture(scope="module")
def weights(torch_fidelity: ModuleType) -> bytes:
    """Of a randomly initialized Inception; its constructor insists on loading some, so that is skipped here."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Unloaded(FeatureExtractorInceptionV3):
        def load_state_dict(self, *_args: object, **_keywords: object) -> None:
            pass

    file = io.BytesIO()
    torch.save({}, file)
    file.seek(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Unloaded("inception-v3-compat", ["2048"], file)
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    return file.getvalue()


def images(num: int = 2, channels: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (num, channels, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_features_are_those_of_torchmetrics_metric_without_antialiasing(weights: bytes, tmp_path) -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    (tmp_path / "weights.pth").write_bytes(weights)
    settings = Inception(weights=str(tmp_path / "weights.pth"))
    extractor = settings.build(settings.load(), SHAPE)
    found = extractor(images()).features
    metric = FrechetInceptionDistance(feature_extractor_weights_path=settings.weights, antialias=False)
    assert found.shape == (2, extractor.num_features) == (2, 2048)
    torch.testing.assert_close(found, metric.inception(images()), rtol=1e-5, atol=1e-7)
    antialiased = Inception(antialias=True).build(weights, SHAPE)(images()).features
    assert (antialiased - found).abs().max() > 1e-3 * found.abs().max()


def test_logits_follow_from_the_features_as_torchmetrics_takes_them(weights: bytes, tmp_path) -> None:
    from torchmetrics.image.fid import NoTrainInceptionV3

    (tmp_path / "weights.pth").write_bytes(weights)
    theirs = NoTrainInceptionV3("inception-v3-compat", ["logits_unbiased"], str(tmp_path / "weights.pth"))
    with torch.inference_mode():
        expected = theirs(images()).numpy()
    features = Inception().build(weights, SHAPE)(images()).features.numpy()
    found = Inception(antialias=False).logits(features, weights)
    antialiased = Inception(antialias=True).build(weights, SHAPE)(images()).features.numpy()
    assert found.shape == (2, 1008)
    # the network above resizes with antialiasing, its default
    np.testing.assert_allclose(Inception().logits(antialiased, weights), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(DataError, match="does not hold the weights"):
        Inception().logits(features[:, :100], weights)


def test_grey_is_repeated_and_features_do_not_depend_on_the_batch(weights: bytes) -> None:
    extractor = Inception().build(weights, (1, 16, 16))
    grey = images(3, channels=1)
    whole = extractor(grey).features
    torch.testing.assert_close(whole, extractor(grey.repeat(1, 3, 1, 1)).features)
    one_by_one = torch.cat([extractor(image).features for image in torch.split(grey, 1)])
    torch.testing.assert_close(whole, one_by_one, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(whole[0], F.pad(whole[1], (0, 0)))


def test_a_pickled_program_among_the_weights_is_not_run(torch_fidelity: ModuleType, tmp_path) -> None:
    trace = tmp_path / "ran"

    class Payload:
        def __reduce__(self):
            return (os.mkdir, (str(trace),))

    file = io.BytesIO()
    torch.save({"weight": torch.zeros(1), "payload": Payload()}, file)
    for data in (file.getvalue(), pickle.dumps(Payload(), protocol=2), b"", b"junk"):
        with pytest.raises(DataError, match="does not hold the weights of a network"):
            Inception().build(data, SHAPE)
    assert not trace.exists()


def test_weights_of_another_network_are_told(torch_fidelity: ModuleType) -> None:
    for wrong in ({"weight": torch.zeros(1)}, torch.zeros(1), [1]):
        file = io.BytesIO()
        torch.save(wrong, file)
        with pytest.raises(DataError, match="torch-fidelity's Inception"):
            Inception(weights="other.pth").build(file.getvalue(), SHAPE)


@pytest.mark.skipif(importlib.util.find_spec("torch_fidelity") is not None, reason="torch-fidelity is installed")
def test_without_torch_fidelity_the_extra_is_named() -> None:
    with pytest.raises(SettingsError, match="needs the extra `inception`"):
        Inception().build(b"", SHAPE)


def test_only_the_published_weights_and_resize_are_called_fid(monkeypatch: pytest.MonkeyPatch) -> None:
    other = b"other weights"
    assert Inception().distance_name(other) == f"FD, Inception with weights {sha256(other)[:8]}"
    monkeypatch.setattr("pipeline.metrics.extractors.inception.sha256", lambda data: "6726825d" + "0" * 56)
    assert Inception().distance_name(b"") == "FID"
    assert Inception(antialias=True).distance_name(b"") == "FID, antialiased"


def test_the_digest_covers_weights_and_resize_but_not_their_path() -> None:
    assert Inception("a.pth").digest(b"a") == Inception("b.pth").digest(b"a")
    digests = {Inception().digest(b"a"), Inception().digest(b"b"), Inception(antialias=True).digest(b"a")}
    assert len(digests) == 3


def test_missing_and_damaged_weights_are_told(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        Inception(weights=str(tmp_path / "none.pth")).load()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    cached = tmp_path / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    cached.parent.mkdir()
    cached.write_bytes(b"half a download")
    with pytest.raises(DataError, match="is damaged: its sha256 does not begin with 6726825d"):
        Inception().load()


def test_a_machine_without_the_network_is_told_to_give_a_path(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(
        "pipeline.metrics.extractors.inception.WEIGHTS_URL", "http://127.0.0.1:9/weights-inception-6726825d.pth"
    )
    with pytest.raises(DataError, match=r"cannot be downloaded \(.*\); give `weights: <path>` instead"):
        Inception().load()
