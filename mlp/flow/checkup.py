"""What may be wrong around the sweeps of a folder: stores, spool, locks, data, disk, versions.

Everything is looked at and nothing is changed, until somebody calls a finding's `repair`. MLflow,
whose import takes seconds, is imported for repairs and for stores that are no file.
"""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

from mlp.config import Data, SweepConfig
from mlp.data.dataset import ROOT_VARIABLE
from mlp.data.fetch import MNIST, cache_folder
from mlp.data.idx import damage, examine_file, find
from mlp.errors import MlpError, one_line
from mlp.flow import mending
from mlp.flow.execution import n_threads
from mlp.flow.lock import holder_of
from mlp.tracking import spool
from mlp.tracking.store_uri import check_sqlite, mask, resolve, sqlite_path

FIX = "python -m mlp.doctor fix=true"

_PATIENCE_S = 3.0  # for a store that somebody holds, and for a server
_LEAST_FREE = 500 * 1024**2  # bytes; the stores of a thousand small runs have about as many
_REVISION = re.compile(r"^(down_)?revision = \"(\w+)\"", re.MULTILINE)
_RUNNING = (
    "SELECT r.run_uuid, (SELECT t.value FROM tags t WHERE t.run_uuid = r.run_uuid AND "
    "t.key = 'mlp.study') FROM runs r JOIN tags k ON k.run_uuid = r.run_uuid AND k.key = 'mlp.key' "
    "WHERE r.status = 'RUNNING' AND r.lifecycle_stage = 'active'"
)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: was looked at.
        said: how it is, one line.
        remedy: what to do about it, one line; empty where all is well.
        repair: mends it without harm and says what was done; None where a person has to.
    """

    what: str
    said: str
    remedy: str = ""
    repair: Callable[[], str] | None = None


def check_up(config: SweepConfig) -> Iterator[Finding]:
    """Looks at everything, one thing after the other.

    Args:
        config: where the stores and the data are.
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
    }
    for what, check in checks.items():
        try:
            for finding in check(config):
                yield Finding(what, finding.said, finding.remedy, finding.repair)
        except MlpError as error:
            yield Finding(what, one_line(mask(str(error))), "see above")


def _fine(said: str) -> Finding:
    return Finding("", said)


def _wrong(said: str, remedy: str, repair: Callable[[], str] | None = None) -> Finding:
    return Finding("", said, remedy, repair)


def _check_study_store(config: SweepConfig) -> Iterator[Finding]:
    url = config.study.storage
    path = sqlite_path(url)
    if path is not None:
        check_sqlite(path, store="study store", setting="study.storage")
        if not path.exists():
            yield _fine(f"{mask(url)} is not there yet; a sweep makes it")
            return
        if fault := _damage(path):
            yield fault
            return
    studies = mending.studies(url)
    yield _fine(f"{mask(url)} holds {len(studies)} studies, {sum(studies.values())} trials")


def _check_tracking_store(config: SweepConfig) -> Iterator[Finding]:
    uri = resolve(config.base.tracking)
    path = sqlite_path(uri)
    if path is None:
        yield _check_server(uri) if uri.startswith("http") else _fine(f"{mask(uri)} is a server")
        return
    if not path.exists():
        yield _fine(f"{mask(uri)} is not there yet; the first run makes it")
        return
    if fault := _damage(path):
        yield fault
        return
    with closing(_opened(path)) as file:
        tables = {name for (name,) in file.execute("SELECT name FROM sqlite_master")}
        if "alembic_version" not in tables:
            yield _wrong(
                f"{path} is a database of another program", "choose another file by tracking.uri"
            )
            return
        [(revision,)] = file.execute("SELECT version_num FROM alembic_version").fetchall()
        [(n_runs,)] = file.execute("SELECT count(*) FROM runs").fetchall()
    if (wanted := _mlflow_revision()) and revision != wanted:
        yield _wrong(
            f"{mask(uri)} was made by another version of MLflow",
            f"make a copy of it, then run: mlflow db upgrade {mask(uri)}",
        )
        return
    yield _fine(f"{mask(uri)} holds {n_runs} runs")


def _check_server(uri: str) -> Finding:
    shown = mask(uri)
    try:
        # An http(s) address, by `resolve`; a password in it is not sent, and not needed for this.
        address = re.sub(r"//[^/@]*@", "//", uri).rstrip("/")
        with urllib.request.urlopen(f"{address}/health", timeout=_PATIENCE_S):
            return _fine(f"{shown} answers")
    except urllib.error.HTTPError as error:
        if error.code < 500:
            return _fine(f"{shown} answers")
        return _wrong(f"{shown} answers with error {error.code}", "look at the server's own log")
    except (OSError, ValueError) as error:
        reason = one_line(getattr(error, "reason", None) or error)
        return _wrong(
            f"{shown} does not answer: {reason}", "start it, or name another by tracking.uri"
        )


def _check_running(config: SweepConfig) -> Iterator[Finding]:
    """Runs that say RUNNING though no process is at work on their study."""
    uri = resolve(config.base.tracking)
    path = sqlite_path(uri)
    if path is not None and (not path.exists() or _damage(path)):
        return
    running: dict[str, str | None]
    if path is None:
        running = mending.left_running(config)
    else:
        with closing(_opened(path)) as file:
            if not file.execute("SELECT 1 FROM sqlite_master WHERE name = 'runs'").fetchall():
                return
            running = dict(file.execute(_RUNNING).fetchall())
    folder = spool.folder_of(config.study.storage)
    stale = [run for run, study in running.items() if study is None or not holder_of(folder, study)]
    if path is None:  # others may be at work elsewhere, on studies that are not in this store
        own = mending.studies(config.study.storage) if _exists(config.study.storage) else {}
        stale = [run for run in stale if running[run] in own]
    if stale:
        yield _wrong(
            f"{len(stale)} runs say RUNNING, but no sweep works on them",
            f"{FIX} sets them to KILLED; an explain in progress sets its own right at its end",
            lambda: mending.end_runs(config, stale),
        )
    elif running:
        yield _fine(f"{len(running)} runs are being worked on")
    else:
        yield _fine("none is left over")


def _check_spool(config: SweepConfig) -> Iterator[Finding]:
    """Runs that wait for MLflow, and what writers that died have left."""
    top = spool.folder_of(config.study.storage)
    folders = sorted(path for path in top.glob("*") if path.is_dir())
    n_waiting = 0
    for folder in folders:
        if holder := holder_of(top, spool.study_of(folder)):
            yield _fine(f"{folder.name} is being worked on by {holder}")
            continue
        what = "networks with further seeds" if spool.is_of_seeds(folder) else "trials"
        n_waiting += (n := len(list(spool.waiting(folder))))
        if n:
            yield _wrong(
                f"{n} {what} of {spool.study_of(folder)} wait for MLflow",
                f"the same sweep command publishes them, or {FIX}",
                lambda folder=folder: mending.publish_study(config, folder),  # type: ignore[misc]
            )
        elif (left := spool.unfinished(folder)) or spool.has_page(folder):
            yield _wrong(
                f"{folder} was left by a sweep that was killed"
                + (f", with {len(left)} unfinished trials" if left else ""),
                f"{FIX} removes it; the sweep trains unfinished trials again",
                lambda folder=folder: mending.clear(top, folder),  # type: ignore[misc]
            )
    singles = spool.folder_of_runs()
    n = len(list(spool.waiting(singles)))
    if n:
        yield _wrong(
            f"{n} single runs wait for MLflow in {singles}",
            f"{FIX} publishes them",
            lambda: mending.publish_singles(config),
        )
    if n_waiting + n == 0:
        yield _fine("no run waits for MLflow")


def _check_locks(config: SweepConfig) -> Iterator[Finding]:
    folder = spool.folder_of(config.study.storage)
    names = sorted(path.stem for path in folder.glob("*.lock"))
    held = {name: holder for name in names if (holder := holder_of(folder, name))}
    for name, holder in held.items():
        yield _fine(f"study {name} is held by {holder}")
    if stale := [name for name in names if name not in held]:
        yield _wrong(
            f"{', '.join(stale)}: locked by processes that are gone; a sweep takes such a lock",
            f"{FIX} removes the files",
            lambda: mending.remove_locks(folder, stale),
        )
    if not names:
        yield _fine("nobody holds a study")


def _check_data(config: SweepConfig) -> Iterator[Finding]:
    data: Data = config.base.data
    if data.name == "digits":
        yield _fine("digits need no files")
        return
    named = data.root or os.environ.get(ROOT_VARIABLE)
    folder = Path(named).expanduser() if named else cache_folder()
    paths = {file: find(folder, file) for file in MNIST.files}
    missing = [file.name for file, path in paths.items() if path is None]
    faults = 0
    for file, path in paths.items():
        if path is not None and (content := examine_file(path, file)).fault:
            faults += 1
            way = "put the published file there" if named else "the next sweep replaces it"
            yield _wrong(f"{path} {damage(content, file)}", way)
    if missing and (named or len(missing) < len(paths)):
        way = "name a folder that has them" if named else "the next sweep downloads them"
        yield _wrong(f"{folder} lacks {', '.join(missing)}", way)
    elif missing:
        yield _fine(f"no MNIST in {folder} yet; the first run downloads it, or takes the digits")
    elif not faults:
        yield _fine(f"MNIST in {folder} is whole")


def _check_space(config: SweepConfig) -> Iterator[Finding]:
    stores = (config.study.storage, resolve(config.base.tracking))
    files = [path for uri in stores if (path := sqlite_path(uri))] or [Path.cwd() / "spool"]
    for folder in sorted({_existing(path.absolute().parent) for path in files}):
        free = shutil.disk_usage(folder).free
        said = f"{free / 1024**3:.1f} GiB in {folder}"
        enough = free >= _LEAST_FREE
        yield _fine(said) if enough else _wrong(f"only {said}", "free some before the next sweep")


def _check_versions(_config: SweepConfig) -> Iterator[Finding]:
    """Whether the installed packages are those that this one asks for."""
    try:
        wanted = [Requirement(text) for text in importlib.metadata.requires("mlp-sweep") or []]
    except importlib.metadata.PackageNotFoundError:
        yield _fine("this package is used without being installed")
        return
    here = {}
    for requirement in wanted:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            here[requirement.name] = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield _wrong(f"{requirement} is not installed", f"pip install '{requirement}'")
            continue
        if not requirement.specifier.contains(here[requirement.name], prereleases=True):
            yield _wrong(
                f"{requirement.name} is {here[requirement.name]}, but must be "
                f"{requirement.specifier}",
                f"pip install '{requirement}'",
            )
    shown = (f"{name} {here[name]}" for name in ("mlflow", "numpy", "optuna") if name in here)
    yield _fine(", ".join(shown))


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
        yield _wrong(f"{said}; more threads than cores are slower", f"execution.threads={cores}")
    else:
        yield _fine(said)


def _damage(path: Path) -> Finding | None:
    """What is wrong with an SQLite file as such."""
    try:
        with closing(_opened(path)) as file:
            rows = [text for (text,) in file.execute("PRAGMA quick_check(1)").fetchall()]
    except sqlite3.Error as error:
        if "locked" in str(error):
            return _wrong(f"another program holds {path}", "end that program, or wait for it")
        rows = [one_line(error)]
    if rows == ["ok"]:
        return None
    return _wrong(
        f"{path} is damaged: {one_line(rows[0])}",
        f"make a copy of it, then try: sqlite3 {path.name} .recover | sqlite3 recovered.db",
    )


def _opened(path: Path) -> sqlite3.Connection:
    # Read-only, it could not roll back what a killed process has left half done.
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=_PATIENCE_S)


def _mlflow_revision() -> str | None:
    """The version of a store's tables that the installed MLflow wants, without importing it."""
    spec = importlib.util.find_spec("mlflow")
    folders = list(spec.submodule_search_locations or []) if spec else []
    steps = [Path(folder) / "store" / "db_migrations" / "versions" for folder in folders]
    texts = (file.read_text(errors="replace") for step in steps for file in step.glob("*.py"))
    found = [match for text in texts for match in _REVISION.findall(text)]
    last = {name for down, name in found if not down} - {name for down, name in found if down}
    return last.pop() if len(last) == 1 else None


def _exists(url: str) -> bool:
    path = sqlite_path(url)
    return path is None or path.exists()


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder
