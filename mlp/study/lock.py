"""One driver a study: a lock that ends with its holder.

Beside an SQLite store it is the lock of a file, which the kernel releases when the process dies. In
PostgreSQL it is an advisory lock, which the server releases when the connection ends, so that it
holds between machines, too.
"""

import fcntl
import hashlib
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from mlp.addresses import mask
from mlp.errors import BusyError, StoreError

_TAKE = "SELECT pg_try_advisory_lock(:key)"
_INTRODUCE = "SELECT set_config('application_name', :who, false)"  # the first 63 bytes are kept
# Without this the server would believe for hours in a holder whose machine is gone.
_KEEP_ALIVE = (
    "SET tcp_keepalives_idle = 20",
    "SET tcp_keepalives_interval = 10",
    "SET tcp_keepalives_count = 3",
)
_WHO = """
    SELECT application_name FROM pg_stat_activity JOIN pg_locks USING (pid)
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND (classid::bigint << 32) | objid::bigint = :key
"""


@contextmanager
def only_driver(folder: Path, study: str, storage: str = "sqlite") -> Iterator[Callable[[], None]]:
    """Holds a study while the block runs.

    A server that is restarted has forgotten its locks. So the block is given a function that takes
    a lost lock again, and raises BusyError where somebody else was faster; it is to be called
    before anything is stored.

    Args:
        folder: where the lock file lies, if it is one; both are made, and stay.
        storage: address of the study store, which says what kind of lock it is.

    Raises:
        BusyError: if somebody else holds the study; it says who, where and since when.
        StoreError: for a folder that cannot be written.
    """
    if storage.startswith("postgresql"):
        with _locked_in_server(storage, study) as still_held:
            yield still_held
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _opened(folder, study, "a+")
    except OSError as error:
        raise StoreError(f"cannot write to {folder}: {error.strerror}") from None
    with file:  # to close it is to release it
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _busy(study, _holder(file)) from None
        file.truncate(0)
        file.write(_introduction())
        file.flush()
        yield lambda: None


def holder_of(folder: Path, study: str) -> str | None:
    """Who holds a study at this moment; None: nobody does. Nothing is changed."""
    with suppress(FileNotFoundError, PermissionError), _opened(folder, study, "r") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _holder(file)
    return None


def _opened(folder: Path, study: str, mode: str) -> IO[str]:
    return (folder / f"{study}.lock").open(mode, errors="replace")


def _introduction() -> str:
    """What a holder says of itself, in the lock file or to the server."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return f"mlp {since} {os.getpid()} {socket.gethostname()}"


def _named(introduction: str) -> str:
    words = introduction.split(" ", 3)
    if len(words) != 4 or words[0] != "mlp":  # it has the lock, but has not said its name yet
        return "another process"
    return f"process {words[2]} on {words[3]} since {words[1]}"


def _holder(file: IO[str]) -> str:
    file.seek(0)
    return _named(file.read(4096))


def _busy(study: str, holder: str) -> BusyError:
    return BusyError(f"study {study} is held by {holder}; end that first")


@contextmanager
def _locked_in_server(storage: str, study: str) -> Iterator[Callable[[], None]]:
    """Holds a connection that holds the lock."""
    from mlp.study.storage import outlast, said_by  # imports Optuna, which takes a second

    engine = create_engine(storage, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    try:
        connection = _taken(engine, study)
    except SQLAlchemyError as error:
        raise StoreError(f"cannot lock the study in {mask(storage)}: {said_by(error)}") from None

    def still_held() -> None:
        nonlocal connection
        try:
            connection.execute(text("SELECT 1"))
        except SQLAlchemyError:
            _leave(connection)
            connection = outlast(storage, lambda: _taken(engine, study))

    try:
        yield still_held
    finally:
        _leave(connection)


def _taken(engine: Engine, study: str) -> Connection:
    """A new connection that holds the lock."""
    digest = hashlib.sha256(f"mlp-sweep/{study}".encode()).digest()
    key = int.from_bytes(digest[:8], "big") >> 1  # a bigint has a sign
    connection = engine.connect()
    for statement in _KEEP_ALIVE:
        connection.execute(text(statement))
    connection.execute(text(_INTRODUCE), {"who": _introduction()})
    if connection.execute(text(_TAKE), {"key": key}).scalar_one():
        return connection
    holder = _named(str(connection.execute(text(_WHO), {"key": key}).scalar()))
    _leave(connection)
    raise _busy(study, holder)


def _leave(connection: Connection) -> None:
    with suppress(SQLAlchemyError):  # the server may be gone, and the lock with it
        connection.close()
