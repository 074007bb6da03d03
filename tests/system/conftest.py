"""What is here takes minutes and is asked for: `python -m pytest -m system`."""

import shutil
from pathlib import Path

import pytest


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker("system")


@pytest.fixture(scope="session")
def server(tmp_path_factory, made_store):
    """A tracking server for the tests of outages and of lies."""
    from support.faulty_way import tracking_server

    folder = tmp_path_factory.mktemp("server")
    shutil.copy(made_store, folder / "mlflow.db")
    with tracking_server(folder) as running:
        yield running
