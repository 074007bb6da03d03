"""Optuna's store: opened, closed, and what is wrong with it in one sentence."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from mlp.addresses import check_sqlite, mask, only_one, sqlite_path
from mlp.errors import BusyError, MlpError, SettingError, StoreError, one_line

Storage = optuna.storages.BaseStorage
TEST_LOOKS = "mlp.test_looks"  # the study's attribute that lists them
_PATIENCE_S = 60.0  # for another program that holds the SQLite file

optuna.logging.set_verbosity(optuna.logging.WARNING)  # what it would say, the sweep says itself


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
def storage_faults(url: str) -> Iterator[None]:
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
