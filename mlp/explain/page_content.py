"""Gathers what the page of an explanation shows: curves and ratios."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console

from mlp.causes.answer import Answer, render_answer, sentences
from mlp.causes.changes import plain
from mlp.causes.observed import StudyRun
from mlp.causes.plan import Plan, Results
from mlp.config import Execution, ExplainConfig, RunConfig, Training
from mlp.data.dataset import Dataset
from mlp.explain.reruns import Trainer
from mlp.report.summary import (
    Cure,
    CurvePair,
    PageContent,
    RepairedRatio,
    combinations_of,
    find_cures,
    quality_of,
    repaired_ratio,
    spread_out,
)
from mlp.settings import with_settings
from mlp.stability.sharpness import gradient_norms
from mlp.study.space import Space
from mlp.tracking.display import ThinCurve, explain_command, rerun_command
from mlp.tracking.read import PastRun, PastStudy, read_points
from mlp.tracking.store import Store, how_to_look, run_address
from mlp.training.executor import n_threads

_LEAST_LIMIT_S = 30.0  # a study of seconds leaves no time to show anything
_MOST_DRAWN = 60  # runs whose stability ratio is drawn; more are a grey cloud
_SHARPNESS_POINTS = 16  # along the repaired runs of saturated ones


@dataclass(frozen=True)
class Subject:
    """What is explained, and what its steps share.

    Attributes:
        store: where it is tracked.
        study: as it was read.
        runs: of the study, those that can be compared.
        observed: the same as attribution sees them.
        space: of the study, with every further setting in which they differ.
        data: that they were trained on.
        config: how much may be trained, and where.
        console: for the user.
        started: by the monotonic clock, in seconds.
    """

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
    def pace_s(self) -> float:
        """Seconds that a training of the study took, in its populations."""
        return self.study.duration_s / max(1, len(self.study.runs))

    @property
    def n_examples(self) -> int:
        """In the training part."""
        return self.data.train.n_examples

    def norms(self, configs: Sequence[RunConfig]) -> list[float]:
        """Gradient norms at the first weights."""
        return gradient_norms(configs, self.data, threads=n_threads(Execution()))


@dataclass(frozen=True)
class Curves:
    """Loss curves of reruns: of this explanation, of earlier ones, or trained once more."""

    store: Store
    earlier: Mapping[RunConfig, PastRun]
    trainer: Trainer
    goes_on: Callable[[], bool]

    def of(self, config: RunConfig) -> ThinCurve:
        """The loss of a rerun, thinned."""
        own = plain(config)
        if own not in self.trainer.curves and own in self.earlier:
            return read_points(self.store, self.earlier[own].run_id, "loss")
        if own not in self.trainer.curves:
            self.trainer([own])
        return self.trainer.curves[own]


def gather(
    work: Subject,
    inquiry: Plan,
    known: Results,
    found: Answer,
    curves: Curves,
) -> PageContent:
    """Everything that the page shows."""
    cures = find_cures(inquiry, known, found, [run.judgement for run in work.runs])
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
        sentences=(*sentences(found), *_of_a_part(work)),
        evidence=render_answer(found),
        answer=found,
        runs=work.runs,
        observed=work.observed,
        pairs=_pairs(work, spread_out(cures), curves),
        ratios=_ratios(work),
        quality=quality_of(work.runs),
        repaired_ratios=_repaired_ratios(work, cures, curves),
        combinations=combinations_of(work.runs, work.observed),
        addresses=tuple(run_address(work.store, run.run_id) for run in work.runs),
        commands=_commands(work, found),
    )


def _pairs(work: Subject, cures: Sequence[Cure], curves: Curves) -> tuple[CurvePair, ...]:
    return tuple(
        CurvePair(
            name=work.runs[cure.run].name,
            change=cure.text,
            before=read_points(work.store, work.runs[cure.run].run_id, "loss"),
            after=curves.of(cure.repaired),
            verdict=cure.verdict,
        )
        for cure in cures
    )


def _ratios(work: Subject) -> dict[int, ThinCurve]:
    """The stability ratio along runs spread over the study, as far as it was measured."""
    measured = [i for i, run in enumerate(work.runs) if "stability_ratio_max" in run.metrics]
    step = max(1, -(-len(measured) // _MOST_DRAWN))
    found = {
        i: read_points(work.store, work.runs[i].run_id, "stability_ratio") for i in measured[::step]
    }
    return {i: curve for i, curve in found.items() if curve.value.size}


def _repaired_ratios(
    work: Subject, cures: Sequence[Cure], curves: Curves
) -> tuple[RepairedRatio, ...]:
    """For saturated runs: what their own step is against the curvature of the repaired run."""
    own = [cure for cure in cures if _is_saturated(work.runs[cure.run])]
    if not own or not curves.goes_on():
        return ()
    measured = {"training.sharpness_points": _SHARPNESS_POINTS}
    results = curves.trainer.results([with_settings(cure.repaired, measured) for cure in own])
    found = (
        repaired_ratio(work.runs[cure.run], cure, result, work.n_examples)
        for cure, result in zip(own, results, strict=True)
    )
    return tuple(ratio for ratio in found if ratio is not None)


def _is_saturated(run: PastRun) -> bool:
    """As `stability.ratio` says it, from what was noted of the run."""
    tail = run.metrics.get("stability_ratio_tail")
    return tail is not None and tail < 0.5 and run.config.training.batch_size is None


def _of_a_part(work: Subject) -> list[str]:
    """Said with the answer, so that it stands wherever the answer does."""
    if work.study.is_at_end:
        return []
    return [f"The study is not at its end: this is about the {len(work.runs)} runs that it had."]


def _commands(work: Subject, found: Answer) -> tuple[str, ...]:
    """What to type next."""
    swinging = next((run for run in work.runs if run.judgement.verdict == "oscillating"), None)
    local = work.config.local
    more = explain_command(work.study.name, local)
    if found.is_complete:
        more += f" explain.interventions={2 * work.config.explain.interventions}   # rests on more"
    commands = [more]
    if swinging is not None:
        commands.append(f"{explain_command(swinging.run_id, local)}   # of {swinging.name}")
        commands.append(rerun_command(swinging.run_id, local))
    return (*commands, *how_to_look(work.store))


def unmeasured(config: RunConfig) -> RunConfig:
    """The same training without what is measured on the way, which no bit depends on."""
    return with_settings(
        config,
        {"training.sharpness_points": 0, "training.evaluate_every": Training().evaluate_every},
    )
