"""What may be wrong with the stores of studies and runs, and with runs that say RUNNING.

SQLite files are looked at as such. MLflow, whose import takes seconds, is imported for stores that
are no file.
"""

import importlib.util
import re
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from mlp.config import SweepConfig
from mlp.errors import MlpError, one_line
from mlp.flow import mending
from mlp.flow.finding import FIX, Finding, fine, wrong
from mlp.flow.lock import holder_of
from mlp.tracking import spool
from mlp.tracking.store_uri import check_sqlite, mask, resolve, sqlite_path

_PATIENCE_S = 3.0  # for a store that somebody holds, and for a server
_REVISION = re.compile(r"^(down_)?revision = \"(\w+)\"", re.MULTILINE)
_RUNNING = (
    "SELECT r.run_uuid, (SELECT t.value FROM tags t WHERE t.run_uuid = r.run_uuid AND "
    "t.key = 'mlp.study') FROM runs r JOIN tags k ON k.run_uuid = r.run_uuid AND k.key = 'mlp.key' "
    "WHERE r.status = 'RUNNING' AND r.lifecycle_stage = 'active'"
)


def check_study_store(config: SweepConfig) -> Iterator[Finding]:
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
            yield fine(f"{mask(url)} is not there yet; a sweep makes it")
            return
    studies = mending.studies(url)
    yield fine(f"{mask(url)} holds {len(studies)} studies, {sum(studies.values())} trials")


def check_tracking_store(config: SweepConfig) -> Iterator[Finding]:
    """Whether the store of the runs can be read, and is one of the MLflow that is installed."""
    uri = resolve(config.base.tracking)
    path = sqlite_path(uri)
    if path is None:
        yield _check_server(uri) if uri.startswith("http") else fine(f"{mask(uri)} is a server")
        return
    if not path.exists():
        yield fine(f"{mask(uri)} is not there yet; the first run makes it")
        return
    check_sqlite(path, is_thorough=True, patience_s=_PATIENCE_S)
    with closing(_opened(path)) as file:
        tables = {name for (name,) in file.execute("SELECT name FROM sqlite_master")}
        if "alembic_version" not in tables:
            yield wrong(
                f"{path} is a database of another program", "choose another file by tracking.uri"
            )
            return
        [(revision,)] = file.execute("SELECT version_num FROM alembic_version").fetchall()
        [(n_runs,)] = file.execute("SELECT count(*) FROM runs").fetchall()
    if (wanted := _mlflow_revision()) and revision != wanted:
        yield wrong(
            f"{mask(uri)} was made by another version of MLflow",
            f"make a copy of it, then run: mlflow db upgrade {mask(uri)}",
        )
        return
    yield fine(f"{mask(uri)} holds {n_runs} runs")


def _check_server(uri: str) -> Finding:
    shown = mask(uri)
    try:
        # An http(s) address, by `resolve`; a password in it is not sent, and not needed for this.
        address = re.sub(r"//[^/@]*@", "//", uri).rstrip("/")
        with urllib.request.urlopen(f"{address}/health", timeout=_PATIENCE_S):
            return fine(f"{shown} answers")
    except urllib.error.HTTPError as error:
        if error.code < 500:
            return fine(f"{shown} answers")
        return wrong(f"{shown} answers with error {error.code}", "look at the server's own log")
    except (OSError, ValueError) as error:
        reason = one_line(getattr(error, "reason", None) or error)
        return wrong(
            f"{shown} does not answer: {reason}", "start it, or name another by tracking.uri"
        )


def check_running(config: SweepConfig) -> Iterator[Finding]:
    """Runs that say RUNNING though no process is at work on their study."""
    uri = resolve(config.base.tracking)
    path = sqlite_path(uri)
    if path is not None:
        try:
            check_sqlite(path, is_thorough=True, patience_s=_PATIENCE_S)
        except MlpError:
            return  # the check of the store has said so
        if not path.exists():
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
        yield wrong(
            f"{len(stale)} runs say RUNNING, but no sweep works on them",
            f"{FIX} sets them to KILLED; an explain in progress sets its own right at its end",
            lambda: mending.end_runs(config, stale),
        )
    elif running:
        yield fine(f"{len(running)} runs are being worked on")
    else:
        yield fine("none is left over")


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
