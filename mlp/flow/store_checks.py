"""What may be wrong with the stores of studies and runs, and with runs that say RUNNING.

MLflow, whose import takes seconds, is imported where there is a tracking store to be looked at.
"""

import re
import urllib.error
import urllib.request
from collections.abc import Iterator

from mlp.config import SweepConfig
from mlp.errors import MlpError, one_line
from mlp.flow import mending
from mlp.flow.finding import FIX, Finding, fine, wrong
from mlp.flow.lock import holder_of
from mlp.tracking import spool
from mlp.tracking.store_uri import check_sqlite, mask, resolve, sqlite_path

_PATIENCE_S = 3.0  # for a store that somebody holds, and for a server


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
    """Whether the store of the runs can be read by the MLflow that is installed."""
    uri = resolve(config.base.tracking)
    path = sqlite_path(uri)
    if path is None:
        yield _check_server(uri) if uri.startswith("http") else fine(f"{mask(uri)} is a server")
        return
    if not path.exists():
        yield fine(f"{mask(uri)} is not there yet; the first run makes it")
        return
    check_sqlite(path, is_thorough=True, patience_s=_PATIENCE_S)
    mending.left_running(config)  # raises for another version's file, or another program's
    yield fine(f"{mask(uri)} can be used")


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
    if path is not None and not path.exists():
        return
    try:
        if path is not None:
            check_sqlite(path, is_thorough=True, patience_s=_PATIENCE_S)
        running = mending.left_running(config)
    except MlpError:
        if path is None:
            raise
        return  # the check of the tracking store has said so
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


def _exists(url: str) -> bool:
    path = sqlite_path(url)
    return path is None or path.exists()
