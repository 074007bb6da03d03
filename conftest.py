"""Folders to run commands in, each with an MLflow store that is already made."""

import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Doctests are looked for in every module. This one has none, and takes seconds to import Ray.
collect_ignore = ["mlp/training/ray_cluster.py"]

# Modules whose doctests train and track.
_TRACKING = ("mlp.explain.", "mlp.rerun.", "mlp.run.", "mlp.sweep.", "mlp.train.")

# Files whose tests take longest, in their order: begun first, so that no core idles at the end.
_LONGEST = (
    *("test_cluster", "test_readme", "test_servers", "test_outage", "test_crash", "test_faults"),
    *("test_explain", "test_sweep", "test_confirmation", "test_packing", "test_population"),
    *("test_search", "test_doctor", "test_api", "test_rerun", "test_habits", "test_model"),
    *("test_compose", "test_attribution"),
)

# No test is failed by the clock: on a busy machine any of its examples may take a second.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

# Under nohup the commands that the tests start would ignore it, too.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The first tier does not even import the second, which takes seconds for Ray alone."""
    is_system = collection_path == Path(__file__).parent / "tests" / "system"
    return True if is_system and config.option.markexpr == "not system" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(scope="session")
def made_store(tmp_path_factory) -> Path:
    """An MLflow store with its tables and no run; making one takes seconds, a copy does not."""
    from mlp.config import Tracking
    from mlp.tracking.store import open_store
    from support.world import once, root_of

    def make(folder: Path) -> None:
        uri = f"sqlite:///{folder}/mlflow.db"
        open_store(Tracking(uri=uri, experiment="none of the tests'"))

    return once(root_of(tmp_path_factory), "made", make) / "mlflow.db"


@pytest.fixture(scope="session")
def world(tmp_path_factory, made_store):
    """What each command left where it was run once; to be looked at, never written to."""
    from support.world import World, root_of

    return World(root_of(tmp_path_factory), made_store)


@pytest.fixture
def empty(tmp_path, monkeypatch) -> Path:
    """An empty working directory."""
    folder = tmp_path / "a [b] c"  # brackets and blanks are what people name folders with
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder


@pytest.fixture
def here(empty, made_store) -> Path:
    """A working directory with nothing but the store that the commands find there by default."""
    shutil.copy(made_store, empty / "mlflow.db")
    return empty


@pytest.fixture
def swept(empty, world) -> Path:
    """A working directory in which the smoke sweep was run, `support.sweeping.SMOKE`."""
    from support.world import copy

    return copy(world.swept(), empty)


@pytest.fixture(autouse=True)
def _doctests_that_track_have_a_folder(request) -> None:
    """Those of the functions that `mlp` offers do so in the working directory, as readers will."""
    if isinstance(request.node, pytest.DoctestItem) and request.node.name.startswith(_TRACKING):
        request.getfixturevalue("here")


@pytest.fixture
def only_here(tmp_path, monkeypatch):
    """The one folder in which files may be written."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder
