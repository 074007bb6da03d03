"""`python -m mlp.doctor`: looks for what is wrong around the sweeps of a folder, and mends it.

Nothing is changed, until somebody calls a finding's `repair`. MLflow, whose import takes seconds,
is imported where there is a tracking store.
"""

import functools
import importlib.metadata
import importlib.util
import os
import re
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from rich.console import Console

from mlp.addresses import check_sqlite, mask, resolve, sqlite_path
from mlp.config import Execution, SweepConfig
from mlp.data.dataset import ROOT_VARIABLE
from mlp.data.mnist import MNIST, cache_folder, read_either
from mlp.errors import DataError, MlpError, RecordError, SettingError, counted, one_line, patiently
from mlp.settings import read_sweep
from mlp.study.lock import holder_of, only_driver
from mlp.terminal.compose import compose
from mlp.terminal.console import run_command
from mlp.terminal.screen import Terminal, say
from mlp.tracking import spool
from mlp.tracking.listing import study_key
from mlp.training.train_runs import check_engine, n_threads

if TYPE_CHECKING:  # importing MLflow takes seconds
    from mlp.tracking.store import Store


FIX = "python -m mlp.doctor fix=true"

WRONG = 1  # exit code

_USAGE = f"""usage: python -m mlp.doctor [fix=true] [setting=value ...]

Looks at the study store, the tracking store, the spool of runs that wait for MLflow, locks, runs
left RUNNING, the data, free space, versions and threads; says what is wrong and what to type.
Exits with 1 where something is wrong.

examples:
  python -m mlp.doctor
      the stores of this folder
  {FIX}
      and does the repairs that do no harm: publishes what waits, ends runs of processes that are
      gone
  python -m mlp.doctor study.storage=sqlite:///other.db tracking.uri=http://127.0.0.1:5000
      other stores, by the settings of python -m mlp.sweep"""

_LEAST_FREE = 500 * 1024**2  # bytes; the stores of a thousand small runs have about as many

_PATIENCE_S = 3.0  # for a store that somebody holds, and for a server


@dataclass(frozen=True)
class Finding:
    """How one thing is that was looked at.

    Attributes:
        said: one line.
        remedy: what to do about it, one line; empty where all is well.
        repair: mends it without harm and says what was done; None where a person has to.
    """

    said: str
    remedy: str = ""
    repair: Callable[[], str] | None = None


def _doctor() -> None:
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print(_USAGE)
        return
    overrides = [word for word in arguments if not word.startswith("fix=")]
    fixes = [word for word in arguments if word.startswith("fix=")]
    if not set(fixes) <= {"fix=true", "fix=false"}:
        raise SettingError(f"fix must be true or false, but there is {one_line(fixes[0])!r}")
    config = read_sweep(compose("sweep", overrides))
    if not run_doctor(config, Terminal(), fix="fix=true" in fixes):
        sys.exit(WRONG)


def run_doctor(config: SweepConfig, console: Console, *, fix: bool) -> bool:
    """Looks at everything, one thing after the other, and mends what can be mended without harm.

    Returns:
        Whether all is well in the end.
    """
    checks: dict[str, Callable[[SweepConfig], Iterator[Finding]]] = {
        "study store": _check_study_store,
        "tracking store": _check_tracking_store,
        "runs in progress": _check_running,
        "spool": _check_spool,
        "locks": _check_locks,
        "data": _check_data,
        "free space": _check_space,
        "versions": _check_versions,
        "threads": _check_threads,
        "engine": _check_engine,
    }
    is_well = True
    for what, check in checks.items():
        for finding in _found(check, config):
            say(console, f"{'wrong' if finding.remedy else 'ok':<6}{what}: {finding.said}")
            if not finding.remedy:
                continue
            if not fix or finding.repair is None:
                is_well = False
                say(console, f"      {finding.remedy}")
                continue
            try:
                say(console, f"fixed {what}: {finding.repair()}")
            except MlpError as error:
                is_well = False
                say(console, f"      not fixed: {one_line(mask(str(error)))}")
    return is_well


def _found(
    check: Callable[[SweepConfig], Iterator[Finding]], config: SweepConfig
) -> Iterator[Finding]:
    """What a check finds, a fault of its own included."""
    try:
        yield from check(config)
    except MlpError as error:
        yield Finding(one_line(mask(str(error))), "see above")


def _check_spool(config: SweepConfig) -> Iterator[Finding]:
    """Runs that wait for MLflow, and what writers that died have left."""
    top = spool.folder_of(config.study.storage)
    folders = sorted(path for path in top.glob("*") if path.is_dir())
    n_waiting = 0
    for folder in folders:
        if holder := holder_of(top, folder.name):
            yield Finding(f"{folder.name} is being worked on by {holder}")
            continue
        n_waiting += (n := len(spool.waiting_in(folder)))
        if n and not spool.has_page(folder):
            yield Finding(f"{folder} does not say whose {counted(n, 'run')} it holds", "remove it")
        elif n:
            yield Finding(
                f"{counted(n, 'run')} of {folder.name} {'waits' if n == 1 else 'wait'} for MLflow",
                f"the same sweep command publishes them, or {FIX}",
                lambda folder=folder: _publish_study(config, folder),  # type: ignore[misc]
            )
        elif (left := spool.unfinished(folder)) or spool.has_page(folder):
            yield Finding(
                f"{folder} was left by a sweep that was killed"
                + (f", with {counted(len(left), 'unfinished trial')}" if left else ""),
                f"{FIX} removes it; the sweep trains unfinished trials again",
                lambda folder=folder: _clear_spool(top, folder),  # type: ignore[misc]
            )
    n = len(spool.left_behind())
    if n:
        yield Finding(
            f"{counted(n, 'single run waits', 'single runs wait')} for MLflow in "
            f"{spool.folder_of_runs()}",
            f"{FIX} publishes {'it' if n == 1 else 'them'}",
            lambda: _publish_singles(config),
        )
    if n_waiting + n == 0:
        yield Finding("no run waits for MLflow")


def _check_locks(config: SweepConfig) -> Iterator[Finding]:
    folder = spool.folder_of(config.study.storage)
    names = sorted(path.stem for path in folder.glob("*.lock"))
    held = [(name, holder) for name in names if (holder := holder_of(folder, name))]
    for name, holder in held:
        yield Finding(f"study {name} is held by {holder}")
    if not held:
        yield Finding("nobody holds a study")


def _check_data(config: SweepConfig) -> Iterator[Finding]:
    data = config.base.data
    if data.name == "digits":
        yield Finding("digits need no files")
        return
    named = data.root or os.environ.get(ROOT_VARIABLE)
    folder = Path(named).expanduser() if named else cache_folder()
    missing, is_whole = [], True
    for file in MNIST.files:
        try:
            if read_either(folder, file) is None:
                missing.append(file.name)
        except DataError as error:
            is_whole = False
            way = "put the published file there" if named else "the next sweep replaces it"
            yield Finding(str(error), way)
    if missing and (named or len(missing) < len(MNIST.files)):
        way = "name a folder that has them" if named else "the next sweep downloads them"
        yield Finding(f"{folder} must hold {', '.join(missing)} (or .gz), but does not", way)
    elif missing:
        yield Finding(f"no MNIST in {folder} yet; the first run downloads it, or takes the digits")
    elif is_whole:
        yield Finding(f"MNIST in {folder} is whole")


def _check_space(config: SweepConfig) -> Iterator[Finding]:
    stores = (config.study.storage, resolve(config.base.tracking))
    files = [path for uri in stores if (path := sqlite_path(uri))] or [Path.cwd() / "spool"]
    above = [path.absolute().parents for path in files]
    for folder in sorted({next(filter(Path.exists, parents)) for parents in above}):
        free = shutil.disk_usage(folder).free
        said = f"{free / 1024**3:.1f} GiB in {folder}"
        if free >= _LEAST_FREE:
            yield Finding(said)
        else:
            yield Finding(f"only {said}", "free some before the next sweep")


def _check_versions(_config: SweepConfig) -> Iterator[Finding]:
    """Whether the installed packages are those that this one asks for."""
    try:
        wanted = [Requirement(text) for text in importlib.metadata.requires("mlp-sweep") or []]
    except importlib.metadata.PackageNotFoundError:
        yield Finding("this package is used without being installed")
        return
    here = {}
    for requirement in wanted:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        name, way = requirement.name, f"pip install '{requirement}'"
        try:
            here[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(f"{requirement} is not installed", way)
            continue
        if not requirement.specifier.contains(here[name], prereleases=True):
            yield Finding(f"{name} is {here[name]}, but must be {requirement.specifier}", way)
    shown = (f"{name} {here[name]}" for name in ("mlflow", "numpy", "optuna") if name in here)
    yield Finding(", ".join(shown))


def _check_threads(config: SweepConfig) -> Iterator[Finding]:
    from threadpoolctl import threadpool_info

    cores, wanted = n_threads(Execution()), n_threads(config.base.execution)
    blas = {
        f"{pool['internal_api']} {pool['version']} with {pool['num_threads']} threads"
        for pool in threadpool_info()
        if pool["user_api"] == "blas"
    }
    said = f"{wanted} train, on {cores} cores; NumPy's own: {', '.join(sorted(blas)) or 'unknown'}"
    if wanted > cores:
        yield Finding(f"{said}; more threads than cores are slower", f"execution.threads={cores}")
    else:
        yield Finding(said)


def _check_engine(config: SweepConfig) -> Iterator[Finding]:
    execution = config.base.execution
    n_gpus = check_engine(execution)
    trains = {
        "local": "this process trains",
        "ray": "Ray is installed; its cluster is asked when something trains",
        "cuda": counted(n_gpus, "GPU trains", "GPUs train"),
    }
    yield Finding(trains[execution.engine])


def _check_study_store(config: SweepConfig) -> Iterator[Finding]:
    """Whether the store of the searches can be read, and what it holds."""
    url = config.study.storage
    path = sqlite_path(url)
    if path is not None:
        check_sqlite(
            path,
            store="study store",
            setting="study.storage",
            is_thorough=True,
            patience_s=_PATIENCE_S,
        )
        if not path.exists():
            yield Finding(f"{mask(url)} is not there yet; a sweep makes it")
            return
    studies = _studies(url)
    n_studies, n_trials = len(studies), sum(studies.values())
    held = f"{counted(n_studies, 'study', 'studies')}, {counted(n_trials, 'trial')}"
    yield Finding(f"{mask(url)} holds {held}")


def _check_tracking_store(config: SweepConfig) -> Iterator[Finding]:
    """Whether the store of the runs can be read, and is one of the MLflow that is installed."""
    uri = resolve(config.base.tracking)
    path = sqlite_path(uri)
    if path is None:
        yield _check_server(uri) if uri.startswith("http") else Finding(f"{mask(uri)} is a server")
        return
    if not path.exists():
        yield Finding(f"{mask(uri)} is not there yet; the first run makes it")
        return
    check_sqlite(path, is_thorough=True, patience_s=_PATIENCE_S)
    _runs_left(config)  # raises for another version's file, or another program's
    yield Finding(f"{mask(uri)} can be used")


def _check_server(uri: str) -> Finding:
    shown = mask(uri)
    # An http(s) address, by `resolve`; a password in it is not sent, and not needed for this.
    address = re.sub(r"//[^/@]*@", "//", uri).rstrip("/")
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=_PATIENCE_S):
            return Finding(f"{shown} answers")
    except urllib.error.HTTPError as error:
        if error.code < 500:
            return Finding(f"{shown} answers")
        return Finding(f"{shown} answers with error {error.code}", "look at the server's own log")
    except (OSError, ValueError) as error:
        reason = one_line(getattr(error, "reason", None) or error)
        way = "start it, or name another by tracking.uri"
        return Finding(f"{shown} does not answer: {reason}", way)


def _check_running(config: SweepConfig) -> Iterator[Finding]:
    """Runs that say RUNNING though no process is at work on their study."""
    uri = resolve(config.base.tracking)
    path = sqlite_path(uri)
    if path is not None and not path.exists():
        return
    try:
        if path is not None:
            check_sqlite(path, is_thorough=True, patience_s=_PATIENCE_S)
        running = _runs_left(config)
    except MlpError:
        if path is None:
            raise
        return  # the check of the tracking store has said so
    folder = spool.folder_of(config.study.storage)
    stale = [run for run, study in running.items() if study is None or not holder_of(folder, study)]
    if path is None:  # others may be at work elsewhere, on studies that are not in this store
        storage = sqlite_path(config.study.storage)
        own = _studies(config.study.storage) if storage is None or storage.exists() else {}
        stale = [run for run in stale if running[run] in own]
    if stale:
        those = "it" if len(stale) == 1 else "them"
        yield Finding(
            f"{counted(len(stale), 'run says', 'runs say')} RUNNING, but no sweep works on {those}",
            f"{FIX} sets {those} to KILLED; an explain in progress sets its own right at its end",
            lambda: _end_runs(config, stale),
        )
    elif running:
        yield Finding(f"{counted(len(running), 'run is', 'runs are')} being worked on")
    else:
        yield Finding("none is left over")


def _studies(storage: str) -> dict[str, int]:
    """The studies of a store and how many trials each has."""
    from mlp.study.storage import opened_storage, stored_studies  # imports Optuna

    with opened_storage(storage) as opened:
        return stored_studies(opened)


def _runs_left(config: SweepConfig) -> dict[str, str | None]:
    """Id of each run that says RUNNING -> its study; nothing is made."""
    from mlp.tracking.store import find_store, left_running

    store = patiently(lambda: find_store(config.base.tracking))
    return left_running(store) if store else {}


def _end_runs(config: SweepConfig, run_ids: Sequence[str]) -> str:
    """Ends runs that nobody works on; a second run of the same trial goes."""
    from mlp.tracking.store import end_stale

    store = _opened_tracking(config)
    for run_id in run_ids:
        end_stale(store, run_id)
    return f"{counted(len(run_ids), 'run')} ended"


def _publish_study(config: SweepConfig, folder: Path) -> str:
    """Publishes what waits in a folder of a study; what that has not yet stays for the sweep."""
    from mlp.tracking.drain import drain
    from mlp.tracking.store import find_key, finish, start_study

    with only_driver(folder.parent, folder.name):
        page = spool.page_of(folder)
        is_stored = _stored(config, page.name)
        places = [place for which, place in spool.waiting_in(folder).items() if is_stored(*which)]
        n_published, damaged = 0, list[str]()
        if places:
            store = _opened_tracking(config)
            if find_key(store, study_key(page.key)) is None:
                # Until the sweep says how it ends.
                finish(store, start_study(store, page), "KILLED")
            n_published, damaged = drain(store, places)
        n_left = len(spool.waiting_in(folder)) - len(damaged)
        spool.clear(folder)
    said = f"{counted(n_published, 'run')} published"
    if n_left:
        are, those = ("is", "it") if n_left == 1 else ("are", "them")
        said += (
            f"; {n_left} {are} not in the study yet: the same sweep command goes on with {those}"
        )
    if damaged:
        said += f"; damaged, the same sweep command trains them again: {', '.join(damaged)}"
    return said


def _publish_singles(config: SweepConfig) -> str:
    """Publishes the runs that belong to no study."""
    from mlp.tracking.drain import drain

    store = _opened_tracking(config)
    n_published, damaged = drain(store, spool.left_behind())
    published = f"{counted(n_published, 'run')} published"
    spool.leave(spool.folder_of_runs())
    if damaged:
        raise RecordError(f"{published}; these cannot be: {', '.join(damaged)}")
    return published


def _clear_spool(top: Path, folder: Path) -> str:
    """Removes what a sweep that was killed has left, unless somebody works on it by now."""
    with only_driver(top, folder.name):
        spool.clear(folder)
    return f"{folder} removed"


def _stored(config: SweepConfig, study: str) -> Callable[[int, int], bool]:
    """Whether the study has a trial, or has noted the test of a network of a further seed."""
    from mlp.study.storage import opened_storage, stored_looks, stored_studies

    with opened_storage(config.study.storage) as opened:
        n_trials, looks = stored_studies(opened).get(study, 0), stored_looks(opened, study)
    seeds = {(look["trial"], look["seed"]) for look in looks if "seed" in look}
    return lambda number, seed: (number, seed) in seeds if seed else number < n_trials


def _opened_tracking(config: SweepConfig) -> "Store":
    from mlp.tracking.store import open_store

    return patiently(lambda: open_store(config.base.tracking))


main = functools.partial(run_command, _doctor)

if __name__ == "__main__":
    main()
