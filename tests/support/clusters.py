"""A small Ray cluster on this machine, to be harmed."""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install '.[ray]'")

from ray.cluster_utils import Cluster  # noqa: E402

from support.servers import free_port  # noqa: E402

AT_WORK = "ray::_train"  # what Ray calls the process of a task


@dataclass(frozen=True)
class Head:
    """A head that another process started.

    Attributes:
        address: where Ray's client reaches it.
        pid: of the process that all of it ends with.
        token: variables for the environment of who may join it.
    """

    address: str
    pid: int
    token: dict[str, str]


@contextlib.contextmanager
def two_nodes(
    *,
    head_cpus: int = 1,
    head_gpus: int = 0,
    others: int = 1,
    root: Path = Path(__file__).parents[2],
) -> Iterator[Cluster]:
    """A head and other machines of one CPU each, all of them processes of this machine.

    Args:
        head_gpus: that the head says it has; Ray does not look.
        root: folder where their workers find this program.
    """
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(root)  # workers take it from the processes that start them
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": head_cpus,
            "num_gpus": head_gpus,
            "include_dashboard": False,
            **_SMALL,
        },
    )
    try:
        for _ in range(others):
            add_node(cluster)
        yield cluster
    finally:
        for node in list(cluster.list_all_nodes()):
            for process in processes_of(node):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGCONT)
        with contextlib.suppress(Exception):
            ray.shutdown()
        cluster.shutdown()
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


@contextlib.contextmanager
def head_with_door(folder: Path) -> Iterator[Head]:
    """A head of two CPUs that is reached from outside, by Ray's client.

    Args:
        folder: for its log.
    """
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    port, door, agent = (free_port() for _ in range(3))
    words = ["start", "--head", "--block", "--num-cpus=2", "--include-dashboard=false"]
    words += ["--node-ip-address=127.0.0.1", f"--port={port}", f"--ray-client-server-port={door}"]
    words += [f"--runtime-env-agent-port={agent}", f"--dashboard-agent-listen-port={free_port()}"]
    words += [f"--object-store-memory={_SMALL['object_store_memory']}"]
    with tempfile.TemporaryDirectory(prefix="mlp-ray-", ignore_cleanup_errors=True) as place:
        with (folder / "head.log").open("wb") as log:
            head = subprocess.Popen(
                [str(Path(sys.executable).with_name("ray")), *words, f"--temp-dir={place}"],
                env={**os.environ, **token, "PYTHONPATH": str(Path(__file__).parents[2])},
                stdout=log,
                stderr=log,
            )
        try:
            said = folder / "head.log"
            end = time.monotonic() + 60
            while "runtime started" not in said.read_text():
                assert head.poll() is None, said.read_text()
                assert time.monotonic() < end, said.read_text()
                time.sleep(0.2)
            yield Head(f"ray://127.0.0.1:{door}", head.pid, token)
        finally:
            head.terminate()  # it ends those that it started
            head.wait(60)


_SMALL = {"object_store_memory": 150 * 2**20}


def add_node(cluster: Cluster) -> Any:
    return cluster.add_node(num_cpus=1, **_SMALL)


def processes_of(node: Any) -> list[int]:
    return [info.process.pid for infos in node.all_processes.values() for info in infos]


def raylet_of(node: Any) -> int:
    return node.all_processes["raylet"][0].process.pid


def workers(cluster: Cluster | Head) -> list[int]:
    """Processes of a cluster's machines that train a population just now."""
    if isinstance(cluster, Head):
        raylets = {pid for pid, name in _children({cluster.pid}) if name.endswith("/raylet")}
    else:
        raylets = {raylet_of(node) for node in cluster.list_all_nodes()}
    return [pid for pid, name in _children(raylets) if name.startswith(AT_WORK)]


def _children(parents: set[int]) -> list[tuple[int, str]]:
    """Process id and program of each child."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            name = (folder / "cmdline").read_bytes().split(b"\0")[0].decode()
            if int(parent) in parents:
                found.append((int(folder.name), name))
    return found
