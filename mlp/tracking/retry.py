"""Work on a store that may be away: done again until it works, in the background or at once."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from mlp.errors import BusyError, MlpError, RecordError, UnavailableError

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
