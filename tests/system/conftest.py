"""What is here takes minutes and is asked for: `python -m pytest -m system`."""

import fcntl
from pathlib import Path

import pytest

from support.world import root_of

# A cluster, database servers and a browser want the machine for themselves.
ALONE = ("test_cluster", "test_servers", "test_mlflow_pages")


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker("system")


@pytest.fixture(scope="module", autouse=True)
def _machine(request, tmp_path_factory):
    """Modules that want the machine for themselves have it; the others share it.

    Whoever waits for the machine holds the gate, so that nobody comes in between.
    """
    root = root_of(tmp_path_factory)
    is_alone = request.module.__name__ in ALONE
    with (root / "gate.lock").open("w") as gate, (root / "machine.lock").open("w") as machine:
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(machine, fcntl.LOCK_EX if is_alone else fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)
        yield
