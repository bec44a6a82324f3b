"""Programs from a file: TorchScript and torch.export, small ones made here and the given one."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.digests import sha256
from pipeline.errors import DataError
from pipeline.metrics.extractors import Features, File
from pipeline.metrics.extractors.file import FileExtractor

DATA = os.environ.get("SIGMASWEEP_DATA")
GIVEN = {".pt": "09e932a0", ".pt2": "e1009298"}


class Pooled(nn.Module):
    """Two numbers a channel."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = images.to(torch.float32)
        return torch.cat([x.mean(dim=[2, 3]), x.amax(dim=[2, 3])], dim=1)


class WithKeyword(nn.Module):
    """Called as NVIDIA's TorchScript Inception is."""

    def forward(self, images: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        x = images.to(torch.float32).mean(dim=[2, 3])
        if return_features:
            return x
        return x.softmax(dim=1)


class Flat(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.to(torch.float32).flatten()


class Bytes(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)


class Undefined(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.to(torch.float32).mean(dim=[2, 3]) / 0.0


class Pair(nn.Module):
    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return images.float(), images.float()


@pytest.fixture(autouse=True)
def _no_word_on_old_formats() -> None:
    import warnings

    warnings.simplefilter("ignore", DeprecationWarning)


def scripted(module: nn.Module, folder: Path, **settings: object) -> File:
    path = folder / "net.pt"
    torch.jit.script(module.eval()).save(path)
    return File(path=str(path), sha256=sha256(path.read_bytes()), **settings)


def exported(module: nn.Module, folder: Path) -> File:
    path = folder / "net.pt2"
    example = (torch.zeros(2, 3, 8, 8, dtype=torch.uint8),)
    torch.export.save(torch.export.export(module.eval(), example, dynamic_shapes=({0: torch.export.Dim("n")},)), path)
    return File(path=str(path), sha256=sha256(path.read_bytes()))


def built(settings: File, shape: tuple[int, int, int] = (3, 8, 8)) -> FileExtractor:
    return settings.build(settings.load(), shape)


def images(num: int = 6, channels: int = 3, size: int = 8) -> torch.Tensor:
    return torch.randint(
        0, 256, (num, channels, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


@pytest.mark.parametrize("write", [scripted, exported])
def test_a_program_gives_its_features(write, tmp_path) -> None:
    extractor = built(write(Pooled(), tmp_path))
    found = extractor(images())
    assert isinstance(found, Features)
    assert found.logits is None
    assert found.features.dtype == torch.float32
    assert extractor.num_features == 6
    torch.testing.assert_close(found.features, Pooled()(images()))
    torch.testing.assert_close(extractor(images(5)).features, Pooled()(images(5)))
    assert extractor.distance_name == "FD, net"


@pytest.mark.parametrize("write", [scripted, exported])
def test_grey_is_repeated_to_three_channels(write, tmp_path) -> None:
    grey = images(channels=1)
    found = built(write(Pooled(), tmp_path), (1, 8, 8))(grey).features
    torch.testing.assert_close(found, Pooled()(grey.repeat(1, 3, 1, 1)))


def test_the_keyword_reaches_the_program(tmp_path) -> None:
    plain = scripted(WithKeyword(), tmp_path)
    asking = File(path=plain.path, sha256=plain.sha256, return_features=True)
    torch.testing.assert_close(built(asking)(images()).features, images().float().mean(dim=(2, 3)))
    assert not torch.allclose(built(asking)(images()).features, built(plain)(images()).features)
    assert built(asking).digest != built(plain).digest


def test_a_program_that_does_not_know_the_keyword_is_named(tmp_path) -> None:
    plain = scripted(Pooled(), tmp_path)
    with pytest.raises(DataError, match=r"net.pt: cannot take images of shape 3x8x8 \(.*argument"):
        built(File(path=plain.path, sha256=plain.sha256, return_features=True))


def test_a_file_with_another_sha256_does_not_run(tmp_path) -> None:
    trace = tmp_path / "ran"

    class Payload:
        def __reduce__(self):
            return (os.mkdir, (str(trace),))

    path = tmp_path / "net.pt"
    path.write_bytes(pickle.dumps(Payload()))
    named = "0" * 64
    settings = File(path=str(path), sha256=named)
    for step in (settings.load, lambda: settings.build(path.read_bytes(), (3, 8, 8))):
        with pytest.raises(DataError, match="does not run") as caught:
            step()
        assert named in str(caught.value)
        assert sha256(path.read_bytes()) in str(caught.value)
    assert not trace.exists()


def test_the_digest_is_of_the_content_not_of_its_place_or_name(tmp_path) -> None:
    one = scripted(Pooled(), tmp_path)
    other = tmp_path / "copy.pt"
    other.write_bytes(one.load())
    two = File(path=str(other), sha256=one.sha256, name="Pooled, 8 px")
    assert one.digest(one.load()) == two.digest(two.load()) == built(two).digest
    assert two.distance_name(two.load()) == "FD, Pooled, 8 px"


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (Flat(), r"a row an image \(got torch.float32 \(384,\)\)"),
        (Bytes(), r"a float matrix .*\(got torch.uint8 \(2, 192\)\)"),
        (Undefined(), "not finite"),
        (Pair(), r"\(got tuple\)"),
    ],
)
def test_what_is_no_features_stops_with_one_sentence(module: nn.Module, words: str, tmp_path) -> None:
    with pytest.raises(DataError, match=words) as caught:
        built(scripted(module, tmp_path))
    assert "\n" not in str(caught.value)


def test_features_that_turn_infinite_later_stop_too(tmp_path) -> None:
    class Inverse(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return 1 / (images.to(torch.float32).mean(dim=[2, 3]) - 7)

    extractor = built(scripted(Inverse(), tmp_path))
    with pytest.raises(DataError, match="not finite"):
        extractor(torch.full((2, 3, 8, 8), 7, dtype=torch.uint8))


@pytest.mark.parametrize("suffix", [".pt", ".pt2"])
def test_a_file_that_is_no_program_is_named(suffix: str, tmp_path) -> None:
    path = tmp_path / f"net{suffix}"
    path.write_bytes(b"no program")
    settings = File(path=str(path), sha256=sha256(b"no program"))
    with pytest.raises(DataError, match="holds no program that torch can load"):
        built(settings)


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        File(path=str(tmp_path / "net.pt"), sha256="0" * 64).load()


def test_an_exported_program_of_another_size_is_named(tmp_path) -> None:
    with pytest.raises(DataError, match="cannot take images of shape 3x16x16"):
        built(exported(Pooled(), tmp_path), (3, 16, 16))


def test_settings_without_a_sha256_do_not_exist() -> None:
    with pytest.raises(TypeError, match="sha256"):
        File(path="net.pt")  # type: ignore[call-arg]


@pytest.mark.parametrize(("path", "digest", "words"), [("net.onnx", "0" * 64, "path: "), ("net.pt", "0A", "sha256: ")])
def test_wrong_settings_name_their_key(path: str, digest: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        File(path=path, sha256=digest)


@pytest.mark.parametrize(
    "wrong", [torch.zeros(2, 3, 8, 8), torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(2, 4, 8, 8).byte()]
)
def test_what_is_no_uint8_images_is_refused(wrong: torch.Tensor, tmp_path) -> None:
    extractor = built(scripted(Pooled(), tmp_path))
    with pytest.raises(ValueError, match="must be uint8"):
        extractor(wrong)


@pytest.mark.skipif(DATA is None, reason="SIGMASWEEP_DATA is not set: it names the folder with the extractors")
def test_the_given_network_gives_the_same_features_in_both_formats_and_any_batch() -> None:
    batch = images(7, size=32)
    found = {}
    for suffix, begins in GIVEN.items():
        path = Path(str(DATA)) / "extractors" / f"efficientnet-lite0-96{suffix}"
        digest = sha256(path.read_bytes())
        assert digest.startswith(begins)
        extractor = built(File(path=str(path), sha256=digest), (3, 32, 32))
        assert extractor.num_features == 1280
        found[suffix] = extractor(batch).features
        parts = torch.cat([extractor(part).features for part in torch.split(batch, [1, 4, 2])])
        torch.testing.assert_close(parts, found[suffix], rtol=1e-4, atol=1e-4)
    assert found[".pt"].std(dim=0).mean() > 0.01
    torch.testing.assert_close(found[".pt"], found[".pt2"], rtol=1e-5, atol=1e-5)
