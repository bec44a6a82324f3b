"""A cluster whose workers come when they are asked for, as those of cluster.yaml do: Ray's own autoscaler, on one
machine."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.nodes import ROOT, environment, free_ports, head
from tests.engine.test_generation import run
from tests.engine.tiny import contents, tiny_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PROGRAM = """
import sys
from pipeline.data.store import Store
from pipeline.engine.session import session
from pipeline.engine.work import Actors
from tests.engine.test_generation import run
with session() as resources:
    import ray
    print("there", int(ray.cluster_resources().get("CPU", 0)), "counted", resources.cpus, resources.gpus, flush=True)
    run(Store(sys.argv[1]), Actors(num_actors=2))
    print("there", int(ray.cluster_resources().get("CPU", 0)))
"""


def launcher(folder: Path, gcs: int) -> Path:
    """A file as `ray up` takes it, whose nodes are processes of this machine that look for their head at a port."""
    kinds: dict[str, Any] = {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": {"CPU": 1, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    }
    lists = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")
    starts = ("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude")
    content: dict[str, Any] = {
        "cluster_name": "growing", "max_workers": 2, "idle_timeout_minutes": 5, "upscaling_speed": 1.0,
        "provider": {"type": "fake_multinode", "gcs_address": f"127.0.0.1:{gcs}"},
        "auth": {}, "docker": {}, "file_mounts": {}, "rsync_filter": [],
        "file_mounts_sync_continuously": False, "head_node_type": "ray.head.default", "available_node_types": kinds,
        **{name: [] for name in (*lists, *starts)},
    }  # fmt: skip
    path = folder / "growing.json"
    path.write_text(json.dumps(content))
    return path


def test_work_is_begun_before_any_worker_is_there_and_comes_to_the_same(tmp_path: Path) -> None:
    store, here = tiny_store(tmp_path / "cluster"), tiny_store(tmp_path / "here")
    run(here)
    (port,) = free_ports(1)
    options = ("--num-cpus=0", f"--autoscaling-config={launcher(tmp_path, port)}")
    with head(*options, port=port, RAY_FAKE_CLUSTER="1", AUTOSCALER_UPDATE_INTERVAL_S="1") as cluster:
        variables = {
            **environment(cluster.home), "RAY_ADDRESS": cluster.gcs, "SIGMASWEEP_MAX_CPUS": "2",
            "SIGMASWEEP_MAX_GPUS": "2", "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, store.uri], cwd=ROOT, env=variables, text=True, timeout=240,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "there 0 counted 2 2" in done.stdout
    assert done.stdout.splitlines()[-1] in ("there 1", "there 2")  # little work may be done before the second comes
    assert contents(store) == contents(here)
