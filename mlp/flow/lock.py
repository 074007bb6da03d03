"""One driver a study: a lock that the kernel lets go when its holder dies."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from mlp.errors import BusyError, StoreError

_LONGEST = 4096  # bytes that are read of who holds it


@contextmanager
def only_driver(folder: Path, study: str) -> Iterator[None]:
    """Holds a study while the block runs; nothing is left behind.

    Args:
        folder: where the lock file lies; made where it does not exist.
        study: its name.

    Raises:
        BusyError: if somebody else holds the study; it says who, where and since when.
        StoreError: for a folder that cannot be written.
    """
    path = folder / f"{study}.lock"
    descriptor = _locked(path, study)
    try:
        yield
    finally:
        with suppress(OSError):  # the folder may be gone, and is a spool while trials wait in it
            path.unlink()
            folder.rmdir()
        os.close(descriptor)


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
    now = datetime.now(UTC).isoformat(timespec="seconds")
    who = {"host": socket.gethostname(), "pid": os.getpid(), "since": now}
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
