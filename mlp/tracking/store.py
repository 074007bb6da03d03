"""Opens the tracking store, and says in one sentence what is wrong with it.

Importing this imports MLflow, which takes seconds; `mlp.addresses` says without it whether
an address can work.
"""

import glob
import logging
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

# Who trains at home expects nothing to be sent anywhere; MLflow reads these when it is imported.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

from google.protobuf.json_format import ParseError
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

# Private: no public call makes a store in a file without leaving it open, or says which tables it
# has. tests/tracking/test_runs.py tells when they break.
from mlflow.store.db.base_sql_model import Base as Tables
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from requests import RequestException
from sqlalchemy.exc import SQLAlchemyError

from mlp import addresses, errors
from mlp.config import Tracking
from mlp.errors import BusyError, MlpError, StoreError, UnavailableError, one_line
from mlp.tracking.listing import NOTE_TAG, StudyPage, page_query, view_tag

_AT_HOME = "http://127.0.0.1:5000"  # where `mlflow ui` is, typed without a port
_KIND = {"mlflow.experimentKind": "custom_model_development"}  # else the UI guesses, often GenAI
_ABOUT = "Small networks that tell threes from sevens."
# What says it all, out of a text of many lines.
_OUTAGE = re.compile(
    r"too many \d+ error responses|[Cc]onnection refused|timed? ?out|Name or service not known"
)

# Of an answer that is JSON, but not what MLflow expects, protobuf raises an error of its own.
_FAULTS = (MlflowException, RequestException, SQLAlchemyError, OSError, ImportError, ParseError)


@dataclass(frozen=True)
class Store:
    """An open tracking store.

    Attributes:
        experiment_id: the experiment that all runs belong to.
        uri: the address, fit to be printed: without its password.
    """

    client: MlflowClient
    experiment_id: str
    uri: str

    @property
    def is_default(self) -> bool:
        """Whether MLflow's commands find it, typed in the working directory without an address."""
        return self.uri == addresses.mask(f"sqlite:///{Path.cwd() / 'mlflow.db'}")


def open_store(tracking: Tracking) -> Store:
    """Opens the tracking store; makes it and the experiment where they are missing.

    The first opening of an SQLite file makes its tables, which takes seconds; several processes
    may do so at once.

    Raises:
        SettingError: for an address of an unknown kind.
        StoreError: for a store that cannot be read or written, or an experiment that cannot be
            used.
        BusyError: for a store that another program has locked.
        UnavailableError: for a server that does not answer.
    """
    uri = addresses.resolve(tracking)
    shown = addresses.mask(uri)
    _calm_mlflow(uri)
    path = addresses.sqlite_path(uri)
    with one_sentence(shown):
        if path is not None:
            _make_sqlite(path)
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        experiment_id = _experiment(client, tracking.experiment, path, shown)
    return Store(client, experiment_id, shown)


def find_store(tracking: Tracking) -> Store | None:
    """As `open_store`, but makes nothing: None where there is no such file or experiment."""
    uri = addresses.resolve(tracking)
    shown = addresses.mask(uri)
    _calm_mlflow(uri)
    path = addresses.sqlite_path(uri)
    if path is not None:
        if not addresses.tables(path):
            return None
        _check_tables(path)
    with one_sentence(shown):
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        found = client.get_experiment_by_name(tracking.experiment)
    return Store(client, str(found.experiment_id), shown) if found else None


def show_view(store: Store, page: StudyPage, lowest: int = -4) -> None:
    """Gives the experiment the view of a study, and a description that leads there.

    A description that somebody else has written stays.

    Args:
        lowest: as of `view_tag`.
    """
    with one_sentence(store.uri):
        experiment = store.client.get_experiment(store.experiment_id)
        tags = dict([view_tag(page, experiment.creation_time or 0, lowest)])
        if experiment.tags.get(NOTE_TAG, _ABOUT).startswith(_ABOUT):
            link = f"[runs of the study {page.name}]({_page(store, page.name)})"
            tags[NOTE_TAG] = f"{_ABOUT} Latest: {link}"
        for name, value in tags.items():
            if experiment.tags.get(name) != value:
                _set_tag(store, name, value)


def _set_tag(store: Store, name: str, value: str) -> None:
    """Gives the experiment a tag, also where another process is just giving it that one.

    Both find none, and both add a row; the store refuses the second, which then finds the first's.
    """
    try:
        store.client.set_experiment_tag(store.experiment_id, name, value)
    except MlflowException as error:
        if "unique constraint" not in f"{error} {_innermost(error)}".lower():
            raise
        store.client.set_experiment_tag(store.experiment_id, name, value)


def how_to_look(store: Store, study: str | None = None, *, run_id: str | None = None) -> list[str]:
    """The command and the address that show the runs, or one run.

    Args:
        study: whose view is shown; None: MLflow's own.
        run_id: whose page is shown; of a study's own run, which has the answer, before the view.
    """
    own = [] if run_id is None else [_run_page(store, run_id)]
    pages = own if own and study is None else [*own, _page(store, study)]
    if _is_server(store.uri):
        return [f"{store.uri.rstrip('/')}/{page}" for page in pages]
    where = "" if store.is_default else f" --backend-store-uri {shlex.quote(store.uri)}"
    words = ("  then open", "  all runs: ")
    shown = [f"{word} {_AT_HOME}/{page}" for word, page in zip(words, pages, strict=False)]
    return [f"mlflow ui{where}", *shown]


def run_address(store: Store, run_id: str, artifact: str = "") -> str:
    """The address of a run's page, or of one of its artifacts there; of a file, at `mlflow ui`."""
    base = store.uri.rstrip("/") if store.uri.startswith("http") else _AT_HOME
    return f"{base}/{_run_page(store, run_id, artifact)}"


def _run_page(store: Store, run_id: str, artifact: str = "") -> str:
    where = f"/artifacts/{artifact}" if artifact else ""
    return f"#/experiments/{store.experiment_id}/runs/{run_id}{where}?{page_query(None)}"


def _page(store: Store, study: str | None) -> str:
    return f"#/experiments/{store.experiment_id}/runs?{page_query(study)}"


def one_sentence(shown: str) -> AbstractContextManager[None]:
    """Turns what MLflow and those below it raise into one of this program's errors.

    Args:
        shown: the store's address without its password.
    """
    return errors.translated(dict.fromkeys(_FAULTS, lambda error: _fault(error, shown)))


def _fault(error: Exception, shown: str) -> MlpError:
    """The error for a fault; its text is all there is to tell one from another."""
    said = addresses.mask(_innermost(error))
    if "database is locked" in said:
        return BusyError(f"another program holds the tracking store {shown}; close it or try again")
    if "disk I/O error" in said:  # it may pass; whoever can try again does
        return UnavailableError(f"the tracking store {shown} failed: disk I/O error")
    if "out-of-date database schema" in said:
        return StoreError(_other_version(shown))
    if "No space left" in said or "disk is full" in said:
        return StoreError(f"no space is left for the tracking store {shown}; free some")
    if isinstance(error, ImportError):
        return StoreError(f"the tracking store {shown} needs a package: {one_line(said)}")
    if _is_server(shown) and _is_outage(error):
        known = _OUTAGE.search(said)
        return UnavailableError(
            f"the tracking store {shown} does not answer: {known[0] if known else one_line(said)}"
        )
    return StoreError(f"the tracking store {shown} failed: {one_line(said)}")


def _innermost(error: BaseException) -> str:
    """The text of the first cause, without SQLAlchemy's statement and MLflow's wrapping."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(getattr(error, "orig", None) or error)


def _is_server(shown: str) -> bool:
    return addresses.sqlite_path(shown) is None


def _is_outage(error: Exception) -> bool:
    """Whether to try again later may help."""
    if not isinstance(error, MlflowException):
        return True
    return int(error.get_http_status_code()) >= 500


def _other_version(shown: str) -> str:
    return (
        f"the tracking store {shown} was made by another version of MLflow; "
        f"make a copy of it, then run: mlflow db upgrade {shown}"
    )


def _calm_mlflow(uri: str) -> None:
    """No chatter about tables, no traceback of what is told in a sentence, no minutes of waiting.

    What the user has set in the environment stays, but for the number of retries.
    """
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    logging.getLogger("psycopg").setLevel(logging.CRITICAL)  # of a call that failed and is repeated
    if uri.startswith("http"):
        # MLflow sends a request again whose answer was lost, and then a run is there twice. Who
        # calls looks first whether it is.
        os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        # A server must not send this process to services that only this process can reach.
        os.environ.setdefault("MLFLOW_ALLOW_HTTP_REDIRECTS", "false")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")


def _make_sqlite(path: Path) -> None:
    """Makes the file whole and only then gives it its name.

    Making the tables takes seconds. Two processes that do it in the same file break it for good,
    and so does one that is killed meanwhile.
    """
    if addresses.tables(path):
        _check_tables(path)
        return
    with _naming(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with addresses.only_one(path.parent):
        if addresses.tables(path):
            return
        for left in path.parent.glob(f".{glob.escape(path.name)}.*.new"):  # by one that was killed
            shutil.rmtree(left)
        with _naming(path.parent):
            made_in = TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.", suffix=".new")
        with made_in as folder:
            draft = Path(folder) / path.name
            draft.touch()  # fails at once where MLflow would try for two minutes
            made = SqlAlchemyStore(f"sqlite:///{draft}", _artifacts(path))
            made.engine.dispose()
            draft.rename(path)


@contextmanager
def _naming(folder: Path) -> Iterator[None]:
    """Names the folder, which the user knows, and not the file that was to be made in it."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"cannot write to {folder}: {error.strerror}") from None


def _check_tables(path: Path) -> None:
    """Refuses what MLflow would quietly turn into a store of its own or of today's version."""
    missing = set(Tables.metadata.tables) - addresses.tables(path)
    if missing and "alembic_version" in addresses.tables(path):
        raise StoreError(_other_version(f"sqlite:///{path}"))
    if missing:
        raise StoreError(
            f"{path} is a database of another program; choose another file by tracking.uri"
        )


def _experiment(client: MlflowClient, name: str, path: Path | None, shown: str) -> str:
    """The id of the experiment, which another process may be making at the same time."""
    found = client.get_experiment_by_name(name)
    if found is None:
        # MLflow's own default is ./mlruns of whoever comes first; beside the file it is found.
        location = f"{_artifacts(path)}/{re.sub(r'[^a-zA-Z0-9-]', '_', name)}" if path else None
        try:
            return str(client.create_experiment(name, artifact_location=location, tags=_KIND))
        except MlflowException:
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise StoreError(
            f"the experiment {name!r} in {shown} was deleted; choose another by "
            f"tracking.experiment, or run: mlflow experiments restore -x {found.experiment_id}"
        )
    if path is not None and found.artifact_location.startswith("mlflow-artifacts:"):
        raise StoreError(
            f"the experiment {name!r} in {shown} was made through a tracking server, which keeps "
            "its files; choose another by tracking.experiment, or the server by tracking.uri"
        )
    return str(found.experiment_id)


def _artifacts(path: Path) -> str:
    return (path.parent / "mlruns").as_uri()
