"""Optuna's store: opened, closed, asked again while its server is away, its faults one sentence.

A store is an SQLite file, or a database server, which may be out of reach for a moment.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
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
from mlp.errors import (
    BusyError,
    MlpError,
    SettingError,
    StoreError,
    one_line,
    patiently,
    translated,
)

Storage = optuna.storages.BaseStorage
TEST_LOOKS = "mlp.test_looks"  # the study's attribute that lists them
_PATIENCE_S = 60.0  # for another program that holds the SQLite file
_SERVER_PATIENCE_S = 120.0  # a PostgreSQL that was stopped at once needs seconds to recover
_FAULTS = (SQLAlchemyError, optuna.exceptions.StorageInternalError)

T = TypeVar("T")

optuna.logging.set_verbosity(optuna.logging.WARNING)  # what it would say, the sweep says itself


def open_storage(url: str) -> optuna.storages.RDBStorage:
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

    wrong = (ArgumentError, NoSuchModuleError, ImportError)
    other_version = {
        RuntimeError: lambda error: StoreError(f"cannot use {mask(url)}: {one_line(error)}")
    }
    with (
        _faults(url),
        translated(other_version | dict.fromkeys(wrong, lambda _: _bad_address(url))),
        only_one(path.parent if path is not None else None),
    ):
        return optuna.storages.RDBStorage(url, engine_kwargs=options)


@contextmanager
def opened_storage(url: str) -> Iterator[Storage]:
    """Optuna's store while the block runs; its faults there are this program's errors."""
    storage = open_storage(url)
    try:
        with _faults(url):
            yield storage
    finally:
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


def _faults(url: str) -> AbstractContextManager[None]:
    """Turns what Optuna's store at an address raises in the block into this program's errors."""
    return translated(dict.fromkeys(_FAULTS, lambda error: _fault(error, url)))


def outlast(url: str, call: Callable[[], T]) -> T:
    """What a call returns; begun again for two minutes while the database server is away.

    Args:
        url: of the store; a file is not waited for.
        call: safe to begin again, also where its last write did arrive.
    """

    def is_away(error: Exception) -> bool:
        is_known = isinstance(error, _FAULTS) and any(map(_is_outage, _causes(error)))
        return is_known and sqlite_path(url) is None

    return patiently(call, may_pass=is_away, patience_s=_SERVER_PATIENCE_S)


def said_by(error: BaseException) -> str:
    """What a database said, without SQLAlchemy's statement and without passwords."""
    *_, first = _causes(error)
    return one_line(mask(str(getattr(first, "orig", None) or first)))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _is_outage(error: BaseException) -> bool:
    """Whether the connection is what failed, and not what was asked for."""
    is_lost = isinstance(error, DBAPIError) and error.connection_invalidated
    return is_lost or isinstance(error, OperationalError | InterfaceError)


def _fault(error: Exception, url: str) -> MlpError:
    said = said_by(error)
    if "database is locked" in said:
        return BusyError(
            f"another program holds the study store {mask(url)}; close it or try again"
        )
    return StoreError(f"the study store {mask(url)} failed: {said}")


def _bad_address(url: str) -> SettingError:
    return SettingError(
        f"study.storage must be an address such as sqlite:///optuna.db, but is {mask(url)!r}"
    )
