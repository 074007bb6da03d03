"""Explains a study: which settings make its runs oscillate, by reruns, on screen and as a page."""

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import plotly.graph_objects as go
from rich.console import Console

from mlp.causes.association import associate
from mlp.causes.attribution import Answer, answer, estimate, investigate
from mlp.causes.change import plain
from mlp.causes.explanation import render_answer, sentences
from mlp.causes.first_step import gradient_norms
from mlp.causes.inquiry import Effort, Inquiry, Results, prepare
from mlp.causes.observed import StudyRun, complete_space, observe
from mlp.causes.repair import describe_repair, repair
from mlp.config import Data, ExplainConfig, RunConfig
from mlp.curve import Judgement
from mlp.data.dataset import Dataset, load
from mlp.door import with_settings
from mlp.errors import DataError, RecordError
from mlp.flow.reruns import Recorder, Trainer
from mlp.report.page import figures_of, render_page
from mlp.report.question import QuestionSection, is_question, summarise_question
from mlp.report.summary import (
    Cure,
    CurvePair,
    PageContent,
    RepairedRatio,
    combinations_of,
    find_cures,
    named_settings,
    quality_of,
    repaired_ratio,
    spread_out,
)
from mlp.study.space import Space, read_space
from mlp.terminal.screen import counting, say, waiting
from mlp.tracking.commands import explain_command, rerun_command
from mlp.tracking.display import ThinCurve
from mlp.tracking.explanations import describe_answer, log_page, start_explanation
from mlp.tracking.history import PastRun, PastStudy, read_points, read_reruns, read_study
from mlp.tracking.runs import fetch_run, finish
from mlp.tracking.store import Store, how_to_look, open_store, run_address

PAGE_FILE = "report.html"
_POPULATION = 64  # reruns that are trained at once: the grain in which a time limit is kept
_LEAST_LIMIT_S = 30.0  # a study of seconds leaves no time to show anything
_MOST_DRAWN = 60  # runs whose stability ratio is drawn; more are a grey cloud
_SHARPNESS_POINTS = 16  # along the repaired runs of saturated ones


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

    def figures(self) -> dict[str, go.Figure]:
        """The figures of the page by name, as plotly's objects."""
        return figures_of(self.content)


@dataclass(frozen=True)
class _Work:
    """What the steps of one explanation share."""

    store: Store
    study: PastStudy
    runs: tuple[PastRun, ...]
    observed: tuple[StudyRun, ...]
    space: Space
    data: Dataset
    config: ExplainConfig
    console: Console
    started: float

    @property
    def limit_s(self) -> float:
        """Seconds that it may take: as long as the study did, where nobody says otherwise."""
        return self.config.explain.timeout_s or max(self.study.duration_s, _LEAST_LIMIT_S)

    @property
    def n_examples(self) -> int:
        """In the training part."""
        return self.data.train.n_examples

    def norms(self, configs: Sequence[RunConfig]) -> list[float]:
        """Gradient norms at the first weights."""
        return gradient_norms(configs, self.data)


def explain_study(which: str | None, config: ExplainConfig, console: Console) -> Explanation:
    """Finds out which settings make the loss of a study's runs oscillate.

    Args:
        which: a study's name, its parent run's id, or an experiment's name; None: the last study.
        config: how much may be trained, and where.
        console: where the answer is shown.

    Raises:
        MissingInputError: where there is no such study.
        RecordError: for one whose runs cannot be read.
        DataError: where the data here are not those of the study.
    """
    started = time.monotonic()
    store = open_store(config.local.tracking)
    work = _prepared(store, read_study(store, which), config, console, started)
    inquiry = _inquiry(work)
    earlier = _earlier(work)
    known = {config: run.judgement for config, run in earlier.items()}
    key = work.study.key
    run_id = start_explanation(
        store, key=key, name=f"explain {work.study.name}", parent=work.study.run_id
    )
    status = "FAILED"
    try:
        with Recorder(store, key, run_id) as recorder, _progress(work, known) as told:
            trainer = Trainer(work.data, config.local.execution, recorder, told)
            found = _investigate(work, inquiry, known, trainer, recorder)
            curves = _Curves(work.store, earlier, trainer)
            content = _content(work, inquiry, known, found, curves)
        page = render_page(content)
        _record(work, found, content, run_id, page)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        finish(store, run_id, status)  # type: ignore[arg-type]
    _say(work, found, content)
    return Explanation(work.study, found, content.sentences, run_id, content, page)


def _prepared(
    store: Store, study: PastStudy, config: ExplainConfig, console: Console, started: float
) -> _Work:
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
    digests = {run.data_digest for run in runs} - {None}
    if digests and digests != {data.digest}:
        raise DataError(
            f"the study was trained on other data than {data.name} is here: digest "
            f"{min(str(own) for own in digests)}, here {data.digest}"
        )
    configs = [_unmeasured(run.config) for run in runs]
    named = read_space(study.sweep.study.space, study.sweep.base) if study.sweep else ()
    space = complete_space(configs, named)
    observed = observe(configs, [run.judgement.verdict for run in runs], space)
    return _Work(store, study, runs, observed, space, data, config, console, started)


def _comparable(study: PastStudy, console: Console) -> tuple[Data, tuple[PastRun, ...]]:
    """The data and precision that most runs were trained with, and those runs."""
    kinds = Counter(_kind(run) for run in study.runs)
    common = kinds.most_common(1)[0][0]
    runs = tuple(run for run in study.runs if _kind(run) == common)
    if len(runs) < len(study.runs):
        n_other = len(study.runs) - len(runs)
        say(console, f"{n_other} of other data or precision than most are not compared")
    if common[0].name == "auto":
        raise RecordError(f"{study.name} does not say which data its runs were trained on")
    return common[0], runs


def _kind(run: PastRun) -> tuple[Data, str]:
    return dataclasses.replace(run.config.data, root=None), run.config.training.dtype


def _unmeasured(config: RunConfig) -> RunConfig:
    """The same training without measuring its sharpness, which no bit depends on."""
    return with_settings(config, {"training.sharpness_points": 0})


def _inquiry(work: _Work) -> Inquiry:
    explain = work.config.explain
    return prepare(
        work.observed,
        work.space,
        Effort(explain.interventions, explain.seeds),
        n_examples=work.n_examples,
        gradient_norm=work.norms,
    )


def _earlier(work: _Work) -> dict[RunConfig, PastRun]:
    """What earlier explanations have trained, where it was on these data."""
    reruns = read_reruns(work.store, work.study)
    return {plain(run.config): run for run in reruns if run.data_digest == work.data.digest}


@dataclass(frozen=True)
class _Curves:
    """Loss curves of reruns: of this explanation, of earlier ones, or trained once more."""

    store: Store
    earlier: Mapping[RunConfig, PastRun]
    trainer: Trainer

    def of(self, config: RunConfig) -> ThinCurve:
        """The loss of a rerun, thinned."""
        own = plain(config)
        if own not in self.trainer.curves and own in self.earlier:
            return read_points(self.store, self.earlier[own].run_id, "loss")
        if own not in self.trainer.curves:
            self.trainer([own])
        return self.trainer.curves[own]


def _progress(
    work: _Work, known: Mapping[RunConfig, Judgement]
) -> AbstractContextManager[Callable[[int, float], None]]:
    again = f", {len(known)} of earlier explanations are used" if known else ""
    per_training = work.study.duration_s / max(1, len(work.runs))
    left = estimate(_inquiry(work), known, seconds_per_training=per_training)
    say(
        work.console,
        f"reruns: about {left.n_trainings}, {left.duration_s:.0f} s; explain.timeout_s="
        f"{work.limit_s:.0f} stops them before{again}",
    )
    return counting(work.console, "reruns", left.n_trainings)


def _investigate(
    work: _Work,
    inquiry: Inquiry,
    known: dict[RunConfig, Judgement],
    trainer: Trainer,
    recorder: Recorder,
) -> Answer:
    """Trains until all is answered or the time is up, and reduces it; `known` grows."""
    end = work.started + work.limit_s

    def goes_on() -> bool:
        per_training = trainer.seconds / trainer.n_trained if trainer.n_trained else 0.0
        # Half a population beyond the limit is nearer to it than half a population before.
        half = per_training * _POPULATION / 2
        return time.monotonic() + half + recorder.backlog_s < end

    known.update(
        investigate(inquiry, trainer, known=known, population=_POPULATION, goes_on=goes_on)
    )
    return answer(
        inquiry,
        known,
        associate(work.observed),
        n_examples=work.n_examples,
        gradient_norm=work.norms,
    )


def _content(
    work: _Work,
    inquiry: Inquiry,
    known: Results,
    found: Answer,
    curves: _Curves,
) -> PageContent:
    """Everything that the page shows."""
    cures = find_cures(inquiry, known, found)
    steps = sorted({run.config.training.steps for run in work.runs})
    facts = (
        f"{len(work.runs)} runs of {' or '.join(str(n) for n in steps)} steps on {work.data.name}: "
        f"{work.n_examples} examples to train on",
        f"{found.n_oscillating} oscillate; {found.n_trained} reruns from "
        f"{found.n_picked[0]} oscillating and {found.n_picked[1]} quiet runs"
        + ("" if found.is_complete else ", stopped by the time limit: more when it is run again"),
        "a cause is named at a chance of 1 % of naming any false one, over all settings together",
    )
    return PageContent(
        title=work.study.name,
        facts=facts,
        sentences=sentences(found),
        evidence=render_answer(found),
        answer=found,
        runs=work.runs,
        observed=work.observed,
        pairs=_pairs(work, spread_out(cures), curves),
        ratios=_ratios(work),
        quality=quality_of(work.runs),
        repaired_ratios=_repaired_ratios(work, cures, curves.trainer),
        combinations=combinations_of(work.runs, work.observed),
        question=_question(work, known, curves.trainer),
        addresses=tuple(run_address(work.store, run.run_id) for run in work.runs),
        commands=_commands(work),
    )


def _pairs(work: _Work, cures: Sequence[Cure], curves: _Curves) -> tuple[CurvePair, ...]:
    return tuple(
        CurvePair(
            name=work.runs[cure.run].name,
            settings=named_settings(work.observed[cure.run].params),
            change=cure.text,
            before=read_points(work.store, work.runs[cure.run].run_id, "loss"),
            after=curves.of(cure.repaired),
            verdict=cure.verdict,
        )
        for cure in cures
    )


def _ratios(work: _Work) -> dict[int, ThinCurve]:
    """The stability ratio along runs spread over the study, as far as it was measured."""
    measured = [i for i, run in enumerate(work.runs) if "stability_ratio_max" in run.metrics]
    step = max(1, -(-len(measured) // _MOST_DRAWN))
    found = {
        i: read_points(work.store, work.runs[i].run_id, "stability_ratio") for i in measured[::step]
    }
    return {i: curve for i, curve in found.items() if curve.value.size}


def _repaired_ratios(
    work: _Work, cures: Sequence[Cure], trainer: Trainer
) -> tuple[RepairedRatio, ...]:
    """For saturated runs: what their own step is against the curvature of the repaired run."""
    own = [cure for cure in cures if _is_saturated(work.runs[cure.run])]
    if not own:
        return ()
    measured = {"training.sharpness_points": _SHARPNESS_POINTS}
    results = trainer.results([with_settings(cure.repaired, measured) for cure in own])
    found = (
        repaired_ratio(work.runs[cure.run], cure, result, work.n_examples)
        for cure, result in zip(own, results, strict=True)
    )
    return tuple(ratio for ratio in found if ratio is not None)


def _is_saturated(run: PastRun) -> bool:
    """As `stability.ratio` says it, from what was noted of the run."""
    tail = run.metrics.get("stability_ratio_tail")
    return tail is not None and tail < 0.5 and run.config.training.batch_size is None


def _question(work: _Work, known: Results, trainer: Trainer) -> QuestionSection | None:
    """The section on the question's own run, where the study has it."""
    own = next((run for run in work.study.runs if is_question(run.config)), None)
    if own is None:
        return None
    loss = fetch_run(work.store, own.run_id).result.loss
    space = tuple(entry for entry in work.space if not entry.path.startswith("training."))
    found = repair(
        with_settings(_unmeasured(own.config), {"training.dtype": "float32"}),
        space,
        trainer,
        n_examples=work.n_examples,
        gradient_norm=work.norms,
        seeds=work.config.explain.seeds,
        known=known,
    )
    return summarise_question(work.runs, own, loss, describe_repair(found))


def _record(work: _Work, found: Answer, content: PageContent, run_id: str, page: str) -> None:
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


def _say(work: _Work, found: Answer, content: PageContent) -> None:
    say(work.console, "", *content.sentences, "")
    if not found.is_complete:
        say(work.console, f"the time was up; the same command goes on: {content.commands[0]}")
    at = work.study.run_id
    where = run_address(work.store, at, PAGE_FILE) if at else work.store.uri
    say(work.console, f"the page, while mlflow ui runs: {where}")
    say(work.console, "next:", *(f"  {line}" for line in content.commands))


def _commands(work: _Work) -> tuple[str, ...]:
    """What to type next."""
    swinging = next((run for run in work.runs if run.judgement.verdict == "oscillating"), None)
    local = work.config.local
    commands = [explain_command(work.study.name, local)]
    if swinging is not None:
        commands.append(f"{explain_command(swinging.run_id, local)}   # of {swinging.name}")
        commands.append(rerun_command(swinging.run_id, local))
    return (*commands, *how_to_look(work.store))
