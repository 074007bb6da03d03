"""A study in a database server, which may be away for a moment: restarted, say, or out of reach."""

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from mlp.addresses import sqlite_path

PATIENCE_S = 120.0  # a PostgreSQL that was stopped at once needs seconds to recover
_PAUSE_S = 0.5

T = TypeVar("T")


def is_server(url: str) -> bool:
    """Whether an address is that of a server and not of a file."""
    return sqlite_path(url) is None


def outlast(url: str, call: Callable[[], T], faults: tuple[type[Exception], ...]) -> T:
    """What a call returns; begun again while the server is away.

    Args:
        url: of the store; a file is not waited for.
        call: safe to begin again, also where its last write did arrive.
        faults: what it raises when the connection is lost, at any depth of causes.

    Raises:
        Exception: of the call: at once if it is no outage, else when the patience is over.
    """
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            return call()
        except Exception as error:
            is_known = isinstance(error, (SQLAlchemyError, *faults)) and is_outage(error)
            if not (is_known and is_server(url) and time.monotonic() < end):
                raise
        time.sleep(_PAUSE_S)


def is_outage(error: BaseException) -> bool:
    """Whether the connection is what failed, and not what was asked for."""
    return any(
        isinstance(each, OperationalError | InterfaceError)
        or (isinstance(each, DBAPIError) and each.connection_invalidated)
        for each in _causes(error)
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
