"""A connection to a Ray cluster, with nodes that are fit for the work.

All nodes need the same Python, Ray, PyTorch and ladle, and the same paths to checkpoints, data and
output (shared storage). What is different is found before any work begins, and said in a sentence.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ladle.errors import BadInput, LadleError, MissingExtra
from ladle.location import is_local, readable

AUTO = "auto"
_SECONDS_TO_ANSWER = 5
_SECONDS_TO_LOOK = 120
"""A node that is asked something has to start a process for it, on a disk that may be slow."""

_SECONDS_TO_FREE = 5
"""What a worker has that ended just now is free a little later."""

_LIBRARIES = ("ladle", "torch")


@dataclass(frozen=True)
class Node:
    """One machine of a cluster, as Ray names it."""

    identity: str
    address: str
    cpus: float
    gpus: float


@dataclass(frozen=True)
class Cluster:
    """A cluster that this process is connected to.

    `ray` is the module, for those who were handed a cluster and so need not import it.
    """

    ray: Any
    address: str

    @property
    def nodes(self) -> list[Node]:
        """Those that are alive now."""
        found = []
        for node in self.ray.nodes():
            if node["Alive"]:
                has: Mapping[str, float] = node["Resources"]
                cpus, gpus = has.get("CPU", 0.0), has.get("GPU", 0.0)
                found.append(Node(node["NodeID"], node["NodeManagerAddress"], cpus, gpus))
        return found

    def room(self, *, cpus: float, gpus: float) -> int:
        """How many workers of this size the nodes have room for, all together.

        Raises:
            BadInput: for none.
        """
        nodes = self.nodes
        room = 0
        for node in nodes:
            sizes = ((node.cpus, cpus), (node.gpus, gpus))
            room += min((int(has / needs) for has, needs in sizes if needs), default=1)
        if not room:
            largest = max(nodes, key=lambda node: (node.gpus, node.cpus), default=None)
            has = f"{largest.cpus:g} CPUs and {largest.gpus:g} GPUs" if largest else "nothing"
            raise BadInput(
                f"no node of the Ray cluster at {self.address} has {cpus:g} CPUs and {gpus:g} GPUs "
                f"for one worker; the largest has {has}, so ask for less"
            )
        return room

    def tell_if_full(self, tell: Callable[[str], None], *, cpus: float, gpus: float) -> None:
        """Say so if others have all of the room now, for a worker of this size will wait for it."""
        end = time.monotonic() + _SECONDS_TO_FREE
        while True:
            free: Mapping[str, float] = self.ray.available_resources()
            if free.get("CPU", 0.0) >= cpus and free.get("GPU", 0.0) >= gpus:
                return
            if time.monotonic() > end:
                break
            time.sleep(0.1)
        tell(
            f"the Ray cluster at {self.address} is full: {free.get('CPU', 0.0):g} CPUs and "
            f"{free.get('GPU', 0.0):g} GPUs are free, and a worker takes {cpus:g} and {gpus:g}; "
            "waiting until others are done (`ray status` shows them)"
        )

    def on_every_node(self, work: Callable[[], Any]) -> Iterator[tuple[Node, Any]]:
        """What `work` gives on each node that is alive.

        A function that is defined inside another goes there as it is; all others have to be
        importable there, which is not known before the versions were checked.

        Raises:
            LadleError: a node does not answer, or the work fails there.
        """
        at = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        task = self.ray.remote(num_cpus=0, max_retries=1)(work)
        asked = [
            (node, task.options(scheduling_strategy=at(node.identity, soft=False)).remote())
            for node in self.nodes
        ]
        for node, answer in asked:
            try:
                found = self.ray.get(answer, timeout=_SECONDS_TO_LOOK)
            except self.ray.exceptions.RayError as error:
                if node.identity not in {one.identity for one in self.nodes}:
                    continue  # Meanwhile it has left, and so has nothing to say.
                reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
                raise LadleError(
                    f"node {node.address} of the Ray cluster does not answer: {reason[0]}; "
                    "see its logs, or remove it from the cluster"
                ) from error
            yield node, found

    def check_paths(self, paths: Iterable[Path]) -> None:
        """Check that every node can read these files and folders, of its disks or by URL.

        Raises:
            BadInput: one cannot, with the first such path.
        """
        # Absolute, for a worker is in a folder of its own.
        wanted = [path.absolute() if is_local(path) else path for path in paths]

        def unreadable() -> Path | None:
            return next((path for path in wanted if not readable(path)), None)

        for node, path in self.on_every_node(unreadable):
            if path is not None:
                raise BadInput(
                    f"node {node.address} of the Ray cluster cannot read {path}; "
                    "put it where every node finds it under this path or URL"
                )

    def check_versions(self) -> None:
        """Check that every node has our Python, and our versions of what computes.

        Raises:
            BadInput: one has not.
        """
        libraries = _LIBRARIES

        def versions() -> dict[str, str | None]:
            import platform
            from contextlib import suppress
            from importlib import metadata

            found: dict[str, str | None] = dict.fromkeys(libraries)
            for library in libraries:
                with suppress(metadata.PackageNotFoundError):
                    found[library] = metadata.version(library)
            return {"python": platform.python_version(), **found}

        ours = {"python": platform.python_version(), **{one: version(one) for one in libraries}}
        for node, theirs in self.on_every_node(versions):
            for name, mine in ours.items():
                if theirs[name] != mine:
                    has = f"{name} {theirs[name]}" if theirs[name] else f"no {name}"
                    raise BadInput(
                        f"node {node.address} of the Ray cluster has {has}, where this command "
                        f"runs with {name} {mine}; install the same on every node"
                    )


@contextmanager
def connected(address: str = AUTO) -> Iterator[Cluster]:
    """A cluster to work on, for as long as the block takes.

    `address` is host:port of a cluster that this machine is a node of, ray://host:port of another,
    or `auto`: the cluster that RAY_ADDRESS names or that `ray start` began on this machine, or else
    one of this machine alone, started here and ended with the block. A program that has called
    `ray.init` itself keeps that connection.

    Raises:
        BadInput: there is no cluster, or it has other versions of Python, Ray, PyTorch or ladle.
        MissingExtra: Ray is not installed.
    """
    ray = _quiet_ray()
    if ray.is_initialized():
        yield _checked(Cluster(ray, address))
        return
    if address == AUTO:
        address = os.environ.get("RAY_ADDRESS") or AUTO
    if address != AUTO:
        _check_listening(address)
    try:
        _connect(ray, address)
        yield _checked(Cluster(ray, address))
    finally:
        ray.shutdown()


def _checked(cluster: Cluster) -> Cluster:
    cluster.check_versions()
    return cluster


def _quiet_ray() -> Any:
    """The module, which says nothing on its own but what went wrong."""
    # Read when Ray is imported, or when its processes start.
    for name, value in {
        "RAY_USAGE_STATS_ENABLED": "0",  # Nothing is sent anywhere.
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_NUM_REDIS_GET_RETRIES": "1",  # Else a cluster that is gone is asked for two minutes.
    }.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.exceptions
        import ray.util.scheduling_strategies
    except ImportError:
        raise MissingExtra("ray", "ray") from None
    return ray


def _connect(ray: Any, address: str) -> None:
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address != AUTO:
            ray.init(address=address, **quiet)
            return
        try:
            ray.init(include_dashboard=False, **quiet)
        except ConnectionError:
            # The last cluster that was started here is gone, though its address is still kept.
            ray.init(address="local", include_dashboard=False, **quiet)
    except Exception as error:  # Ray's are of all kinds.
        raise BadInput(_why_not(address, error)) from error


def _why_not(address: str, error: Exception) -> str:
    text = " ".join(str(error).split())
    if address == AUTO:
        return f"Ray does not start on this machine ({text}); see its logs, or name a cluster"
    if "ersion mismatch" in text:
        return (
            f"the Ray cluster at {address} has other versions ({text}); "
            "install the same on every node"
        )
    if "node" in text and "not running" in text:
        return (
            f"this machine is no node of the Ray cluster at {address}; run `ray start "
            f"--address={address}` here, or name ray://HOST:10001"
        )
    return f"there is no Ray cluster at {address} ({text}); start one by `ray start`, or name it"


def _check_listening(address: str) -> None:
    """Check quickly that somebody listens there, for Ray itself is patient.

    Raises:
        BadInput: nobody does, or it is no address.
    """
    bare = address.removeprefix("ray://")
    host, _, port = bare.rpartition(":")
    if not host or not port.isdigit():
        raise BadInput(f"{address!r} is no address of a Ray cluster; write auto or HOST:PORT")
    if bare != address and importlib.util.find_spec("grpc") is None:
        raise BadInput(f"{address} needs Ray's client; run: pip install 'ray[client]'")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _SECONDS_TO_ANSWER).close()
    except (OSError, OverflowError) as error:
        raise BadInput(
            f"there is no Ray cluster at {address} ({error}); start one by `ray start --head`, or "
            "name another"
        ) from error
