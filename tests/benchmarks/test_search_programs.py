"""The programs that hold a search against the grid, and the cheap metric against the distance, on a small network."""

import json
from pathlib import Path

import pytest

from pipeline.data.store import Store
from tests.engine.gaussian import put_data, put_extractor, put_network

pytest.importorskip("optuna", reason="the extra `search` brings it")


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("programs")
    store = Store(root / "store")
    put_network(store)
    put_data(store)
    extractor = put_extractor(root)
    return [
        "--store", store.uri, "--training", "gaussian", "--dataset", "gaussian", "--actors", "0", "--quick",
        "--file", extractor.path, "--sha256", extractor.sha256,
    ]  # fmt: skip


@pytest.mark.slow
def test_a_search_is_held_against_the_grid(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks.search_against_grid import main

    code = main([*options, "--json", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["share"] <= 0.2
    assert found["settings"] == 12
    assert code == (0 if found["worse_at_most"] < 0.03 else 1)
    assert "on 100 fresh seeds" in capsys.readouterr().out


@pytest.mark.slow
def test_the_cheap_metric_is_held_against_the_distance(options: list[str], tmp_path: Path) -> None:
    from benchmarks.cheap_metric import main

    assert main([*options, "--json", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found["measured"]) == 12
    whole = found["correlations"]["RMSE and distance"]
    assert whole["kendall_interval"][0] <= whole["kendall"] <= whole["kendall_interval"][1]
    assert whole["kendall"] > 0.5  # the network is perfect: what a solver does wrong is all that is wrong
