"""Optuna's store: opened, closed, and what is wrong with it in one sentence."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import optuna
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
    SQLAlchemyError,
)

from mlp.addresses import check_sqlite, mask, only_one, sqlite_path
from mlp.errors import BusyError, MlpError, SettingError, StoreError, one_line

Storage = optuna.storages.BaseStorage
TEST_LOOKS = "mlp.test_looks"  # the study's attribute that lists them
_PATIENCE_S = 60.0  # for another program that holds the SQLite file

optuna.logging.set_verbosity(optuna.logging.WARNING)  # what it would say, the sweep says itself

PATIENCE_S = 120.0  # a PostgreSQL that was stopped at once needs seconds to recover
_PAUSE_S = 0.5

T = TypeVar("T")


def open_storage(url: str) -> Storage:
    """Opens Optuna's store; an SQLite file is made where it is missing.

    Raises:
        SettingError: for an address of an unknown kind.
        StoreError: for a file that cannot be read or written, or is of another version.
    """
    path = sqlite_path(url)
    if path == Path(":memory:") or (path is None and url.startswith("sqlite")):
        raise _bad_address(url)  # it would be gone at the end
    options: dict[str, Any] = {"pool_pre_ping": True}
    if path is not None:
        check_sqlite(path, store="study store", setting="study.storage")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot make {path.parent}: {one_line(error.strerror)}") from None
        url = f"sqlite:///{path}"
        options["connect_args"] = {"timeout": _PATIENCE_S}
    try:
        with only_one(path.parent) if path is not None else contextlib.nullcontext():
            return optuna.storages.RDBStorage(url, engine_kwargs=options)
    except (ArgumentError, NoSuchModuleError, ImportError):
        raise _bad_address(url) from None
    except RuntimeError as error:  # Optuna's word for a store of another version
        raise StoreError(f"cannot use {mask(url)}: {one_line(error)}") from None
    except SQLAlchemyError as error:
        raise _fault(error, url) from None


def close_storage(storage: Storage) -> None:
    """Ends the connections to a server; a file has none that matter."""
    if isinstance(storage, optuna.storages.RDBStorage):
        storage.remove_session()
        storage.engine.dispose()


def storage_in_memory() -> Storage:
    """A store that goes with the process, for measurements of the search itself."""
    return optuna.storages.InMemoryStorage()


def stored_studies(storage: Storage) -> dict[str, int]:
    """Name -> number of trials of every study."""
    summaries = optuna.get_all_study_summaries(storage)
    return {summary.study_name: summary.n_trials for summary in summaries}


def stored_looks(storage: Storage, study: str) -> list[dict[str, Any]]:
    """What a study has noted of each look at the test part; nothing if there is no such study."""
    summaries = optuna.get_all_study_summaries(storage)
    found = (each.user_attrs for each in summaries if each.study_name == study)
    return list(next(found, {}).get(TEST_LOOKS, []))


@contextlib.contextmanager
def one_sentence(url: str) -> Iterator[None]:
    """Turns what Optuna's store raises while it is used into one of this program's errors.

    Args:
        url: of the store.
    """
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise _fault(error, url) from None


def _fault(error: BaseException, url: str) -> MlpError:
    """The error for what a store raised: the first cause, without SQLAlchemy's statement."""
    while error.__cause__ is not None:
        error = error.__cause__
    said = one_line(mask(str(getattr(error, "orig", None) or error)))
    if "database is locked" in said:
        return BusyError(
            f"another program holds the study store {mask(url)}; close it or try again"
        )
    return StoreError(f"the study store {mask(url)} failed: {said}")


def _bad_address(url: str) -> SettingError:
    return SettingError(
        f"study.storage must be an address such as sqlite:///optuna.db, but is {mask(url)!r}"
    )


def is_server(url: str) -> bool:
    """Whether an address is that of a server and not of a file."""
    return sqlite_path(url) is None


def patiently(url: str, call: Callable[[], T], faults: tuple[type[Exception], ...]) -> T:
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
