"""Where the tracking store is: which address, and whether it can work at all.

Everything that can be said without MLflow is said here, because importing MLflow takes seconds and
a wrong path should not.
"""

import fcntl
import os
import re
import shlex
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from mlp.config import Tracking
from mlp.errors import BusyError, SettingError, StoreError, one_line, patiently

_SQLITE = re.compile(r"sqlite(\+pysqlite)?:///(?P<path>[^?]*)(?P<query>\?.*)?")
_SERVER = re.compile(r"(https?|postgresql|mysql|mssql)(\+\w+)?://.+", re.IGNORECASE)
_USER_AND_SECRET = re.compile(r"(?P<head>\w://[^/\s:@]*):[^/\s]*@")
_SECRET_IN_QUERY = re.compile(
    r"(?P<head>[?&][\w-]*(password|passwd|pwd|token|secret|key|credential|signature)[\w-]*=)[^&\s'\"]+",
    re.IGNORECASE,
)
# SQLAlchemy 2.1 decodes a quoted character in a path, 2.0 does not.
_AMBIGUOUS = re.compile(r"\?|%[0-9a-fA-F]{2}")

_LOCK_PATIENCE_S = 120.0  # another process makes the tables meanwhile, which takes seconds
_ALEMBIC = threading.Lock()  # it keeps the tables that it makes in globals of its modules


def resolve(tracking: Tracking) -> str:
    """The address of the tracking store: the setting, MLFLOW_TRACKING_URI, or ./mlflow.db.

    A path is made absolute, so that a later change of the working directory moves nothing.

    Raises:
        SettingError: for an address of a kind that is not supported.
        StoreError: for an SQLite file that cannot work there.
    """
    uri = tracking.uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    if _SERVER.fullmatch(uri):
        return uri
    local = _SQLITE.fullmatch(uri)
    if local is None or local["path"] in ("", ":memory:"):
        named = "tracking.uri" if tracking.uri else "the environment variable MLFLOW_TRACKING_URI"
        folder = uri.removeprefix("file://")
        runs = f"--source {shlex.quote(folder)} --target sqlite:///mlflow.db"
        moved = f"; mlflow migrate-filestore {runs} takes the runs of a folder along"
        raise SettingError(
            f"{named} must be an SQLite file (sqlite:///FILE), a tracking server "
            f"(http://HOST:PORT) or a PostgreSQL or MySQL database, but is {mask(uri)!r}"
            + ("" if "://" in folder or Path(folder).suffix else moved)
        )
    path = Path.cwd() / local["path"]
    if _AMBIGUOUS.search(str(path)):
        raise StoreError(
            "the path of a tracking store must not hold '?', nor '%' and two hex digits, "
            f"but is {path}"
        )
    check_sqlite(path)
    return f"sqlite:///{path}{local['query'] or ''}"


def mask(text: str) -> str:
    """The text without the passwords and tokens of the addresses in it.

    Example:
        >>> mask("postgresql://ann:secret@db/mlflow?sslpassword=x&a=b")
        'postgresql://ann:***@db/mlflow?sslpassword=***&a=b'
    """
    return _SECRET_IN_QUERY.sub(r"\g<head>***", _USER_AND_SECRET.sub(r"\g<head>:***@", text))


def sqlite_path(uri: str) -> Path | None:
    """The file of a resolved SQLite address; None for a server."""
    local = _SQLITE.fullmatch(uri)
    return Path(local["path"]) if local else None


def check_sqlite(
    path: Path,
    *,
    store: str = "tracking store",
    setting: str = "tracking.uri",
    is_thorough: bool = False,
    patience_s: float = 0.0,
) -> None:
    """Refuses a path that cannot hold a store, before anything is written.

    Args:
        store: what is to be in it, for the messages.
        setting: what names the path, for the messages.
        is_thorough: whether every page of the file is looked at, which takes a second a gigabyte;
            else only whether it is a database at all, or empty, which becomes one.
        patience_s: how long another program may hold the file, in seconds. One that is held for
            longer is not looked at, and refused only where every page would be.

    Raises:
        StoreError: for a folder, a file that is no SQLite database, or one that is read-only;
            where that is looked at, for a damaged one.
        BusyError: if another program holds it, where every page is looked at.
    """
    if path.is_dir():
        raise StoreError(f"the {store} must be a file, but {path} is a folder")
    if path.exists():
        if not path.is_file():
            raise StoreError(f"the {store} must be a plain file, but {path} is not")
        _check_access(path, setting)
        query = "PRAGMA quick_check(1)" if is_thorough else "PRAGMA schema_version"
        try:
            said = _asked(path, query, patience_s, mode="rw" if is_thorough else "ro")[0]
        except sqlite3.Error as error:
            said = one_line(error)
        if "not a database" in str(said):
            raise StoreError(f"{path} is not an SQLite database; choose another by {setting}")
        if is_thorough and "locked" in str(said):
            raise BusyError(f"another program holds the {store} {path}; close it or try again")
        if is_thorough and said != "ok":
            raise StoreError(
                f"{path} is damaged: {one_line(said)}; make a copy of it, then try: "
                f"sqlite3 {path.name} .recover | sqlite3 recovered.db"
            )
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise StoreError(f"the {store} cannot be at {path}, because {folder} is no folder")
    _check_access(folder, setting)


def tables(path: Path) -> set[str]:
    """The names of the tables of the tracking store's SQLite file; none where there is no file."""
    if not path.exists():
        return set()
    try:
        return set(_asked(path, "SELECT name FROM sqlite_master WHERE type = 'table'", 20.0))
    except sqlite3.Error as error:
        if "locked" in str(error):
            raise BusyError(
                f"another program holds the tracking store {path}; close it or try again"
            ) from None
        raise StoreError(f"the tracking store {path} cannot be read: {one_line(error)}") from None


def _asked(path: Path, query: str, patience_s: float, *, mode: str = "rw") -> list[Any]:
    """The first column of what an SQLite file answers.

    SQLite itself opens the file: to close a file lets go of every lock that this process has on it
    (POSIX), and SQLite alone knows when that would be the lock of another thread's transaction.
    With `mode="ro"` it cannot roll back what a killed process has left half done.
    """
    address = f"{path.absolute().as_uri()}?mode={mode}"
    with closing(sqlite3.connect(address, uri=True, timeout=patience_s)) as file:
        return [row[0] for row in file.execute(query)]


@contextmanager
def only_one(folder: Path | None) -> Iterator[None]:
    """Lets one thread at a time make the tables of a file, and one process in the same folder.

    The folder itself is locked: no lock file stays behind, and a process that dies lets go.

    Args:
        folder: where the file is; None: the tables are those of Optuna on a server.
    """
    with _ALEMBIC:
        if folder is None:
            yield
        else:
            with _only_process(folder):
                yield


@contextmanager
def _only_process(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)

    def lock() -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(
                f"another process has been making a store in {folder} for "
                f"{_LOCK_PATIENCE_S:.0f} seconds; try again when it has ended"
            ) from None

    try:
        patiently(lock, patience_s=_LOCK_PATIENCE_S)
        yield
    finally:
        os.close(descriptor)


def _check_access(path: Path, setting: str) -> None:
    if not os.access(path, os.R_OK | os.W_OK):
        raise StoreError(
            f"{path} cannot be written; change its permissions or choose another {setting}"
        )
