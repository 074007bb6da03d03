"""Uploads finished runs from the spool to MLflow: the one way from training to tracking.

In the background while a sweep or an explanation trains; at once for a single run.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from mlp import errors
from mlp.config import Tracking
from mlp.errors import (
    BusyError,
    MissingInputError,
    MlpError,
    RecordError,
    StoreError,
    UnavailableError,
    patiently,
)
from mlp.tracking import spool
from mlp.tracking.batch import BATCH_FILE, read_batch
from mlp.tracking.display import ThinCurve, thin
from mlp.tracking.listing import (
    EXPLAINS,
    NOTE_TAG,
    TRIAL,
    Label,
    StudyPage,
    explanation_key,
    read_listing,
    trial_key,
)
from mlp.tracking.record import RunRecord, read_record, read_text

if TYPE_CHECKING:  # importing MLflow takes seconds, so the background thread does it
    from mlp.tracking.read import TrackedRun
    from mlp.tracking.store import Status, Store


_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0  # between two tries while the sweep goes on
_SLOWEST_S = 15.0  # for one job, when nothing else is left to do; of SQLite one takes 0.2
_SIGNAL_PATIENCE_S = 3.0  # whoever sends SIGTERM waits a few seconds before SIGKILL


@dataclass(eq=False)
class Job:
    """Something to be done with the store, again until it works.

    Attributes:
        do: safe to be done twice.
        is_vital: whether it is done even after `give_up`.
        is_done: that it is over, one way or another.
    """

    do: Callable[[], None]
    is_vital: bool = False
    is_done: threading.Event = field(default_factory=threading.Event)


class Drain:
    """One background thread that uploads what lies in the spool, while others train.

    It owns the tracking store for that time, and opens it too (a new MLflow database takes
    seconds). Jobs are done one after the other, each again until it works; whoever adds one goes on
    at once. So a store that fails stops nothing: what is finished stays in the spool, and `problem`
    says why it is still there. Only paths wait in memory.

    Attributes:
        run_ids: trial number -> MLflow run id, of those uploaded or described by this object.
        parent_id: id of the run above them; None until the store is open.
        how_to_serve: command that serves the model that was logged; None: none was.
        deleted: trial number -> id of its run, which a person deleted; known after `missing`.
        n_given: runs that were handed over, each rerun of a batch counted.
    """

    def __init__(self, key: str, begin: Callable[[], tuple["Store", str]]) -> None:
        """Starts opening the store.

        Args:
            key: of the study or run that is trained or explained.
            begin: opens the store and finds or makes the parent run, whose id it gives; safe to be
                done twice.
        """
        self.run_ids: dict[int, str] = {}
        self.parent_id: str | None = None
        self.how_to_serve: str | None = None
        self.deleted: dict[int, str] = {}
        self.n_given = 0
        self._key = key
        self._store: Store | None = None
        self._outage: MlpError | None = None
        self._refusal: MlpError | None = None
        self._bug: Exception | None = None
        self._hurried_at: float | None = None
        self._is_over = False
        self._news = threading.Condition()  # of what follows, which both threads change
        self._jobs: deque[Job] = deque()

        def opened() -> None:
            self._store, self.parent_id = begin()

        self._jobs.append(Job(opened, is_vital=True))
        # A store that hangs must not keep the process: what it has not taken lies in the spool.
        threading.Thread(target=self._work, name="drain", daemon=True).start()

    @property
    def problem(self) -> MlpError | None:
        """Why something is not uploaded; None while all is well, and again after an outage."""
        return self._outage or self._refusal

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Ends the thread; what is not uploaded by now stays in the spool."""
        self._end()
        if error is None:
            self._raise_bug()

    def add(self, place: Path, n: int = 1) -> None:
        """Hands over a run, or a batch of `n`, that lies in the spool; returns at once."""
        self.n_given += n

        def upload(store: "Store") -> None:
            run_id, tags = _upload(store, place, self.parent_id)
            if TRIAL in tags:
                self.run_ids[int(tags[TRIAL])] = run_id

        self._add(upload)

    def describe(
        self,
        *,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
        files: Mapping[str, str] | None = None,
        of_trial: int | None = None,
        step: int = 0,
    ) -> None:
        """Adds metrics, at a step, tags and files to the parent run or an uploaded trial's run."""

        def describe(store: "Store") -> None:
            from mlp.tracking.store import update_run

            run_id = self.parent_id if of_trial is None else self._run_id(store, of_trial)
            if run_id is not None:
                update_run(store, run_id, metrics=metrics, tags=tags, files=files, step=step)

        self._add(describe)

    def addresses(self) -> dict[int, str]:
        """Trial number -> address of its run's page, of those that this object has uploaded."""
        if self._store is None:
            return {}
        from mlp.tracking.store import run_address

        return {n: run_address(self._store, run_id) for n, run_id in self.run_ids.items()}

    def how_to_look(self, study: str) -> list[str]:
        """Commands and addresses that show the runs; none where the store was not opened."""
        if self._store is None:
            return []
        from mlp.tracking.store import how_to_look

        return how_to_look(self._store, study, run_id=self.parent_id)

    def missing(self, numbers: Collection[int]) -> list[int]:
        """Which of these trials the store has no finished run of; waits for what came before.

        Returns:
            Their numbers in order; none where the store fails.
        """
        found: list[int] = []

        def look(store: "Store") -> None:
            from mlp.tracking.store import recorded_trials

            recorded = recorded_trials(store, self._key)
            self.deleted = {number: run_id for number, run_id in recorded.items() if run_id}
            found.extend(sorted(set(numbers) - recorded.keys()))

        self._wait(self._add(look))
        return found

    def fetch(self, number: int) -> "TrackedRun | None":
        """The recorded run of a trial; None where there is none that can be used."""
        found: list[TrackedRun] = []

        def fetch(store: "Store") -> None:
            from mlp.tracking.read import fetch_run

            run_id = self._run_id(store, number)
            if run_id is not None:
                with suppress(RecordError, MissingInputError):
                    found.append(fetch_run(store, run_id))

        self._wait(self._add(fetch))
        return found[0] if found else None

    def log_model(
        self, number: int, *, name: str, example: NDArray[np.uint8], register: str | None
    ) -> None:
        """Makes a model of an uploaded trial's network, and registers it where a name is given."""

        def log(store: "Store") -> None:
            from mlp.tracking.model import log_model, serve_command

            run_id = self.run_ids.get(number)
            if run_id is not None:
                uri = log_model(store, run_id, name=name, example=example, register=register)
                self.how_to_serve = serve_command(store, uri)

        self._add(log)

    def draw(self, file: str, picture: Callable[[Callable[[int], ThinCurve]], str]) -> None:
        """Adds a picture to the parent run, once the trials are uploaded.

        Args:
            picture: given what reads the loss of a trial from its run, its text; a trial without a
                run has no points.
        """

        def draw(store: "Store") -> None:
            from mlp.tracking.read import read_points
            from mlp.tracking.store import update_run

            def curve_of(number: int) -> ThinCurve:
                run_id = self._run_id(store, number)
                return read_points(store, run_id, "loss") if run_id else thin([], [])

            update_run(store, str(self.parent_id), files={file: picture(curve_of)})

        self._add(draw)

    def show(self, page: StudyPage, lowest: int) -> None:
        """Replaces the study's view; the power of ten at which the axis of the loss begins."""

        def show(store: "Store") -> None:
            from mlp.tracking.store import show_view

            show_view(store, page, lowest)

        self._add(show)

    def annotate(self, note: Callable[[str, str], str], of_trial: int) -> None:
        """Describes the parent run, once its best trial is uploaded.

        Args:
            note: from the experiment's and the trial's run id to Markdown.
        """

        def annotate(store: "Store") -> None:
            from mlp.tracking.store import below_answer, update_run

            run_id = self._run_id(store, of_trial)
            if run_id is not None:
                said, parent = note(store.experiment_id, run_id), str(self.parent_id)
                update_run(store, parent, tags={NOTE_TAG: below_answer(store, parent, said)})

        self._add(annotate)

    def finish(self, status: "Status") -> None:
        """Uploads what is left and sets the parent run's status; waits until both are done.

        A store that fails is tried for a few seconds more.
        """
        self._wait(self._add(self._ending(status), is_vital=True))
        self._raise_bug()

    def give_up(self, status: "Status") -> None:
        """Sets the parent run's status, without the runs that are left, within a few seconds."""
        with self._news:
            self._jobs = deque(job for job in self._jobs if job.is_vital)
        job = self._add(self._ending(status), is_vital=True)
        self._hurry()
        job.is_done.wait(_SIGNAL_PATIENCE_S)

    def _ending(self, status: "Status") -> "Callable[[Store], None]":
        def end(store: "Store") -> None:
            from mlp.tracking.store import finish

            finish(store, str(self.parent_id), status)

        return end

    def _add(self, do: "Callable[[Store], None]", *, is_vital: bool = False) -> Job:
        """Adds a job at the end; after the end of the thread it is over at once."""

        def with_store() -> None:
            assert self._store is not None  # the first job has opened it
            do(self._store)

        job = Job(with_store, is_vital)
        with self._news:
            if self._is_over:
                job.is_done.set()
            else:
                self._jobs.append(job)
            self._news.notify_all()
        return job

    def _wait(self, job: Job) -> None:
        """Waits until a job is over, or the store hangs where not even a time limit ends it.

        Meanwhile a store that fails is tried for a few seconds only.
        """
        self._hurry()
        n_left = len(self._jobs)
        while not job.is_done.wait(4 * _SLOWEST_S):
            if len(self._jobs) == n_left:
                self._outage = UnavailableError("the tracking store does not answer")
                return
            n_left = len(self._jobs)
        self._hurried_at = None

    def _hurry(self) -> None:
        with self._news:
            self._hurried_at = time.monotonic()
            self._news.notify_all()

    def _end(self) -> None:
        """Begins no further job or try."""
        with self._news:
            self._is_over = True
            self._news.notify_all()

    def _raise_bug(self) -> None:
        """Raises what a job raised that is no error of this program's own."""
        if self._bug is not None:
            raise self._bug

    def _run_id(self, store: "Store", of_trial: int) -> str | None:
        """Of an uploaded trial, by this process or an earlier one."""
        from mlp.tracking.store import find_key

        run_id = self.run_ids.get(of_trial) or find_key(store, trial_key(self._key, str(of_trial)))
        if run_id is not None:
            self.run_ids[of_trial] = run_id
        return run_id

    # What follows runs in the thread.

    def _work(self) -> None:
        while (job := self._next()) is not None:
            is_over = self._do(job)
            with self._news:
                if is_over and self._jobs and self._jobs[0] is job:
                    self._jobs.popleft()
                self._is_over |= not is_over
            job.is_done.set()
        for job in self._jobs:  # let go whoever waits
            job.is_done.set()

    def _next(self) -> Job | None:
        with self._news:
            while not self._jobs and not self._is_over:
                self._news.wait()
            return None if self._is_over else self._jobs[0]

    def _do(self, job: Job) -> bool:
        """Tries a job until it is over or given up; False: there is to be no further try."""
        started, pause_s = time.monotonic(), _FIRST_PAUSE_S
        while not self._attempt(job):
            if not self._pause(pause_s, started):
                return False
            if job not in self._jobs:  # given up meanwhile
                return True
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        return True

    def _attempt(self, job: Job) -> bool:
        """Whether a job is over; False: it is worth another try."""
        started, was_open = time.monotonic(), self._store is not None
        try:
            job.do()
        except RecordError as error:  # of one trial's folder; the others have nothing to do with it
            self._refusal = error
        except MlpError as error:
            self._outage = error
            return False
        except Exception as error:  # noqa: BLE001  raised again in the main thread
            self._bug = error
            self._end()
            return True
        self._outage = None
        took_s = time.monotonic() - started
        is_last = len(self._jobs) == 1  # then nothing is left that a slow store could hold up
        if self._hurried_at is not None and was_open and took_s > _SLOWEST_S and not is_last:
            self._outage = UnavailableError(f"the tracking store took {took_s:.0f} s for one run")
            self._end()
        return True

    def _pause(self, pause_s: float, failing_since: float) -> bool:
        """Waits for the next try; whether there is to be one."""
        started = time.monotonic()
        with self._news:
            while not self._is_over:
                now, hurried_at = time.monotonic(), self._hurried_at
                if hurried_at is not None:
                    if now - max(hurried_at, failing_since) > errors.PATIENCE_S:
                        return False
                    pause_s = errors.PAUSE_S
                if now - started >= pause_s:
                    return True
                self._news.wait(started + pause_s - now)
        return False


def study_below(tracking: Tracking, page: StudyPage) -> tuple["Store", str]:
    """Opens the store, and finds or makes the parent run of a study in it; gives its id."""
    from mlp.tracking.store import open_store, show_view, start_study

    store = open_store(tracking)
    parent = start_study(store, page)
    show_view(store, page)
    return store, parent


def drain(store: "Store", places: Iterable[Path]) -> tuple[int, list[str]]:
    """Uploads what lies in these folders of the spool, now.

    Returns:
        How many runs were uploaded, and a sentence for each folder that cannot be read.
    """
    n_uploaded, damaged = 0, []
    for place in places:
        try:
            if not (place / BATCH_FILE).exists():
                read_record(place)  # who knows how long it has lain there
            _upload(store, place, None)
            n_uploaded += 1
        except RecordError as error:
            damaged.append(f"{place.name} ({error})")
    return n_uploaded, damaged


def record_run(
    opened: Callable[[], "Store"], record: RunRecord, label: Label, *, remedy: str
) -> tuple["Store", str]:
    """Uploads a run that belongs to no study; what the store does not take stays in the spool.

    Args:
        opened: opens the store; safe to be done twice.
        remedy: the command that uploads it later.

    Raises:
        MlpError: what is wrong with the store, and how the run gets there later.
    """
    place = spool.put_single((record, label))
    kept = f"the run is kept in {place.parent}, and this publishes it: {remedy}"

    def upload() -> tuple["Store", str]:
        store = opened()
        return store, _upload(store, place, None)[0]

    try:
        return patiently(upload)
    except (BusyError, StoreError, UnavailableError) as error:
        raise type(error)(f"{error}; {kept}") from None
    except KeyboardInterrupt as stopped:
        if place.exists():
            stopped.add_note(kept)
        raise
    finally:
        spool.leave(place.parent)


def _upload(store: "Store", place: Path, parent_id: str | None) -> tuple[str, Mapping[str, str]]:
    """Uploads the folder of a run and removes it; gives MLflow's id of the run, and its tags.

    Of a batch of reruns these are the id of the explanation, and none.
    """
    from mlp.tracking.store import find_key, log_text, upload_run

    if (place / BATCH_FILE).exists():
        text = read_text(place / BATCH_FILE)
        batch = read_batch(text)
        run_id = parent_id or find_key(store, explanation_key(batch.key))
        if run_id is None:
            raise RecordError("it explains a run of another experiment: tracking.experiment=NAME")
        log_text(store, run_id, text, batch.name)
        spool.drop(place)
        return run_id, {}
    listing = read_listing(place)
    if parent_id is None and listing.parent is not None:
        parent_id = find_key(store, listing.parent)
        if parent_id is None and EXPLAINS in listing.tags:
            raise RecordError("it explains a run of another experiment: tracking.experiment=NAME")
    run_id = upload_run(store, place, listing, parent_id)
    spool.drop(place)
    return run_id, listing.tags
