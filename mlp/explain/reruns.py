"""Reruns of an explanation: trained as populations, judged, kept, and uploaded meanwhile."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from mlp.causes.changes import GradientNorm
from mlp.config import Execution, Own, RunConfig
from mlp.curve import Judgement
from mlp.data.dataset import Dataset
from mlp.errors import DataError, RecordError, SystemLimitError, patiently
from mlp.settings import located
from mlp.stability.sharpness import gradient_norms
from mlp.terminal.screen import say
from mlp.tracking import spool
from mlp.tracking.batch import BATCH_FILE, batch_of, read_batch
from mlp.tracking.display import ThinCurve, thin
from mlp.tracking.drain import Drain, drain
from mlp.tracking.listing import EXPLAINS, read_listing
from mlp.tracking.read import fetch_source
from mlp.tracking.record import RunRecord, read_text
from mlp.tracking.store import Store, start_explanation
from mlp.training.train_runs import n_threads, train_runs
from mlp.training.work import Executor

_MEASURED_TOGETHER = 32  # first gradients; all their weights are held at once


@contextmanager
def recorded_explanation(
    store: Store, *, key: str, name: str, parent: str | None, console: Console, command: str
) -> Iterator[tuple[Drain, str]]:
    """The run of an explanation in MLflow, from its start to its end, however it ends.

    What an earlier call has kept because the store was away is uploaded first.

    Args:
        key: of what is explained.
        parent: id of the run that is explained, or of its study's; None for an experiment.
        console: told what is kept when a person stops it.

    Yields:
        Where reruns are handed to, and the id of the explanation's run.

    Raises:
        MlpError: at the end, if the store did not take all reruns; they are kept.
    """
    _, damaged = patiently(lambda: drain(store, _kept_of(key)))
    for place in damaged:
        say(console, f"a rerun that was kept cannot be read, and is trained again: {place}")
    run_id = start_explanation(store, key=key, name=f"explain {name}", parent=parent)
    try:
        with Drain(key, lambda: (store, run_id)) as reruns:
            try:
                yield reruns, run_id
                reruns.finish("FINISHED")
            except (KeyboardInterrupt, BrokenPipeError):
                reruns.give_up("KILLED")
                n = reruns.n_given
                kept = f"{n} reruns are kept; this goes on from there"
                say(console, f"{kept if n else 'no rerun was at its end'}: {command}")
                raise
            except BaseException:
                reruns.finish("FAILED")
                _say_kept(reruns, console, command)
                raise
            _say_kept(reruns, console, command)
    finally:
        spool.leave(spool.folder_of_runs())
    if reruns.problem is not None:
        raise reruns.problem


def _say_kept(reruns: Drain, console: Console, command: str) -> None:
    if reruns.problem is not None:
        say(console, f"some reruns are not in MLflow yet; they are kept, and so goes on: {command}")


def _kept_of(key: str) -> list[Path]:
    """Folders of the reruns that explain this study or run, and are not uploaded yet."""
    places = []
    for place in spool.left_behind():
        with suppress(RecordError):  # whose it is cannot be read; the doctor names it
            if (place / BATCH_FILE).exists():
                own = read_batch(read_text(place / BATCH_FILE)).key
            else:
                own = read_listing(place).tags.get(EXPLAINS, "")
            if own == key:
                places.append(place)
    return places


def own_function(
    recorded: Own, named: Own | None, store: Store, run_id: str, *, what: str, way: str
) -> Own:
    """An own function by the file that is named here, if that is what was trained.

    Args:
        run_id: of a run that has the text of the file.
        what: was trained by it, `run` or `study`.
        way: out of it where the file is another one.

    Raises:
        DataError: where it is.
    """
    own = located(recorded, named, lambda: fetch_source(store, run_id))
    if own.program != recorded.program:
        raise DataError(f"{own.program.file} is not what the {what} was trained by; {way}")
    return own


def norms_of(data: Dataset, together: Collection[RunConfig] = ()) -> GradientNorm:
    """Gives gradients' norms at the first weights; 1 of an own function, which alone knows them.

    Args:
        together: configs of which some are measured with each that is asked for: that takes hardly
            longer than for one of them.
    """
    if data.program is not None:
        return lambda configs: [1.0] * len(configs)
    known: dict[RunConfig, float] = {}

    def norms(configs: Sequence[RunConfig]) -> list[float]:
        if missing := [config for config in dict.fromkeys(configs) if config not in known]:
            others = [config for config in together if config not in {*known, *missing}]
            some = [*missing, *others[:_MEASURED_TOGETHER]]
            try:
                found = gradient_norms(some, data=data, threads=n_threads(Execution()))
            except SystemLimitError:  # one of the others may be too large for this machine
                some = missing
                found = gradient_norms(some, data=data, threads=n_threads(Execution()))
            known.update(zip(some, found, strict=True))
        return [known[config] for config in configs]

    return norms


@dataclass(eq=False)
class Retrainer:
    """Trains configs for an inquiry and keeps their loss curves, thinned.

    Attributes:
        key: of what is explained.
        told: called often with the reruns done and in work; may raise to stop.
        curves: plain config -> its loss.
        seconds: that the training of all of them took.
    """

    data: Dataset
    executor: Executor
    reruns: Drain
    key: str
    told: Callable[[int, float], None]
    curves: dict[RunConfig, ThinCurve] = field(default_factory=dict)
    n_trained: int = 0
    seconds: float = 0.0

    def __call__(self, configs: Sequence[RunConfig]) -> list[Judgement]:
        """Trains each and judges its loss."""
        return [record.judgement for record in self.train(configs)]

    def train(self, configs: Sequence[RunConfig]) -> list[RunRecord]:
        """Trains each; what is measured along the way is kept as well."""
        started = time.monotonic()

        def finished(made: Mapping[int, RunRecord]) -> None:
            """Keeps reruns while others still train: what is stopped then has lost nothing."""
            for place, record in made.items():
                result = record.result
                self.curves[configs[place]] = thin(result.loss, result.loss_step)
            batch = batch_of(self.key, list(made.values()))
            self.reruns.add(spool.put_single(batch), len(made))

        records = train_runs(
            configs,
            self.data,
            self.executor,
            progress=lambda done, _losses: self.told(self.n_trained, done),
            finished=finished,
        )
        self.seconds += time.monotonic() - started
        self.n_trained += len(configs)
        return records
