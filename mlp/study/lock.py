"""One driver a study: a lock that goes with its holder.

Beside an SQLite store it is the lock of a file, which the kernel lets go when the process dies. In
PostgreSQL it is an advisory lock, which the server lets go when the connection ends, so that it
holds between machines, too.
"""

import fcntl
import hashlib
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from mlp.addresses import mask
from mlp.errors import BusyError, StoreError, one_line
from mlp.study.server import outlast

_LONGEST = 4096  # bytes that are read of who holds it

# The session says who it is: `mlp 2026-11-24T20:15:00+00:00 4711 HOST`, of which 63 bytes are kept.
_TAKE = "SELECT pg_try_advisory_lock(:key)"
_INTRODUCE = "SELECT set_config('application_name', :who, false)"
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
    """Holds a study while the block runs; nothing is left behind.

    A server that is restarted has forgotten its locks. So the block is given a function that takes
    a lost lock again, and raises BusyError where somebody else was faster; it is to be called
    before anything is stored.

    Args:
        folder: where the lock file lies, if it is one; made where it does not exist.
        study: its name.
        storage: address of the study store, which says what kind of lock it is.

    Raises:
        BusyError: if somebody else holds the study; it says who, where and since when.
        StoreError: for a folder that cannot be written.
    """
    if storage.startswith("postgresql"):
        with _locked_in_server(storage, study) as still_held:
            yield still_held
        return
    path = folder / f"{study}.lock"
    descriptor = _locked(path, study)
    try:
        yield lambda: None
    finally:
        with suppress(OSError):  # the folder may be gone, and is a spool while trials wait in it
            path.unlink()
            folder.rmdir()
        os.close(descriptor)


@contextmanager
def _locked_in_server(storage: str, study: str) -> Iterator[Callable[[], None]]:
    """Holds a connection that holds the lock."""
    engine = create_engine(storage, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    try:
        connection = _taken(engine, study)
    except SQLAlchemyError as error:
        said = one_line(mask(str(getattr(error, "orig", None) or error)))
        raise StoreError(f"cannot lock the study in {mask(storage)}: {said}") from None

    def still_held() -> None:
        nonlocal connection
        try:
            connection.execute(text("SELECT 1"))
        except SQLAlchemyError:
            _leave(connection)
            connection = outlast(storage, lambda: _taken(engine, study), ())

    try:
        yield still_held
    finally:
        _leave(connection)


def _leave(connection: Connection) -> None:
    with suppress(SQLAlchemyError):  # the server may be gone, and the lock with it
        connection.close()


def _taken(engine: Engine, study: str) -> Connection:
    """A new connection that holds the lock."""
    digest = hashlib.sha256(f"mlp-sweep/{study}".encode()).digest()
    key = int.from_bytes(digest[:8], "big") >> 1  # a bigint has a sign
    connection = engine.connect()
    for statement in _KEEP_ALIVE:
        connection.execute(text(statement))
    who = f"mlp {_now()} {os.getpid()} {socket.gethostname()}"
    connection.execute(text(_INTRODUCE), {"who": who})
    if connection.execute(text(_TAKE), {"key": key}).scalar_one():
        return connection
    holder = _holder_in_server(connection, key)
    _leave(connection)
    raise BusyError(f"study {study} is held by {holder}; end that first")


def _holder_in_server(connection: Connection, key: int) -> str:
    name = connection.execute(text(_WHO), {"key": key}).scalar()
    words = str(name).split(" ", 3)
    if len(words) != 4 or words[0] != "mlp":
        return "another process"
    return f"process {words[2]} on {words[3]} since {words[1]}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _locked(path: Path, study: str) -> int:
    """A descriptor that holds the lock."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:
            continue  # the last holder has just taken the folder away
        except OSError as error:
            raise StoreError(f"cannot write to {path.parent}: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise BusyError(f"study {study} is held by {holder}; end that first") from None
        if _is_at(path, descriptor):
            break
        os.close(descriptor)  # the last holder has taken this file away meanwhile
    who = {"host": socket.gethostname(), "pid": os.getpid(), "since": _now()}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(who).encode(), 0)
    return descriptor


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        found, own = path.stat(), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino)


def _holder(descriptor: int) -> str:
    """Who holds the lock, as far as the file says."""
    try:
        who = json.loads(os.pread(descriptor, _LONGEST, 0))
        return f"process {int(who['pid'])} on {who['host']} since {who['since']}"
    except (ValueError, KeyError, TypeError):  # it has the lock but not yet written its name
        return "another process"


def holder_of(folder: Path, study: str) -> str | None:
    """Who holds a study at this moment; None: nobody does. Nothing is changed.

    Args:
        folder: where the lock file lies.
        study: its name.
    """
    try:
        descriptor = os.open(folder / f"{study}.lock", os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _holder(descriptor)
    finally:
        os.close(descriptor)
    return None
