"""A cluster of Ray whose nodes are all on this machine, and waiting for what happens there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.cluster_utils import Cluster


def node_of(cpus: int) -> dict[str, int]:
    """What `Cluster.add_node` is given for a node of so many CPUs."""
    return {"num_cpus": cpus, "object_store_memory": 100 << 20}


@contextmanager
def nodes(*cpus: int, connected: bool = False) -> Iterator[Cluster]:
    """Nodes with so many CPUs each, the head first; this process is connected to it if asked."""
    head, *others = map(node_of, cpus)
    found = Cluster(initialize_head=True, head_node_args={**head, "include_dashboard": False})
    try:
        for one in others:
            found.add_node(**one)
        if connected:
            ray.init(found.address, log_to_driver=False, configure_logging=False)
        yield found
    finally:
        if connected:
            ray.shutdown()
        found.shutdown()


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 200
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
