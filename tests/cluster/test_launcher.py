"""The files for `ray up`, against Ray's own schema and by Ray's own preparation; nothing is started."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "cluster.yaml", ROOT / "deploy" / "cluster-gcp.yaml", ROOT / "deploy" / "cluster-local.yaml"]
CLOUDS = FILES[:2]


def content(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())
    return found


def schema() -> Any:
    import ray.autoscaler

    return json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())


def prepared(config: dict[str, Any]) -> dict[str, Any]:
    from ray.autoscaler._private.util import prepare_config, validate_config

    found: dict[str, Any] = prepare_config(config)
    validate_config(found)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_file_fits_rays_schema_as_it_is_written_and_as_ray_completes_it(path: Path) -> None:
    jsonschema.validate(content(path), schema())
    jsonschema.validate(prepared(content(path)), schema())


def test_a_file_without_a_name_is_found_by_the_schema_and_not_by_the_preparation() -> None:
    """Why both are asked."""
    nameless = {key: value for key, value in content(FILES[0]).items() if key != "cluster_name"}
    assert prepared(nameless)["cluster_name"] == "default"
    with pytest.raises(jsonschema.ValidationError, match="'cluster_name' is a required property"):
        jsonschema.validate(nameless, schema())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_dashboard_is_on_loopback_and_the_token_gets_to_every_node(path: Path) -> None:
    config = prepared(content(path))
    [head] = [command for command in config["head_start_ray_commands"] if "ray start" in command]
    assert "--dashboard-host=127.0.0.1" in head
    options = " ".join(config["docker"]["run_options"])
    assert "--env RAY_AUTH_MODE=token" in options
    assert config["file_mounts"]["~/.ray"] == "~/.ray"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_node_knows_the_store_and_the_tracker_and_no_secret_stands_in_the_file(path: Path) -> None:
    options = " ".join(content(path)["docker"]["run_options"])
    assert "--env SIGMASWEEP_STORE=" in options
    assert "--env MLFLOW_TRACKING_URI=http" in options
    assert not any(word in path.read_text() for word in ("SECRET", "PASSWORD", "RAY_AUTH_TOKEN", "ACCESS_KEY"))


@pytest.mark.parametrize("path", CLOUDS, ids=lambda path: path.name)
def test_gpu_workers_are_spot_machines_that_come_and_go_and_the_head_takes_no_work(path: Path) -> None:
    config = prepared(content(path))
    kinds = config["available_node_types"]
    head, gpu = kinds[config["head_node_type"]], kinds["gpu"]
    assert head["resources"] == {"CPU": 0}
    assert (gpu["min_workers"], gpu["max_workers"], gpu["resources"]["GPU"]) == (0, 8, 1)
    spot = {"aws": {"InstanceMarketOptions": {"MarketType": "spot"}}, "gcp": {}}[config["provider"]["type"]]
    assert gpu["node_config"].items() >= spot.items()
    if config["provider"]["type"] == "gcp":
        assert {"provisioningModel": "SPOT"} in gpu["node_config"]["scheduling"]


@pytest.mark.parametrize("path", CLOUDS, ids=lambda path: path.name)
def test_jobs_are_told_how_far_the_cluster_may_grow(path: Path) -> None:
    config = content(path)
    gpu = config["available_node_types"]["gpu"]
    for kind in ("CPU", "GPU"):
        most = gpu["max_workers"] * gpu["resources"][kind]
        assert f"--env SIGMASWEEP_MAX_{kind}S={most}" in config["docker"]["run_options"]


def test_nothing_is_set_up_by_hand_since_one_image_is_the_environment_of_all() -> None:
    for path in FILES:
        config = prepared(content(path))
        assert not any(config[f"{part}setup_commands"] for part in ("", "head_", "worker_"))
        assert not any("pip" in command for command in config["worker_start_ray_commands"])
