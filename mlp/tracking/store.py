"""The tracking store: opened, written to, and what is wrong with it said in one sentence.

Importing this imports MLflow, which takes seconds; so it is imported where tracking begins and not
before. Runs are named by their ids everywhere; there is no active run, so that one background
thread can record while another trains.

Recording is safe to repeat: a run is found again by its key, and its points carry the time of the
training, so that MLflow knows the same points when they come twice.
"""

import glob
import logging
import math
import os
import re
import shlex
import shutil
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

# Who trains at home expects nothing to be sent anywhere; MLflow reads these when it is imported.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

from google.protobuf.json_format import ParseError
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

# Private: no public call makes a store in a file without leaving it open, or says which tables it
# has. tests/tracking/test_runs.py tells when they break.
from mlflow.store.db.base_sql_model import Base as Tables
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from requests import RequestException
from sqlalchemy.exc import SQLAlchemyError

from mlp import addresses, errors
from mlp.config import Tracking, canonical_json
from mlp.errors import (
    BusyError,
    MissingInputError,
    MlpError,
    StoreError,
    UnavailableError,
    one_line,
)
from mlp.tracking import display, record
from mlp.tracking.listing import (
    EXPLAINS,
    KEY,
    NOTE_TAG,
    STUDY,
    Listing,
    StudyPage,
    checked_key,
    explanation_key,
    page_query,
    study_key,
    trial_key,
    view_tag,
)

_AT_HOME = "http://127.0.0.1:5000"  # where `mlflow ui` is, typed without a port
_KIND = {"mlflow.experimentKind": "custom_model_development"}  # else the UI guesses, often GenAI
_ABOUT = "Small networks that tell threes from sevens."
# What says it all, out of a text of many lines.
_OUTAGE = re.compile(
    r"too many \d+ error responses|[Cc]onnection refused|timed? ?out|Name or service not known"
)

# Of an answer that is JSON, but not what MLflow expects, protobuf raises an error of its own.
_FAULTS = (MlflowException, RequestException, SQLAlchemyError, OSError, ImportError, ParseError)

STUDY_FILE = "study.json"

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]

_MOST_TWINS = 10
_PAGE = 1000  # runs of one answer

_LONGEST_PARAM, _LONGEST_NAME = 6000, 250  # MLflow's own limits
_DATASET_DIGEST = 36  # of the 64 hex digits; MLflow takes no more
_UNNAMEABLE = re.compile(r"[^\w./: -]")  # it refuses these in a param's name

_PARENT = "mlflow.parentRunId"
_ANSWER, _CAUSES = "mlp.answer", "mlp.causes"
_END_OF_ANSWER = "\n\n---\n\n"  # in a note; what stands behind it is not the answer's


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


def start_study(store: Store, page: StudyPage) -> str:
    """The parent run of a study: the one that is there, or a new one; RUNNING in both cases.

    The study's settings become params, which MLflow never changes: of a study that is continued
    only new ones are added. The current ones are in `study.json`.
    """
    tags = {STUDY: page.name, NOTE_TAG: page.description}
    run = _started(store, study_key(page.key), page.name, tags)
    shown = as_params(display.study_params(page.config, page.searched))
    params = [param for param in shown if param.key not in run.data.params]
    with one_sentence(store.uri):
        store.client.log_batch(run.info.run_id, params=params)
        store.client.log_text(run.info.run_id, canonical_json(page.config), STUDY_FILE)
    return str(run.info.run_id)


def start_explanation(store: Store, *, key: str, name: str, parent: str | None) -> str:
    """The run whose files are reruns: the one that is there, or a new one; RUNNING likewise.

    Args:
        key: of the study or run that is explained.
        parent: id of the run that is explained, or of the study's, if it has one.
    """
    tags = {EXPLAINS: key, **({} if parent is None else {_PARENT: parent})}
    return str(_started(store, explanation_key(key), name, tags).info.run_id)


def _started(store: Store, key: str, name: str, tags: Mapping[str, str]) -> Run:
    """The run of a key, made if it is not there; RUNNING, and with the tags of today."""
    tags = {**tags, KEY: key, **display.environment_tags()}
    with one_sentence(store.uri):
        run = find_run(store, key)
        if run is None:
            return store.client.create_run(store.experiment_id, tags=tags, run_name=name)
        if run.info.status != "RUNNING":
            store.client.update_run(run.info.run_id, status="RUNNING")
        store.client.log_batch(run.info.run_id, tags=_as_tags(tags))
    return run


def upload_run(store: Store, folder: Path, listing: Listing, parent_id: str | None) -> str:
    """Uploads a record's folder as it lies; a run that is already recorded stays as it is.

    Args:
        parent_id: id of the run that it is shown below; None: of none.

    Returns:
        The id of the run, which has ended as FINISHED; a verdict is no failure.
    """
    tags = dict(listing.tags)
    if parent_id is not None:
        tags[_PARENT] = parent_id
    with one_sentence(store.uri):
        known = find_run(store, listing.key)
        if known is not None and known.info.status == "FINISHED":
            return str(known.info.run_id)
        made = known or store.client.create_run(
            store.experiment_id, start_time=listing.started_ms, tags=tags, run_name=listing.name
        )
        run_id = str(made.info.run_id)
        tags = {**(tags if known else {}), NOTE_TAG: listing.note_of(run_id)}
        store.client.log_batch(
            run_id,
            metrics=[Metric(*point) for point in listing.points],
            params=as_params(listing.params),
            tags=_as_tags(tags),
        )
        store.client.log_inputs(run_id, datasets=[_dataset(listing)])
        # As the client's own `log_artifact`, which would ask for the run first.
        files = get_artifact_repository(made.info.artifact_uri, store.client.tracking_uri)
        for file in record.artifacts_in(folder):
            files.log_artifact(str(file))
        store.client.set_terminated(run_id, "FINISHED", end_time=listing.ended_ms)
    return run_id


def update_run(
    store: Store,
    run_id: str,
    *,
    metrics: Mapping[str, float] | None = None,
    tags: Mapping[str, str] | None = None,
    files: Mapping[str, str] | None = None,
    step: int = 0,
) -> None:
    """Adds to a run or to the parent run of a study; non-finite metrics are left out.

    `files` are artifacts: name -> text; one of the same name is replaced.
    """
    now = _now_ms()
    points = [
        Metric(name, float(value), now, step)
        for name, value in (metrics or {}).items()
        if math.isfinite(value)
    ]
    with one_sentence(store.uri):
        store.client.log_batch(run_id, metrics=points, tags=_as_tags(tags or {}))
        for name, text in (files or {}).items():
            store.client.log_text(run_id, text, name)


def finish(store: Store, run_id: str, status: Status) -> None:
    """Ends a run now, with the status that is true."""
    with one_sentence(store.uri):
        store.client.set_terminated(run_id, status, end_time=_now_ms())


def recorded_trials(store: Store, key: str) -> dict[int, str | None]:
    """A study's trials that have a finished run, or had one that a person deleted.

    A trial that has a second run, because an answer of the server was lost, loses it.

    Returns:
        Their numbers, with the id of the run that was deleted; None: it is there.
    """
    start = trial_key(key, "")
    with one_sentence(store.uri):
        runs: dict[int, list[Run]] = defaultdict(list)
        for run in all_runs(store, f"tags.`{KEY}` LIKE '{start}%'", view=ViewType.ALL):
            number = run.data.tags[KEY].removeprefix(start)
            if number.isdigit():  # not the study's own run, nor one whose key LIKE took for alike
                runs[int(number)].append(run)
        for same in runs.values():
            _one_of(store, [run for run in same if run.info.lifecycle_stage == "active"])
    finished = {
        n: [r.info for r in same if r.info.status == "FINISHED"] for n, same in runs.items()
    }
    return {
        n: None if any(i.lifecycle_stage == "active" for i in same) else str(same[0].run_id)
        for n, same in finished.items()
        if same
    }


def left_running(store: Store) -> dict[str, str | None]:
    """Id of each run of this program that says RUNNING -> its study, None if it has none."""
    running = f"attributes.status = 'RUNNING' AND tags.`{KEY}` LIKE '%'"
    with one_sentence(store.uri):
        found = all_runs(store, running, view=ViewType.ACTIVE_ONLY)
        return {run.info.run_id: run.data.tags.get(STUDY) for run in found}


def end_stale(store: Store, run_id: str) -> None:
    """Ends a run that nobody works on as KILLED, or as a second run of the same trial."""
    with one_sentence(store.uri):
        run = store.client.get_run(run_id)
        kept = find_run(store, run.data.tags[KEY])
        if kept is not None and kept.info.status == "RUNNING":
            store.client.set_terminated(kept.info.run_id, "KILLED", end_time=_now_ms())


def find_key(store: Store, key: str) -> str | None:
    """The id of the run with that key; None if the store has none."""
    with one_sentence(store.uri):
        run = find_run(store, key)
    return str(run.info.run_id) if run else None


def get_run(store: Store, run_id: str) -> Run:
    """MLflow's own view of a run."""
    try:
        return store.client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise MissingInputError(f"there is no run {run_id} in {store.uri}") from None


def find_run(store: Store, key: str) -> Run | None:
    """The run of a key; of several, which an answer that was lost may have made, one stays.

    Args:
        key: made of letters, digits, `_`, `.`, `-` and `/`.
    """
    found = store.client.search_runs(
        [store.experiment_id],
        filter_string=f"tags.`{KEY}` = '{checked_key(key)}'",
        max_results=_MOST_TWINS,
    )
    return _one_of(store, list(found))


def _one_of(store: Store, twins: list[Run]) -> Run | None:
    """The finished one of several runs of one trial; the others go to MLflow's dustbin."""
    twins.sort(key=lambda run: (run.info.status != "FINISHED", run.info.run_id))
    for twin in twins[1:]:
        store.client.delete_run(twin.info.run_id)
    return twins[0] if twins else None


def all_runs(
    store: Store,
    condition: str,
    experiment_id: str | None = None,
    *,
    view: int = ViewType.ACTIVE_ONLY,
    newest_first: bool = False,
    most: float = math.inf,
) -> Iterator[Run]:
    """The runs that meet a condition, page by page.

    Args:
        experiment_id: of another experiment than the store's own.
        most: no further page is asked for after so many runs.
    """
    token, n = None, 0
    while n < most:
        page = store.client.search_runs(
            [experiment_id or store.experiment_id],
            condition,
            view,
            max_results=_PAGE,
            order_by=["attributes.start_time DESC"] if newest_first else [],
            page_token=token,
        )
        yield from page
        n, token = n + len(page), page.token
        if not token:
            return


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def as_params(settings: Mapping[str, Any]) -> list[Param]:
    """Settings as params; the branches of a space may be called what no param can be, `[3,3]`."""
    named = {_cut(_UNNAMEABLE.sub("_", name), _LONGEST_NAME): v for name, v in settings.items()}
    return [Param(name, _cut(value, _LONGEST_PARAM)) for name, value in named.items()]


def _as_tags(texts: Mapping[str, str]) -> list[RunTag]:
    """Name -> text as tags, those that are too long cut."""
    return [RunTag(name, _cut(text, display.LONGEST_TAG)) for name, text in texts.items()]


def _dataset(listing: Listing) -> DatasetInput:
    """What the run was trained on, as MLflow's lists show it."""
    data = listing.data
    made = Dataset(
        name=data["name"],
        digest=data["digest"][:_DATASET_DIGEST],
        source_type="code",
        source=data["source"],
        profile=data["profile"],
    )
    return DatasetInput(made, tags=[InputTag("mlflow.data.context", "training")])


def _cut(value: Any, most: int) -> str:
    text = str(value)
    return text if len(text) <= most else text[: most - 3] + "..."


def log_text(store: Store, run_id: str, text: str, name: str) -> None:
    """Adds a text to a run's artifacts; an older one of that name is replaced."""
    with one_sentence(store.uri):
        store.client.log_text(run_id, text, name)


def describe_answer(
    store: Store, run_ids: Iterable[str], *, sentences: Sequence[str], causes: Sequence[str]
) -> None:
    """Puts the answer where people look: first in a run's note, and in tags to filter by.

    What the note said before stays below it; an earlier answer goes.
    """
    named = ", ".join(dict.fromkeys(causes)) or "none shown"
    with one_sentence(store.uri):
        for run_id in run_ids:
            before = store.client.get_run(run_id).data.tags
            note = before.get(NOTE_TAG, "")
            earlier = _shown(before.get(_ANSWER, ""))
            rest = note.removeprefix(earlier).removeprefix(_END_OF_ANSWER) if earlier else note
            tags = {_CAUSES: named, _ANSWER: "\n\n".join(sentences)}
            tags[NOTE_TAG] = _below(tags, rest)
            store.client.log_batch(
                run_id,
                tags=[RunTag(name, text[: display.LONGEST_TAG]) for name, text in tags.items()],
            )


def below_answer(store: Store, run_id: str, note: str) -> str:
    """A new note of a run with the answer before it, if an explanation has given one."""
    with one_sentence(store.uri):
        tags = store.client.get_run(run_id).data.tags
    return _below(tags, note)


def _below(tags: Mapping[str, str], note: str) -> str:
    answer = _shown(tags.get(_ANSWER, ""))
    return f"{answer}{_END_OF_ANSWER}{note}" if answer and note else answer or note


def _shown(answer: str) -> str:
    first, *rest = answer.split("\n\n")
    return "\n\n".join([f"**{first}**", *rest]) if answer else ""
