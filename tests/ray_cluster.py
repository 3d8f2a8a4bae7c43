"""A Ray cluster of several nodes on this machine, for tests; only its own processes are ended."""

from __future__ import annotations

import time
from importlib.util import find_spec
from types import TracebackType
from typing import Any

from tests.conftest import absent

HEALTH = {
    "health_check_initial_delay_ms": 500, "health_check_period_ms": 300, "health_check_failure_threshold": 3,
    "health_check_timeout_ms": 300, "worker_niceness": 0,
}  # fmt: skip
"""A dead node is known after a second and not after twelve, and tasks are not nicer than the rest of the machine."""
STORE = 80_000_000


def needed() -> None:
    """Skip where Ray is not installed; fail where KPARITY_REQUIRE names it."""
    if find_spec("ray") is None:
        absent("Ray is not installed: the extra fleet", "ray")


class Raylets:
    """A head without processors, and nodes of one processor each; ``address`` is the head's."""

    def __init__(self, *names: str, **resources: Any) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE, "node_name": "head"}
        self.cluster = Cluster(initialize_head=True, head_node_args={**head, "_system_config": HEALTH})
        self.nodes = {name: self.add(name, **resources) for name in names}

    @property
    def address(self) -> str:
        """Where the head answers."""
        return str(self.cluster.address)

    def add(self, name: str, **resources: Any) -> Any:
        """One node more."""
        return self.cluster.add_node(num_cpus=1, node_name=name, object_store_memory=STORE, **resources)

    def kill(self, name: str) -> None:
        """End a node as a power cut does: the raylet with all that it started."""
        self.cluster.remove_node(self.nodes.pop(name), allow_graceful=False)

    def preempt(self, name: str, seconds: float) -> None:
        """Tell a node that its machine is taken away after so long, as a cloud does with spot instances."""
        from ray._raylet import GcsClient
        from ray.core.generated.autoscaler_pb2 import DrainNodeReason

        why, due = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"), int((time.time() + seconds) * 1000)
        client = GcsClient(address=self.address)
        assert client.drain_node(self.nodes[name].node_id, why, "its machine is taken away", due)[0]

    def restart_head(self) -> None:
        """End what the head knows, and begin anew with nothing, as a head without a store of its own does."""
        self.cluster.head_node.kill_gcs_server()
        self.cluster.head_node.start_gcs_server()

    def __enter__(self) -> Raylets:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.cluster.shutdown()
