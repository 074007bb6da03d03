"""Publishes finished trials to MLflow in the background, while the next generation trains."""

import contextlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from mlp.config import Tracking
from mlp.errors import MlpError
from mlp.tracking import spool
from mlp.tracking.record import RunRecord
from mlp.tracking.view import NOTE_TAG, StudyView

if TYPE_CHECKING:  # importing MLflow takes seconds, so the background thread does it
    from mlp.tracking.runs import Status
    from mlp.tracking.store import Store


_LAST_PATIENCE_S = 3.0  # whoever sends SIGTERM waits a few seconds before SIGKILL


@dataclass(frozen=True)
class StudyPage:
    """What the parent run of a study says from the start.

    Attributes:
        name: of the study.
        key: what the study's runs are found again by.
        config: its composed settings, plain values.
        description: Markdown for its page.
        tags: further tags of the parent run.
        searched: path of each setting that varies -> what it is drawn from.
        view: columns and charts that show the study's runs; None: MLflow's own.
    """

    name: str
    key: str
    config: Mapping[str, Any]
    description: str
    tags: Mapping[str, str] = field(default_factory=dict)
    searched: Mapping[str, Any] = field(default_factory=dict)
    view: StudyView | None = None


class Publisher:
    """One background thread that owns the tracking store for the length of a sweep.

    It is opened there too (a new MLflow database takes seconds). A store that cannot be reached
    stops nothing: what is finished stays in the spool, and `problem` says why.

    Attributes:
        problem: the first fault of the store; None while all is well.
        run_ids: trial number -> MLflow run id, of those published or described by this object.
        study_run_id: the parent run's id; None until the store is open.
        how_to_look: commands and addresses that show the runs; empty until the store is open.
    """

    def __init__(self, tracking: Tracking, page: StudyPage) -> None:
        """Starts opening the store.

        Args:
            tracking: where to publish.
            page: of the study.
        """
        self.problem: MlpError | None = None
        self.run_ids: dict[int, str] = {}
        self.study_run_id: str | None = None
        self.how_to_look: list[str] = []
        self._page = page
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="publish")
        self._store: Store | None = None
        self._bug: Exception | None = None
        self._gave_up = False
        self._submit(lambda: self._open(tracking))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Waits until everything that was handed over is published or known to have failed."""
        self._thread.shutdown(wait=not self._gave_up)
        if error is None:
            self._raise_bug()

    def publish(self, number: int, place: Path, record: RunRecord, name: str) -> None:
        """Hands over a finished trial; returns at once.

        Args:
            number: of the trial.
            place: its folder in the spool, removed once it is published.
            record: what to publish.
            name: of the run, for a person.
        """
        self._submit(lambda: self._publish(number, place, record, name))

    def describe(
        self,
        *,
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        of_trial: int | None = None,
        step: int = 0,
    ) -> None:
        """Adds metrics, at a step, and tags to the parent run, or to a published trial's run."""
        self._submit(lambda: self._describe(of_trial, metrics, tags, step))

    def annotate(self, note: Callable[[str, str], str], of_trial: int) -> None:
        """Sets the description of the parent run, once that of a trial is published.

        Args:
            note: Markdown, of the experiment's id and the id of the trial's run.
            of_trial: number of the trial that the note links to.
        """
        self._submit(lambda: self._annotate(note, of_trial))

    def finish(self, status: "Status") -> None:
        """Gives the parent run its last status: FINISHED, FAILED or KILLED; waits for it."""
        self._submit(lambda: self._finish(status))
        self._thread.submit(lambda: None).result()
        self._raise_bug()

    def give_up(self, status: "Status") -> None:
        """Publishes no more trials, which stay in the spool, and ends the parent run if it can.

        A store that does not take that within seconds is not waited for.
        """
        self._gave_up = True
        self._submit(lambda: self._finish(status))
        with contextlib.suppress(TimeoutError):
            self._thread.submit(lambda: None).result(_LAST_PATIENCE_S)

    def _submit(self, job: Callable[[], None]) -> None:
        self._thread.submit(self._guarded, job)

    def _guarded(self, job: Callable[[], None]) -> None:
        """Runs a job unless one has failed; a fault of the store is kept, a bug raised later."""
        if self.problem is not None or self._bug is not None:
            return
        try:
            job()
        except MlpError as error:
            self.problem = error
        except Exception as error:  # noqa: BLE001  raised again in the main thread
            self._bug = error

    def _raise_bug(self) -> None:
        if self._bug is not None:
            raise self._bug

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
            tags=page.tags,
            description=page.description,
        )

    def _publish(self, number: int, place: Path, record: RunRecord, name: str) -> None:
        from mlp.tracking.runs import publish_run, trial_key

        if self._gave_up:
            return
        assert self._store is not None
        key = trial_key(self._page.key, str(number))
        tags = {"mlp.study": self._page.name, "mlp.trial": str(number), "mlp.key": key}
        self.run_ids[number] = publish_run(
            self._store, record, parent=self.study_run_id, name=name, tags=tags
        )
        spool.drop(place)

    def _describe(
        self,
        of_trial: int | None,
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        step: int,
    ) -> None:
        from mlp.tracking.runs import update_run

        assert self._store is not None
        run_id = self.study_run_id if of_trial is None else self._run_id(of_trial)
        if run_id is not None:
            update_run(self._store, run_id, metrics=metrics, tags=tags, step=step)

    def _annotate(self, note: Callable[[str, str], str], of_trial: int) -> None:
        assert self._store is not None
        run_id = self._run_id(of_trial)
        if run_id is not None:
            text = note(self._store.experiment_id, run_id)
            self._describe(None, {}, {NOTE_TAG: text}, 0)

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
