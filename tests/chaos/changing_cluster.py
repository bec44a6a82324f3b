"""A run on nodes that come and go: `python -m tests.chaos.changing_cluster STORE SEEDS`.

Two logical nodes with room for one actor each, and a head with none. Each of them is killed and replaced.
"""

import sys
import time
from typing import Any

from pipeline.data.store import Store
from pipeline.engine import session
from pipeline.engine.work import Actors, Seeds
from tests.engine.processes import meanwhile, wait_until
from tests.engine.test_generation import run
from tests.engine.tiny import tiny_points

STEPS = (30, 40)  # so many that a chunk takes a good part of a second
_MEMORY = 100 * 2**20


def main(store: Store, count: int) -> None:
    session.set_environment()
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": _MEMORY, "include_dashboard": False}
    )
    nodes = [_node(cluster), _node(cluster)]
    ray.init(address=cluster.address, log_to_driver=False)

    generated: list[int] = []

    def work() -> None:
        results = run(store, Actors(num_actors=2), points=tiny_points(2, STEPS), seeds=Seeds(0, count))
        generated.append(sum(result.generated for result in results))

    try:
        with meanwhile(work, patience=600):  # in a thread, since nodes can be made in the main one only
            for number, node in enumerate(nodes):
                wait_until(lambda least=6 + 14 * number: len(_chunks(store)) >= least, 300)  # type: ignore[misc]
                cluster.remove_node(node, allow_graceful=False)
                time.sleep(1)
                _node(cluster)
                print(f"a node was killed and another joined at {len(_chunks(store))} chunks", flush=True)
        print(f"generated {generated[0]}")
    finally:
        ray.shutdown()
        cluster.shutdown()


def _node(cluster: Any) -> Any:
    return cluster.add_node(num_cpus=1, object_store_memory=_MEMORY)


def _chunks(store: Store) -> list[str]:
    return [key for key in store.committed("samples") if "/chunk-" in key]


if __name__ == "__main__":
    main(Store(sys.argv[1]), int(sys.argv[2]))
