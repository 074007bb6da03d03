"""Folders to run commands in, each with an MLflow store that is already made; and who runs what."""

import gc
import os
import re
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadFileScheduling

# Doctests are looked for in every module. This one has none, and takes seconds to import Ray.
collect_ignore = ["mlp/training/ray_cluster.py"]

# Modules whose doctests train and track.
_TRACKING = ("mlp.explain.", "mlp.rerun.", "mlp.run.", "mlp.sweep.", "mlp.train.")

# Files whose tests take longest, in their order: begun first, so that no core idles at the end.
# The README comes before the pages of docs, which are typed in what it leaves.
_LONGEST = (
    *("README", "test_cluster", "test_outage", "test_lies", "test_servers", "test_readme"),
    *("test_mlflow_pages", "test_other_programs", "test_crash", "test_faults"),
    *("test_emulated_gpu", "test_simulated_gpu"),
    *("test_explain", "test_sweep", "test_confirmation", "test_packing", "test_population"),
    *("test_search", "test_doctor", "test_api", "test_rerun", "test_habits", "test_model"),
    *("test_compose", "test_attribution"),
)

# Files of which any worker takes any test. They share folders of the session, or nothing.
_APART = (
    *("test_crash", "test_faults", "test_other_programs"),
    *("test_emulated_gpu", "test_simulated_gpu"),
)

# Files that share a tracking server.
_OF_ONE_SERVER = ("test_outage", "test_lies")

# No test is failed by the clock: on a busy machine any of its examples may take a second.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

# Under nohup, or behind an &, the commands that the tests start would ignore them, too.
for number, usual in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)


def pytest_configure() -> None:
    """What a worker's tests train takes one thread, if they do not say how many.

    There is a worker for each core, and threads that wait for each other keep cores busy.
    """
    if "PYTEST_XDIST_WORKER" in os.environ and hasattr(os, "sched_getaffinity"):
        os.sched_getaffinity = lambda _: {0}


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Each tier imports only files that have tests of it: all of them take a process a minute."""
    tests = Path(__file__).parent / "tests"
    is_system = collection_path.is_relative_to(tests / "system")
    wanted = config.option.markexpr
    if collection_path.name == "emulator":  # it needs the extra cuda
        return True
    if wanted.startswith("not system"):
        return True if is_system else None
    if wanted not in ("system", "gpu") or collection_path.is_dir():
        return None
    if is_system:
        return None if wanted == "system" else True
    return None if f"mark.{wanted}".encode() in collection_path.read_bytes() else True


def pytest_collection_finish() -> None:
    """What was imported stays; looking through it for garbage again and again takes seconds."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(_LONGEST)}

    def place(item: pytest.Item) -> int:
        name = "README" if "[README.md" in item.nodeid else item.path.stem
        return places.get(name, len(places))

    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """The second tier waits for servers, clusters and signals as much as it computes."""
    return 1 + (os.cpu_count() or 1) if config.option.markexpr == "system" else None


class _ByWhatIsShared(LoadFileScheduling):
    """One worker a file; of README and docs one a page, and of some files one a test."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        if Path(file).stem in _APART:
            return nodeid
        if Path(file).stem in _OF_ONE_SERVER:
            return "tracking server"
        page = re.search(r"\[([\w/]+\.md)", nodeid) if file.endswith("test_readme.py") else None
        return f"{file} {page[1]}" if page else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> _ByWhatIsShared | None:
    return _ByWhatIsShared(config, log) if config.option.dist == "loadfile" else None


@pytest.fixture(scope="session", autouse=True)
def _compiled(request, tmp_path_factory) -> None:
    """In a fresh clone the engine is compiled once for each type, and not by every process."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is None or len(request.session.items) < 100:
        return
    from mlp.config import Data, RunConfig
    from mlp.data.dataset import load_data
    from mlp.engine.population import train
    from mlp.settings import with_settings
    from support.world import once, root_of

    def compile_for(dtype: str) -> None:
        config = with_settings(RunConfig(), {"training.steps": 1, "training.dtype": dtype})
        train([config], load_data(Data(name="digits"), notice=print))

    # Every other worker begins with the other type, so that two of them share the work.
    for dtype in ("float32", "float64")[:: 1 if int(worker[2:]) % 2 else -1]:
        once(root_of(tmp_path_factory), dtype, lambda _, dtype=dtype: compile_for(dtype))


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
