"""The docs name what is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_every_local_link_leads_somewhere(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", path.read_text())
    missing = [link for link in links if not (path.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_every_command_names_a_module_and_a_file_that_exist(path: Path) -> None:
    text = path.read_text()
    for module in re.findall(r"python -m ((?:jobs|benchmarks)\.\w+)", text):
        assert module == "jobs.NAME" or (ROOT / (module.replace(".", "/") + ".py")).is_file(), module
    for config in re.findall(r"jobs/configs/[\w-]+\.yaml", text):
        assert (ROOT / config).is_file(), config
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= targets


def test_the_file_map_of_the_readme_names_every_package_and_every_file_of_the_math() -> None:
    readme = (ROOT / "README.md").read_text()
    names = [path.name for path in (ROOT / "pipeline").iterdir() if path.is_dir() and path.name != "__pycache__"]
    names += [path.name for path in (ROOT / "pipeline" / "diffusion").glob("[a-z]*.py")]
    assert [name for name in names if name not in readme] == []


def test_the_catalogue_of_settings_is_what_the_code_says() -> None:
    from pipeline.config.catalogue import catalogue

    told = "make it anew: python -m pipeline.config.catalogue > docs/settings.md"
    assert (ROOT / "docs" / "settings.md").read_text() == catalogue(), told


def test_the_catalogue_of_the_design_space_is_what_the_code_says() -> None:
    from tests.catalogue import catalogue

    told = "make it anew: python -m tests.catalogue > docs/catalogue.md"
    assert (ROOT / "docs" / "catalogue.md").read_text() == catalogue(), told
