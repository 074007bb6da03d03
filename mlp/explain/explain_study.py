"""Explains a study: which settings make its runs oscillate, by reruns, on screen and as a page."""

import contextlib
import dataclasses
import functools
import math
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from mlp.causes.answer import Answer, answer, evidence_table, investigate, n_left
from mlp.causes.changes import plain, standard_space
from mlp.causes.observed import complete_space, observe
from mlp.causes.plan import plan_reruns
from mlp.config import Data, Execution, ExplainConfig
from mlp.curve import Verdict
from mlp.data.dataset import load
from mlp.errors import DataError, RecordError, patiently
from mlp.explain.experiment import (
    check_code,
    check_given,
    contradiction,
    explain_again,
    say_verdicts,
    say_what_was_read,
    store_of_reruns,
    verdicts_in_words,
)
from mlp.explain.page_content import Compared, Curves, gather, unmeasured
from mlp.explain.reruns import Retrainer, recorded_explanation
from mlp.report.figures import Figure, figures_of
from mlp.report.page import render_page
from mlp.report.summary import PageContent, find_cures
from mlp.run import DEFAULT_EXPERIMENT
from mlp.stability.sharpness import gradient_norms
from mlp.study.space import read_space
from mlp.terminal.compose import explain_config
from mlp.terminal.screen import counting, say, silent, waiting
from mlp.tracking.display import explain_command, rerun_command
from mlp.tracking.drain import Drain
from mlp.tracking.read import Meaning, PastRun, PastStudy, read_reruns, read_study
from mlp.tracking.runs import describe_answer, log_page
from mlp.tracking.store import Store, how_to_look, open_store, run_address
from mlp.training.executor import n_threads, open_executor

PAGE_FILE = "report.html"
_LEAST_LIMIT_S = 30.0  # a study of seconds leaves no time to show anything
# Of the time limit, for the reruns of the plan; the rest is for what the page shows beside it.
_SHARE = 0.9
_POPULATION = 64  # reruns that are trained at once: the grain in which a time limit is kept


def explain_study(
    name: str | None = None,
    settings: "dict[str, Any] | ExplainConfig | None" = None,
    *,
    tracking_uri: str | None = None,
    experiment: str = DEFAULT_EXPERIMENT,
    console: Console | None = None,
) -> "Explanation":
    """Finds out which settings make the loss of a study's runs oscillate, by reruns.

    Args:
        name: of a study, the id of its parent run, or of an experiment; None: the last study.
        settings: of the group `explain`, such as `{"seeds": 8, "timeout_s": 600.0}`, with their
            group or without it, and with it of others, such as `{"execution.threads": 1}`; or a
            whole config.
        tracking_uri: of the store; None: MLFLOW_TRACKING_URI, else `mlflow.db` in the working
            directory.
        experiment: name of the MLflow experiment.
        console: where progress and the answer are shown; None: nowhere.

    Returns:
        The answer, its sentences, the page, and `figures()`, which a notebook shows.

    Raises:
        SettingError: for a setting that breaks a law.
        MissingInputError: where there is no such study.
        RecordError: for one whose runs cannot be read.
        DataError: where the data here are not those of the study.

    Example:
        >>> import mlp
        >>> end = mlp.run_study("smoke", {"training.steps": 30})
        >>> found = mlp.explain_study(end.name, {"interventions": 1, "seeds": 1})
        >>> found.answer.n_runs, {"causes", "map"} <= found.figures().keys()
        (4, True)
    """
    config = explain_config(settings, tracking_uri, experiment)
    console = console or silent()
    started = time.monotonic()
    if name is None:  # a study is this program's own
        check_given(config, is_brought=False)
    store = patiently(lambda: open_store(config.local.tracking))
    meaning = Meaning(config.explain.metric, config.explain.map, config.given)
    study = patiently(lambda: read_study(store, name, meaning))
    store = dataclasses.replace(store, experiment_id=study.experiment_id)  # where its runs are
    check_given(config, is_brought=bool(study.brought))
    if study.brought:
        say_what_was_read(study, store, console)
        if not any(run.judgement.verdict is Verdict.OSCILLATING for run in study.runs):
            sentences = say_verdicts(study, store, config, console)
            return Explanation(study, None, sentences, None, None, "")
    compared = _compared(study, store, config, console)
    limit_s = config.explain.timeout_s or max(study.duration_s, _LEAST_LIMIT_S)
    norms = functools.partial(gradient_norms, data=compared.data, threads=n_threads(Execution()))
    planned = plan_reruns(
        compared.observed,
        compared.space,
        interventions=config.explain.interventions,
        seeds=config.explain.seeds,
        n_examples=compared.data.train.n_examples,
        gradient_norm=norms,
    )
    again = explain_again(study, config)
    own = store_of_reruns(study, store, config)
    with recorded_explanation(
        own,
        key=study.key,
        name=study.name,
        parent=study.run_id,
        console=console,
        command=again,
    ) as (reruns, run_id):
        # What earlier explanations have trained, where it was on these data.
        earlier = {
            plain(run.config): run
            for run in read_reruns(own, study.key)
            if run.data_digest == compared.data.digest
        }
        known = {own: run.judgement for own, run in earlier.items()}
        with contextlib.ExitStack() as stack:
            where = stack.enter_context(
                open_executor(config.local.execution, notice=lambda line: say(console, line))
            )
            # Reruns say something about runs of another program only if these come out alike.
            other: tuple[str, ...] = ()
            pace_s = _pace_s(study)
            if study.brought:
                end = started + limit_s if config.explain.timeout_s else math.inf
                checked = check_code(study, compared.data, where, end=end, console=console)
                other, pace_s = checked.finding, checked.pace_s
                if not config.explain.timeout_s:  # which counts from here then
                    started = time.monotonic()
            if other:
                planned, known = dataclasses.replace(planned, picks=(), factors=()), {}
            progress = _progress(console, n_left(planned, known), len(known), pace_s, limit_s)
            told = stack.enter_context(progress)
            trainer = Retrainer(compared.data, where, reruns, study.key, told)
            clock = _Clock(started, limit_s, pace_s, trainer, reruns)
            population = clock.population(_POPULATION)
            known |= investigate(
                planned,
                trainer,
                known=known,
                population=population,
                goes_on=lambda: clock.has_time(_SHARE, population),
            )
            if study.brought and not other:
                other = contradiction(study, known)
                if other:
                    planned, known = dataclasses.replace(planned, picks=(), factors=()), {}
            found = answer(
                planned,
                known,
                n_examples=compared.data.train.n_examples,
                gradient_norm=norms,
            )
            content = gather(
                study,
                compared,
                found,
                Curves(store, earlier, trainer, lambda: clock.has_time(1.0, 1)),
                cures=find_cures(planned, known, found, [run.judgement for run in compared.runs]),
                commands=how_to_look(store)
                if other
                else _commands(study, compared, found, config, store),
            )
            if other:
                content = dataclasses.replace(content, sentences=other, evidence="\n".join(other))
        _say_answer(content, found, again, console)  # before the store can fail
        page = render_page(content)
        at = study.run_id or run_id  # the study's own run, where there is one
        with waiting(console, "the page is being recorded"):
            log_page(own, at, page, PAGE_FILE)
            causes = [name for cause in found.causes for name in cause.settings]
            ids = dict.fromkeys((at, run_id))
            describe_answer(store, ids, sentences=content.sentences, causes=causes)
    say(console, f"the page, while mlflow ui runs: {run_address(own, at, PAGE_FILE)}")
    say(console, "next:", *(f"  {line}" for line in content.commands))
    return Explanation(study, found, content.sentences, run_id, content, page)


@dataclass(frozen=True)
class Explanation:
    """What was found of a study.

    Attributes:
        study: its runs.
        answer: which settings cause the oscillation, with the evidence; None where the runs, of
            another program, were only judged. Then there are no run, content and page either.
        sentences: the answer for a person.
        run_id: of the explain run in MLflow.
        content: what the page shows.
        page: the report as HTML.
    """

    study: PastStudy
    answer: Answer | None
    sentences: tuple[str, ...]
    run_id: str | None
    content: PageContent | None = field(repr=False)
    page: str = field(repr=False)

    def __str__(self) -> str:
        return "\n".join(self.sentences)

    def figures(self) -> dict[str, Figure]:
        """The figures of the page by name; a notebook shows each as the page does."""
        return figures_of(self.content) if self.content is not None else {}


def _compared(study: PastStudy, store: Store, config: ExplainConfig, console: Console) -> Compared:
    """The runs that can be compared, their space, and their data."""
    data_config, runs = _comparable(study, console)
    if not study.brought:
        say(console, f"{study.name}: {verdicts_in_words(runs)} in {store.uri}")
    if study.n_left_out and not study.brought:
        say(console, f"{study.n_left_out} runs are left out; the first: {study.why_left_out}")
    data = load(
        dataclasses.replace(data_config, root=config.local.data.root),
        notice=lambda line: say(console, line),
    )
    others = {run.data_digest for run in runs} - {None, data.digest}
    if others:
        raise DataError(
            f"the study was trained on other data than {data.name} is here: digest "
            f"{min(str(own) for own in others)}, here {data.digest}"
        )
    configs = [unmeasured(run.config) for run in runs]
    named = read_space(study.sweep.study.space, study.sweep.base) if study.sweep else ()
    # Of one run nothing differs; what may be changed in it is then what `explain RUN_ID` changes.
    space = complete_space(configs, named) if len(runs) > 1 else standard_space(configs[0])
    observed = observe(configs, [run.judgement.verdict for run in runs], space)
    return Compared(runs, observed, space, data)


def _comparable(study: PastStudy, console: Console) -> tuple[Data, tuple[PastRun, ...]]:
    """The data and precision that most runs were trained with, and those runs."""
    kinds = Counter(_kind(run) for run in study.runs)
    common = kinds.most_common(1)[0][0]
    runs = tuple(run for run in study.runs if _kind(run) == common)
    if len(runs) < len(study.runs):
        n_other = len(study.runs) - len(runs)
        say(
            console,
            f"{n_other} with other data or another training.dtype than the rest: shown, but not "
            "compared",
        )
    if common[0].name == "auto":
        raise RecordError(f"{study.name} does not say which data its runs were trained on")
    return common[0], runs


def _kind(run: PastRun) -> tuple[Data, str]:
    return dataclasses.replace(run.config.data, root=None), run.config.training.dtype


def _pace_s(study: PastStudy) -> float:
    """Seconds that a training of the study took, in its populations."""
    return study.duration_s / max(1, len(study.runs))


def _progress(
    console: Console, n_trainings: int, n_known: int, pace_s: float, limit_s: float
) -> AbstractContextManager[Callable[[int, float], None]]:
    duration_s = n_trainings * pace_s
    told = f"reruns to train: about {n_trainings}, {duration_s:.0f} s"
    if not n_trainings:
        told = "reruns to train: none"
    elif duration_s > limit_s:
        # Twice what the reruns take: a part of the limit is for what the page shows beside them.
        told += (
            f", of which explain.timeout_s={limit_s:.0f} leaves a part for the next call; "
            f"explain.timeout_s={10 * math.ceil(duration_s / 5)} is enough for all"
        )
    say(console, told + (f"; {n_known} of earlier explanations are used" if n_known else ""))
    return counting(console, "reruns", n_trainings)


@dataclass(frozen=True)
class _Clock:
    """How much time is left, by the pace of the reruns so far.

    Attributes:
        started: by the monotonic clock, in seconds.
        limit_s: for the whole explanation.
        pace_s: of one training, where none is trained yet.
        trainer: of the reruns.
        reruns: on their way to MLflow.
    """

    started: float
    limit_s: float
    pace_s: float
    trainer: Retrainer
    reruns: Drain

    def population(self, most: int) -> int:
        """Reruns that are trained at once, so that a population fits the limit; 1 or more."""
        return max(1, min(most, int(_SHARE * self.limit_s / max(self.pace_s, 1e-3))))

    def has_time(self, share: float, population: int) -> bool:
        """Whether there is time for a population, within a share of the limit."""
        n, seconds = self.trainer.n_trained, self.trainer.seconds
        pace_s = seconds / n if n else self.pace_s
        # Half a population beyond the limit is nearer to it than half a population before.
        needed_s = pace_s * population / 2 + self.reruns.backlog_s
        return time.monotonic() + needed_s < self.started + share * self.limit_s


def _commands(
    study: PastStudy, compared: Compared, found: Answer, config: ExplainConfig, store: Store
) -> list[str]:
    """What to type next."""
    more = explain_again(study, config)
    if found.is_complete:
        more += f" explain.interventions={2 * config.explain.interventions}   # rests on more"
    commands = [more]
    brought = {run.run_id for run in study.brought}  # what `rerun` cannot read
    for run in compared.runs:
        if run.judgement.verdict is Verdict.OSCILLATING and run.run_id not in brought:
            commands.append(f"{explain_command(run.run_id, config.local)}   # of {run.name}")
            commands.append(rerun_command(run.run_id, config.local))
            break
    return [*commands, *how_to_look(store)]


def _say_answer(content: PageContent, found: Answer, again: str, console: Console) -> None:
    table = evidence_table(found)
    say(console, "", *content.sentences, "", *table, *([""] if table else []))
    if not found.is_complete:
        say(console, f"the time was up; this goes on: {again}")
