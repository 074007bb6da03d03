"""A small Ray cluster on this machine, to be harmed."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install '.[ray]'")

from ray.cluster_utils import Cluster  # noqa: E402

long = pytest.mark.skipif(
    "MLP_LONG_TESTS" not in os.environ, reason="a minute or so: set MLP_LONG_TESTS=1"
)
AT_WORK = ("ray::_train", "ray::train")  # what Ray calls the process of a task


@contextlib.contextmanager
def two_nodes(*, head_cpus: int = 1, others: int = 1) -> Iterator[Cluster]:
    """A head and other machines of one CPU each, all of them processes of this machine."""
    root = str(Path(__file__).parents[1])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = root  # workers take it from the processes that start them
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": head_cpus, "include_dashboard": False, **_SMALL},
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


_SMALL = {"object_store_memory": 150 * 2**20}


def add_node(cluster: Cluster) -> Any:
    return cluster.add_node(num_cpus=1, **_SMALL)


def processes_of(node: Any) -> list[int]:
    return [info.process.pid for infos in node.all_processes.values() for info in infos]


def raylet_of(node: Any) -> int:
    return node.all_processes["raylet"][0].process.pid


def workers(cluster: Cluster) -> list[int]:
    """Processes of a cluster's machines that train a population just now."""
    raylets = {str(raylet_of(node)) for node in cluster.list_all_nodes()}
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            name = (folder / "cmdline").read_bytes().split(b"\0")[0].decode()
            if parent in raylets and name.startswith(AT_WORK):
                found.append(int(folder.name))
    return found
