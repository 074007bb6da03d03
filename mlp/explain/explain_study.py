"""Explains a study: which settings make its runs oscillate, by reruns, on screen and as a page."""

import dataclasses
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console

from mlp.causes.answer import Answer, answer, evidence_table, investigate, n_left
from mlp.causes.changes import plain
from mlp.causes.observed import complete_space, observe
from mlp.causes.plan import Plan, plan_reruns
from mlp.config import Data, ExplainConfig, RunConfig
from mlp.curve import Judgement
from mlp.data.dataset import load
from mlp.errors import DataError, RecordError, patiently
from mlp.explain.page_content import Curves, Subject, gather, unmeasured
from mlp.explain.reruns import Trainer, recorded_explanation
from mlp.report.figures import Figure, figures_of
from mlp.report.page import render_page
from mlp.report.summary import PageContent
from mlp.run import DEFAULT_EXPERIMENT
from mlp.study.space import read_space
from mlp.terminal.compose import explain_config
from mlp.terminal.screen import counting, say, silent, waiting
from mlp.tracking.display import explain_command
from mlp.tracking.drain import Drain
from mlp.tracking.read import PastRun, PastStudy, read_reruns, read_study
from mlp.tracking.runs import describe_answer, log_page
from mlp.tracking.store import Store, open_store, run_address
from mlp.training.executor import open_executor

if TYPE_CHECKING:  # importing these takes seconds
    from mlp.config import ExplainConfig


PAGE_FILE = "report.html"
# Of the time limit, for the inquiry; the rest is for what the page shows beside it.
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
    store = patiently(lambda: open_store(config.local.tracking))
    study = patiently(lambda: read_study(store, name))
    store = dataclasses.replace(store, experiment_id=study.experiment_id)  # where its runs are
    work = _prepared(store, study, config, console, started)
    inquiry = _inquiry(work)
    with recorded_explanation(
        store,
        key=work.study.key,
        name=work.study.name,
        parent=work.study.run_id,
        console=console,
        command=explain_command(work.study.name, config.local),
    ) as (reruns, run_id):
        earlier = _earlier(work)
        known = {config: run.judgement for config, run in earlier.items()}
        with (
            open_executor(config.local.execution, notice=lambda line: say(console, line)) as where,
            _progress(work, inquiry, known) as told,
        ):
            trainer = Trainer(work.data, where, reruns, work.study.key, told)
            found = _investigate(work, inquiry, known, trainer, reruns)
            goes_on = _clock(work, trainer, reruns, share=1.0)
            curves = Curves(work.store, earlier, trainer, goes_on)
            content = gather(work, inquiry, known, found, curves)
        _say_answer(work, found, content)  # before the store can fail
        page = render_page(content)
        _record(work, found, content, run_id, page)
    where_page = run_address(work.store, work.study.run_id or run_id, PAGE_FILE)
    say(console, f"the page, while mlflow ui runs: {where_page}")
    say(console, "next:", *(f"  {line}" for line in content.commands))
    return Explanation(work.study, found, content.sentences, run_id, content, page)


@dataclass(frozen=True)
class Explanation:
    """What was found of a study.

    Attributes:
        study: its runs.
        answer: which settings cause the oscillation, with the evidence.
        sentences: the answer for a person.
        run_id: of the explain run in MLflow.
        content: what the page shows.
        page: the report as HTML.
    """

    study: PastStudy
    answer: Answer
    sentences: tuple[str, ...]
    run_id: str
    content: PageContent = field(repr=False)
    page: str = field(repr=False)

    def __str__(self) -> str:
        return "\n".join(self.sentences)

    def figures(self) -> dict[str, Figure]:
        """The figures of the page by name; a notebook shows each as the page does."""
        return figures_of(self.content)


def _prepared(
    store: Store, study: PastStudy, config: ExplainConfig, console: Console, started: float
) -> Subject:
    """The runs that can be compared, their space, and their data."""
    data_config, runs = _comparable(study, console)
    counts = Counter(run.judgement.verdict.value for run in runs)
    told = ", ".join(f"{n} {name}" for name, n in counts.most_common())
    say(console, f"{study.name}: {len(runs)} runs ({told}) in {store.uri}")
    if study.n_left_out:
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
    space = complete_space(configs, named)
    observed = observe(configs, [run.judgement.verdict for run in runs], space)
    return Subject(store, study, runs, observed, space, data, config, console, started)


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


def _inquiry(work: Subject) -> Plan:
    explain = work.config.explain
    return plan_reruns(
        work.observed,
        work.space,
        interventions=explain.interventions,
        seeds=explain.seeds,
        n_examples=work.n_examples,
        gradient_norm=work.norms,
    )


def _earlier(work: Subject) -> dict[RunConfig, PastRun]:
    """What earlier explanations have trained, where it was on these data."""
    reruns = read_reruns(work.store, work.study.key)
    return {plain(run.config): run for run in reruns if run.data_digest == work.data.digest}


def _progress(
    work: Subject, inquiry: Plan, known: Mapping[RunConfig, Judgement]
) -> AbstractContextManager[Callable[[int, float], None]]:
    n_trainings = n_left(inquiry, known)
    duration_s = n_trainings * work.pace_s
    told = f"reruns to train: about {n_trainings}, {duration_s:.0f} s"
    if not n_trainings:
        told = "reruns to train: none"
    elif duration_s > work.limit_s:
        # Twice what the reruns take: a part of the limit is for what the page shows beside them.
        told += (
            f", of which explain.timeout_s={work.limit_s:.0f} leaves a part for the next call; "
            f"explain.timeout_s={10 * math.ceil(duration_s / 5)} is enough for all"
        )
    again = f"; {len(known)} of earlier explanations are used" if known else ""
    say(work.console, told + again)
    return counting(work.console, "reruns", n_trainings)


def _investigate(
    work: Subject,
    inquiry: Plan,
    known: dict[RunConfig, Judgement],
    trainer: Trainer,
    reruns: Drain,
) -> Answer:
    """Trains until all is answered or the time is up, and reduces it; `known` grows."""
    size = max(1, min(_POPULATION, int(_SHARE * work.limit_s / max(work.pace_s, 1e-3))))
    goes_on = _clock(work, trainer, reruns, share=_SHARE, size=size)
    known.update(investigate(inquiry, trainer, known=known, population=size, goes_on=goes_on))
    return answer(
        inquiry,
        known,
        n_examples=work.n_examples,
        gradient_norm=work.norms,
    )


def _clock(
    work: Subject, trainer: Trainer, reruns: Drain, *, share: float, size: int = 1
) -> Callable[[], bool]:
    """Whether there is time for a population of a size, within a share of the limit."""
    end = work.started + share * work.limit_s

    def goes_on() -> bool:
        pace_s = trainer.seconds / trainer.n_trained if trainer.n_trained else work.pace_s
        # Half a population beyond the limit is nearer to it than half a population before.
        return time.monotonic() + pace_s * size / 2 + reruns.backlog_s < end

    return goes_on


def _record(work: Subject, found: Answer, content: PageContent, run_id: str, page: str) -> None:
    """The page and the answer, at the study's own run where there is one."""
    at = work.study.run_id or run_id
    with waiting(work.console, "the page is being recorded"):
        log_page(work.store, at, page, PAGE_FILE)
        describe_answer(
            work.store,
            dict.fromkeys((at, run_id)),
            sentences=content.sentences,
            causes=[name for cause in found.causes for name in cause.settings],
        )


def _say_answer(work: Subject, found: Answer, content: PageContent) -> None:
    table = evidence_table(found)
    say(work.console, "", *content.sentences, "", *table, *([""] if table else []))
    if not found.is_complete:
        say(work.console, f"the time was up; this goes on: {content.commands[0]}")
