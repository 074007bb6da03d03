"""Reruns of an explanation: trained as populations, judged, and recorded in the background."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console

from mlp.config import RunConfig, canonical_json, digest
from mlp.curve import Judgement
from mlp.data.dataset import Dataset
from mlp.engine.result import Result
from mlp.settings import settings_of
from mlp.terminal.screen import say
from mlp.tracking.display import ThinCurve, run_name, thin
from mlp.tracking.publish import patiently
from mlp.tracking.record import RunRecord
from mlp.tracking.runs import Status, finish, publish_run, start_explanation
from mlp.tracking.spool import EXPLAINS, KEY
from mlp.tracking.store import Store
from mlp.training.executor import train_trials
from mlp.training.outcome import Timing, make_record
from mlp.training.work import Executor

_PATIENCE_S = 4.0  # whoever sends SIGTERM waits a few seconds before SIGKILL


class Recorder:
    """One background thread that records reruns as children of an explain run.

    A rerun is found again by its settings, so it is recorded once, however often it is asked for.

    Attributes:
        parent: id of the explain run.
    """

    def __init__(self, store: Store, key: str, parent: str) -> None:
        """Nothing is written before the first rerun.

        Args:
            store: where.
            key: of the study or run that is explained.
            parent: id of the explain run.
        """
        self.parent = parent
        self._store, self._key = store, key
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="record")
        self._written: list[Future[str]] = []
        self._busy_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Waits for what was handed over; raises the first fault of the store.

        What a person stops is recorded as far as it is trained, for some seconds and as long as the
        store takes it; on the way out of another error the rest is dropped.
        """
        if isinstance(error, KeyboardInterrupt | BrokenPipeError):
            wait(self._written, _PATIENCE_S, FIRST_EXCEPTION)
        self._thread.shutdown(wait=True, cancel_futures=error is not None)
        if error is None:
            for written in self._written:
                written.result()

    @property
    def n_recorded(self) -> int:
        """Reruns that the store has taken."""
        return sum(
            written.done() and not written.cancelled() and written.exception() is None
            for written in self._written
        )

    @property
    def backlog_s(self) -> float:
        """Seconds that it will take to record what was handed over, by the pace so far."""
        n_done = sum(written.done() for written in self._written)
        return (len(self._written) - n_done) * self._busy_s / max(1, n_done)

    def record(self, run: RunRecord) -> None:
        """Hands over a rerun; returns at once. Raises what an earlier one met in the store."""
        for written in self._written:
            if written.done():
                written.result()
        self._written.append(self._thread.submit(self._publish, run))

    def _publish(self, run: RunRecord) -> str:
        started = time.monotonic()
        key = f"{self._key}/rerun/{digest(canonical_json(settings_of(run.config)))[:32]}"
        tags = {KEY: key, EXPLAINS: self._key}
        name = f"rerun {run_name(run.config)} seed {run.config.training.seed}"
        run_id = patiently(
            lambda: publish_run(self._store, run, parent=self.parent, name=name, tags=tags)
        )
        self._busy_s += time.monotonic() - started
        return run_id


@contextmanager
def recorded_explanation(
    store: Store, *, key: str, name: str, parent: str | None, console: Console, command: str
) -> Iterator[Recorder]:
    """The run of an explanation in MLflow, from its start to its end, however it ends.

    Args:
        store: where.
        key: of what is explained.
        name: of it, for a person.
        parent: id of the run that is explained, or of its study's; None for an experiment.
        console: told what is kept when a person stops it.
        command: that goes on from there.
    """
    run_id = start_explanation(store, key=key, name=f"explain {name}", parent=parent)
    recorder = Recorder(store, key, run_id)
    status: Status = "FAILED"
    try:
        yield recorder
        status = "FINISHED"
    except (KeyboardInterrupt, BrokenPipeError):
        status = "KILLED"
        kept = f"{recorder.n_recorded} reruns are kept; this goes on from there"
        say(console, f"{kept if recorder.n_recorded else 'no rerun was at its end'}: {command}")
        raise
    finally:
        finish(store, run_id, status)


class Trainer:
    """Trains configs for an inquiry and keeps their loss curves, thinned.

    Attributes:
        curves: plain config -> its loss.
        n_trained: so far.
        seconds: that the training of all of them took.
    """

    def __init__(
        self,
        data: Dataset,
        executor: Executor,
        recorder: Recorder,
        told: Callable[[int, float], None],
    ) -> None:
        """Trains nothing yet.

        Args:
            data: the examples.
            executor: who trains.
            recorder: that every rerun is handed to.
            told: called often with the reruns done and in work; may raise to stop.
        """
        self.curves: dict[RunConfig, ThinCurve] = {}
        self.n_trained = 0
        self.seconds = 0.0
        self._data, self._executor, self._recorder = data, executor, recorder
        self._told = told

    def __call__(self, configs: Sequence[RunConfig]) -> list[Judgement]:
        """Trains each and judges its loss."""
        return [record.judgement for record in self._train(configs)]

    def results(self, configs: Sequence[RunConfig]) -> list[Result]:
        """Trains each; what is measured along the way is kept as well."""
        return [record.result for record in self._train(configs)]

    def _train(self, configs: Sequence[RunConfig]) -> list[RunRecord]:
        started, started_ms = time.monotonic(), time.time_ns() // 1_000_000
        records: dict[int, RunRecord] = {}

        def keep(results: Mapping[int, Result]) -> None:
            """Records reruns while others still train: what is stopped then has lost nothing."""
            timing = Timing(started_ms, time.time_ns() // 1_000_000, self._executor.n_threads)
            for place, result in results.items():
                config = configs[place]
                records[place] = record = make_record(config, self._data, result, timing)
                self.curves[config] = thin(result.loss, result.loss_step)
                self._recorder.record(record)

        train_trials(
            configs,
            self._data,
            self._executor,
            progress=lambda done, _losses: self._told(self.n_trained, done),
            kept=keep,
        )
        self.seconds += time.monotonic() - started
        self.n_trained += len(configs)
        return [records[place] for place in range(len(configs))]
