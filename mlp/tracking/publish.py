"""Publishes finished trials to MLflow in the background, while the next generation trains."""

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from mlp.config import Tracking
from mlp.errors import BusyError, MlpError, RecordError, StoreError, UnavailableError
from mlp.tracking import spool
from mlp.tracking.record import RunRecord
from mlp.tracking.spool import TRIAL, Label, StudyPage
from mlp.tracking.view import NOTE_TAG

if TYPE_CHECKING:  # importing MLflow takes seconds, so the background thread does it
    from mlp.tracking.runs import Status
    from mlp.tracking.store import Store


_T = TypeVar("_T")

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0  # between two tries while the sweep goes on
_LAST_PATIENCE_S = 5.0  # with a store that fails when nothing else is left to do
_LAST_PAUSE_S = 0.5
_SLOWEST_S = 15.0  # for one job, when nothing else is left to do; of SQLite one takes 0.2
_SIGNAL_PATIENCE_S = 3.0  # whoever sends SIGTERM waits a few seconds before SIGKILL


@dataclass(eq=False)
class Job:
    """Something to be done with the store, again until it works.

    Attributes:
        do: safe to be done twice.
        is_vital: whether it is done even when nothing more is to be published.
        is_done: that it is over, one way or another.
    """

    do: Callable[[], None]
    is_vital: bool
    is_done: threading.Event


class JobQueue:
    """Jobs done one after the other by one background thread, each again until it works.

    Whoever adds a job goes on at once. A store that fails stops nothing but this.
    """

    def __init__(self, is_open: Callable[[], bool]) -> None:
        """Starts the thread.

        Args:
            is_open: whether the store has been opened; until then a job may take its time.
        """
        self._is_open = is_open
        self._outage: MlpError | None = None
        self._refusal: MlpError | None = None
        self._bug: Exception | None = None
        self._jobs: deque[Job] = deque()
        self._news = threading.Condition()
        self._hurried_at: float | None = None
        self._is_over = False
        # A store that hangs must not keep the process: what it has not taken lies in the spool.
        threading.Thread(target=self._work, name="publish", daemon=True).start()

    @property
    def problem(self) -> MlpError | None:
        """Why something is not done; None while all is well, and again after an outage."""
        return self._outage or self._refusal

    def add(self, do: Callable[[], None], *, is_vital: bool = False) -> Job:
        """Adds a job at the end; after the end of the queue it is over at once.

        Args:
            do: safe to be done twice.
            is_vital: whether it is done even after `give_up`.
        """
        job = Job(do, is_vital, threading.Event())
        with self._news:
            if self._is_over:
                job.is_done.set()
            else:
                self._jobs.append(job)
            self._news.notify_all()
        return job

    def wait(self, job: Job) -> None:
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

    def give_up(self, last: Callable[[], None]) -> None:
        """Drops what is not vital, and gives the rest and a last job a few seconds."""
        with self._news:
            self._jobs = deque(job for job in self._jobs if job.is_vital)
        job = self.add(last, is_vital=True)
        self._hurry()
        job.is_done.wait(_SIGNAL_PATIENCE_S)

    def end(self) -> None:
        """Begins no further job or try."""
        with self._news:
            self._is_over = True
            self._news.notify_all()

    def raise_bug(self) -> None:
        """Raises what a job raised that is no error of this program's own."""
        if self._bug is not None:
            raise self._bug

    def _hurry(self) -> None:
        with self._news:
            self._hurried_at = time.monotonic()
            self._news.notify_all()

    # What follows runs in the thread.

    def _work(self) -> None:
        while (job := self._next()) is not None:
            started, pause_s = time.monotonic(), _FIRST_PAUSE_S
            while not self._attempt(job):
                if self._pause(pause_s, started):
                    self._stop()
                    return
                if job not in self._jobs:  # given up meanwhile
                    break
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            with self._news:
                if self._jobs and self._jobs[0] is job:
                    self._jobs.popleft()
            job.is_done.set()
        self._stop()

    def _next(self) -> Job | None:
        with self._news:
            while not self._jobs and not self._is_over:
                self._news.wait()
            return None if self._is_over else self._jobs[0]

    def _attempt(self, job: Job) -> bool:
        """Whether a job is over; False: it is worth another try."""
        started, was_open = time.monotonic(), self._is_open()
        try:
            job.do()
        except RecordError as error:  # of one trial's folder; the others have nothing to do with it
            self._refusal = error
        except MlpError as error:
            self._outage = error
            return False
        except Exception as error:  # noqa: BLE001  raised again in the main thread
            self._bug = error
            self.end()
            return True
        self._outage = None
        took_s = time.monotonic() - started
        if self._hurried_at is not None and was_open and took_s > _SLOWEST_S:
            self._outage = UnavailableError(f"the tracking store took {took_s:.0f} s for one run")
            self.end()
        return True

    def _pause(self, pause_s: float, failing_since: float) -> bool:
        """Waits for the next try; whether there is to be none."""
        started = time.monotonic()
        with self._news:
            while not self._is_over:
                now, hurried_at = time.monotonic(), self._hurried_at
                if hurried_at is not None:
                    if now - max(hurried_at, failing_since) > _LAST_PATIENCE_S:
                        return True
                    pause_s = _LAST_PAUSE_S
                if now - started >= pause_s:
                    return False
                self._news.wait(started + pause_s - now)
        return True

    def _stop(self) -> None:
        """Lets go whoever waits."""
        with self._news:
            self._is_over = True
            for job in self._jobs:
                job.is_done.set()


def patiently(job: Callable[[], _T]) -> _T:
    """Does something with a store that may be back in a moment.

    Args:
        job: safe to be done twice.
    """
    end = time.monotonic() + _LAST_PATIENCE_S
    while True:
        try:
            return job()
        except (BusyError, UnavailableError):
            if time.monotonic() > end:
                raise
            time.sleep(_LAST_PAUSE_S)


class Publisher:
    """One background thread that owns the tracking store for the length of a sweep.

    It is opened there too (a new MLflow database takes seconds). A store that fails stops nothing:
    what is finished stays in the spool, is tried again while the sweep goes on, and `problem` says
    why it is still there. Only numbers and paths wait in memory; the runs themselves lie on disk.

    Attributes:
        run_ids: trial number -> MLflow run id, of those published or described by this object.
        study_run_id: the parent run's id; None until the store is open.
        how_to_look: commands and addresses that show the runs; empty until the store is open.
        how_to_serve: command that serves the model that was logged; None: none was.
    """

    def __init__(self, tracking: Tracking, page: StudyPage) -> None:
        """Starts opening the store.

        Args:
            tracking: where to publish.
            page: of the study.
        """
        self.run_ids: dict[int, str] = {}
        self.study_run_id: str | None = None
        self.how_to_look: list[str] = []
        self.how_to_serve: str | None = None
        self._page = page
        self._store: Store | None = None
        self._queue = JobQueue(lambda: self._store is not None)
        self._queue.add(lambda: self._open(tracking), is_vital=True)

    @property
    def problem(self) -> MlpError | None:
        """Why something is not published; None while all is well, and again after an outage."""
        return self._queue.problem

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Ends the thread; what is not published by now stays in the spool."""
        self._queue.end()
        if error is None:
            self._queue.raise_bug()

    def publish(self, number: int, place: Path) -> None:
        """Hands over a finished trial; returns at once.

        Args:
            number: of the trial.
            place: its folder in the spool, removed once it is published.
        """
        self._queue.add(lambda: self._publish(number, place))

    def describe(
        self,
        *,
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        files: Mapping[str, str] | None = None,
        of_trial: int | None = None,
        step: int = 0,
    ) -> None:
        """Adds metrics, at a step, tags and files to the parent run or a published trial's run."""
        self._queue.add(lambda: self._describe(of_trial, metrics, tags, files, step))

    def missing(self, numbers: Collection[int]) -> list[int]:
        """Which of these trials the store has no finished run of; waits for what came before.

        Returns:
            Their numbers in order; none where the store fails.
        """
        found: list[int] = []
        self._queue.wait(self._queue.add(lambda: found.extend(self._missing(numbers))))
        return found

    def log_model(
        self, number: int, *, name: str, example: NDArray[np.uint8], register: str | None
    ) -> None:
        """Makes a model of a published trial's network, and registers it where a name is given."""
        self._queue.add(lambda: self._log_model(number, name, example, register))

    def annotate(self, note: Callable[[str, str], str], of_trial: int) -> None:
        """Sets the description of the parent run, once that of a trial is published.

        Args:
            note: Markdown, of the experiment's id and the id of the trial's run.
            of_trial: number of the trial that the note links to.
        """
        self._queue.add(lambda: self._annotate(note, of_trial))

    def finish(self, status: "Status") -> None:
        """Gives the parent run its last status: FINISHED, FAILED or KILLED; waits for it.

        A store that fails is tried for a few seconds more.
        """
        self._queue.wait(self._queue.add(lambda: self._finish(status), is_vital=True))
        self._queue.raise_bug()

    def give_up(self, status: "Status") -> None:
        """Publishes no more trials, which stay in the spool, and ends the parent run if it can.

        A store that does not take that within seconds is not waited for.
        """
        self._queue.give_up(lambda: self._finish(status))

    # What follows runs in the thread of the queue.

    def _open(self, tracking: Tracking) -> None:
        from mlp.tracking.runs import start_study
        from mlp.tracking.store import how_to_look, open_store, show_view

        self._store = open_store(tracking)
        page = self._page
        self.how_to_look = how_to_look(self._store, page.view)
        if page.view is not None:
            show_view(self._store, page.view)
        self.study_run_id = start_study(
            self._store,
            name=page.name,
            key=page.key,
            settings=page.config,
            searched=page.searched,
            tags={},
            description=page.description,
        )

    def _publish(self, number: int, place: Path) -> None:
        from mlp.tracking.runs import publish_run

        assert self._store is not None
        kept = spool.take(place)
        run_id = publish_run(
            self._store,
            kept.record,
            parent=self.study_run_id,
            name=kept.label.name,
            tags=kept.label.tags,
        )
        if TRIAL in kept.label.tags:
            self.run_ids[number] = run_id
        spool.drop(place)

    def _describe(
        self,
        of_trial: int | None,
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        files: Mapping[str, str] | None,
        step: int,
    ) -> None:
        from mlp.tracking.runs import update_run

        assert self._store is not None
        run_id = self.study_run_id if of_trial is None else self._run_id(of_trial)
        if run_id is not None:
            update_run(self._store, run_id, metrics=metrics, tags=tags, files=files, step=step)

    def _missing(self, numbers: Collection[int]) -> list[int]:
        from mlp.tracking.runs import recorded_trials

        assert self._store is not None
        return sorted(set(numbers) - recorded_trials(self._store, self._page.key))

    def _log_model(
        self, number: int, name: str, example: NDArray[np.uint8], register: str | None
    ) -> None:
        from mlp.tracking.model import log_model, serve_command

        assert self._store is not None
        run_id = self.run_ids.get(number)
        if run_id is not None:
            made = log_model(self._store, run_id, name=name, example=example, register=register)
            self.how_to_serve = serve_command(self._store, made)

    def _annotate(self, note: Callable[[str, str], str], of_trial: int) -> None:
        from mlp.tracking.runs import below_answer

        assert self._store is not None
        run_id = self._run_id(of_trial)
        if run_id is not None:
            said = note(self._store.experiment_id, run_id)
            text = below_answer(self._store, str(self.study_run_id), said)
            self._describe(None, {}, {NOTE_TAG: text}, None, 0)

    def _run_id(self, of_trial: int) -> str | None:
        """Of a published trial, by this process or an earlier one."""
        from mlp.tracking.runs import find_trial

        assert self._store is not None
        run_id = self.run_ids.get(of_trial) or find_trial(self._store, self._page.key, of_trial)
        if run_id is not None:
            self.run_ids[of_trial] = run_id
        return run_id

    def _finish(self, status: "Status") -> None:
        from mlp.tracking.runs import finish

        assert self._store is not None
        assert self.study_run_id is not None
        finish(self._store, self.study_run_id, status)


def publish_single(
    tracking: Tracking, record: RunRecord, label: Label, *, remedy: str
) -> tuple["Store", str]:
    """Publishes a run that belongs to no study; what the store does not take goes to the spool.

    Args:
        tracking: where.
        record: of the run.
        label: how it is to be shown.
        remedy: the command that publishes it later.

    Returns:
        The store and the run's id.

    Raises:
        MlpError: what is wrong with the store, and how the run gets there later.
    """
    from mlp.tracking.runs import publish_run
    from mlp.tracking.store import open_store

    def publish() -> tuple["Store", str]:
        store = open_store(tracking)
        return store, publish_run(store, record, parent=None, name=label.name, tags=label.tags)

    try:
        return patiently(publish)
    except (BusyError, StoreError, UnavailableError) as error:
        place = spool.put_single(record, label)
        raise type(error)(
            f"{error}; the run is kept in {place.parent}, and this publishes it: {remedy}"
        ) from None
