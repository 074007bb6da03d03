"""What may be wrong around the sweeps of a folder: stores, spool, locks, data, disk, versions.

Everything is looked at and nothing is changed, until somebody calls a finding's `repair`. MLflow,
whose import takes seconds, is imported where there is a tracking store.
"""

import importlib.metadata
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from packaging.requirements import Requirement

from mlp.config import Data, SweepConfig
from mlp.data.dataset import ROOT_VARIABLE
from mlp.data.mnist import MNIST, cache_folder, find, read_file
from mlp.errors import DataError, MlpError, one_line
from mlp.flow import mending
from mlp.flow.execution import n_threads
from mlp.flow.finding import FIX, Finding, fine, wrong
from mlp.flow.lock import holder_of
from mlp.flow.store_checks import check_running, check_study_store, check_tracking_store
from mlp.tracking import spool
from mlp.tracking.store_uri import mask, resolve, sqlite_path

_LEAST_FREE = 500 * 1024**2  # bytes; the stores of a thousand small runs have about as many


def check_up(config: SweepConfig) -> Iterator[Finding]:
    """Looks at everything, one thing after the other.

    Args:
        config: where the stores and the data are.
    """
    checks: dict[str, Callable[[SweepConfig], Iterator[Finding]]] = {
        "study store": check_study_store,
        "tracking store": check_tracking_store,
        "runs in progress": check_running,
        "spool": _check_spool,
        "locks": _check_locks,
        "data": _check_data,
        "free space": _check_space,
        "versions": _check_versions,
        "threads": _check_threads,
    }
    for what, check in checks.items():
        try:
            for finding in check(config):
                yield Finding(what, finding.said, finding.remedy, finding.repair)
        except MlpError as error:
            yield Finding(what, one_line(mask(str(error))), "see above")


def _check_spool(config: SweepConfig) -> Iterator[Finding]:
    """Runs that wait for MLflow, and what writers that died have left."""
    top = spool.folder_of(config.study.storage)
    folders = sorted(path for path in top.glob("*") if path.is_dir())
    n_waiting = 0
    for folder in folders:
        if holder := holder_of(top, spool.study_of(folder)):
            yield fine(f"{folder.name} is being worked on by {holder}")
            continue
        what = "networks with further seeds" if spool.is_of_seeds(folder) else "trials"
        n_waiting += (n := len(list(spool.waiting(folder))))
        if n:
            yield wrong(
                f"{n} {what} of {spool.study_of(folder)} wait for MLflow",
                f"the same sweep command publishes them, or {FIX}",
                lambda folder=folder: mending.publish_study(config, folder),  # type: ignore[misc]
            )
        elif (left := spool.unfinished(folder)) or spool.has_page(folder):
            yield wrong(
                f"{folder} was left by a sweep that was killed"
                + (f", with {len(left)} unfinished trials" if left else ""),
                f"{FIX} removes it; the sweep trains unfinished trials again",
                lambda folder=folder: mending.clear(top, folder),  # type: ignore[misc]
            )
    singles = spool.folder_of_runs()
    n = len(list(spool.waiting(singles)))
    if n:
        yield wrong(
            f"{n} single runs wait for MLflow in {singles}",
            f"{FIX} publishes them",
            lambda: mending.publish_singles(config),
        )
    if n_waiting + n == 0:
        yield fine("no run waits for MLflow")


def _check_locks(config: SweepConfig) -> Iterator[Finding]:
    folder = spool.folder_of(config.study.storage)
    names = sorted(path.stem for path in folder.glob("*.lock"))
    held = [(name, holder) for name in names if (holder := holder_of(folder, name))]
    for name, holder in held:
        yield fine(f"study {name} is held by {holder}")
    if not held:
        yield fine("nobody holds a study")


def _check_data(config: SweepConfig) -> Iterator[Finding]:
    data: Data = config.base.data
    if data.name == "digits":
        yield fine("digits need no files")
        return
    named = data.root or os.environ.get(ROOT_VARIABLE)
    folder = Path(named).expanduser() if named else cache_folder()
    missing, is_whole = [], True
    for file in MNIST.files:
        path = find(folder, file)
        try:
            if path is None:
                missing.append(file.name)
            else:
                read_file(path, file)
        except DataError as error:
            is_whole = False
            way = "put the published file there" if named else "the next sweep replaces it"
            yield wrong(str(error), way)
    if missing and (named or len(missing) < len(MNIST.files)):
        way = "name a folder that has them" if named else "the next sweep downloads them"
        yield wrong(f"{folder} must hold {', '.join(missing)} (or .gz), but does not", way)
    elif missing:
        yield fine(f"no MNIST in {folder} yet; the first run downloads it, or takes the digits")
    elif is_whole:
        yield fine(f"MNIST in {folder} is whole")


def _check_space(config: SweepConfig) -> Iterator[Finding]:
    stores = (config.study.storage, resolve(config.base.tracking))
    files = [path for uri in stores if (path := sqlite_path(uri))] or [Path.cwd() / "spool"]
    for folder in sorted({_existing(path.absolute().parent) for path in files}):
        free = shutil.disk_usage(folder).free
        said = f"{free / 1024**3:.1f} GiB in {folder}"
        enough = free >= _LEAST_FREE
        yield fine(said) if enough else wrong(f"only {said}", "free some before the next sweep")


def _check_versions(_config: SweepConfig) -> Iterator[Finding]:
    """Whether the installed packages are those that this one asks for."""
    try:
        wanted = [Requirement(text) for text in importlib.metadata.requires("mlp-sweep") or []]
    except importlib.metadata.PackageNotFoundError:
        yield fine("this package is used without being installed")
        return
    here = {}
    for requirement in wanted:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            here[requirement.name] = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield wrong(f"{requirement} is not installed", f"pip install '{requirement}'")
            continue
        if not requirement.specifier.contains(here[requirement.name], prereleases=True):
            yield wrong(
                f"{requirement.name} is {here[requirement.name]}, but must be "
                f"{requirement.specifier}",
                f"pip install '{requirement}'",
            )
    shown = (f"{name} {here[name]}" for name in ("mlflow", "numpy", "optuna") if name in here)
    yield fine(", ".join(shown))


def _check_threads(config: SweepConfig) -> Iterator[Finding]:
    from threadpoolctl import threadpool_info

    cores, wanted = n_threads(type(config.base.execution)()), n_threads(config.base.execution)
    blas = {
        f"{pool['internal_api']} {pool['version']} with {pool['num_threads']} threads"
        for pool in threadpool_info()
        if pool["user_api"] == "blas"
    }
    said = f"{wanted} train, on {cores} cores; NumPy's own: {', '.join(sorted(blas)) or 'unknown'}"
    if wanted > cores:
        yield wrong(f"{said}; more threads than cores are slower", f"execution.threads={cores}")
    else:
        yield fine(said)


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder
