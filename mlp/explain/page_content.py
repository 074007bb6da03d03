"""Gathers what the page of an explanation shows: curves and ratios."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mlp.causes.answer import Answer, render_answer, sentences
from mlp.causes.changes import plain
from mlp.causes.observed import StudyRun
from mlp.config import RunConfig, Training
from mlp.data.dataset import Dataset
from mlp.explain.reruns import Retrainer
from mlp.report.summary import (
    Cure,
    CurvePair,
    PageContent,
    RepairedRatio,
    combinations_of,
    quality_of,
    repaired_ratio,
    spread_out,
)
from mlp.settings import with_settings
from mlp.study.space import Space
from mlp.tracking.display import ThinCurve
from mlp.tracking.read import PastRun, PastStudy, read_points
from mlp.tracking.store import Store, run_address

_MOST_DRAWN = 60  # runs whose stability ratio is drawn; more are a grey cloud
_SHARPNESS_POINTS = 16  # along the repaired runs of saturated ones


@dataclass(frozen=True)
class Compared:
    """The runs of a study that can be compared with each other.

    Attributes:
        runs: as they were read.
        observed: the same as attribution sees them.
        space: of the study, with every further setting in which they differ.
        data: that they were trained on.
    """

    runs: tuple[PastRun, ...]
    observed: tuple[StudyRun, ...]
    space: Space
    data: Dataset

    def by_config(self) -> dict[RunConfig, PastRun]:
        """The runs by their plain configs."""
        return {own.config: run for own, run in zip(self.observed, self.runs, strict=True)}


@dataclass(frozen=True)
class Curves:
    """Loss curves of reruns: of this explanation, of earlier ones, or trained once more."""

    store: Store
    earlier: Mapping[RunConfig, PastRun]
    trainer: Retrainer
    goes_on: Callable[[], bool]

    def of(self, config: RunConfig) -> ThinCurve:
        """The loss of a rerun, thinned."""
        own = plain(config)
        if own not in self.trainer.curves and own in self.earlier:
            run = self.earlier[own]
            return run.curve or read_points(self.store, run.run_id, "loss")
        if own not in self.trainer.curves:
            self.trainer([own])
        return self.trainer.curves[own]


def gather(
    study: PastStudy,
    compared: Compared,
    found: Answer,
    curves: Curves,
    *,
    cures: Sequence[Cure],
    commands: Sequence[str],
) -> PageContent:
    """Everything that the page shows.

    Args:
        study: what is explained.
        compared: its runs.
        found: the answer.
        curves: of the study's runs and of reruns.
        cures: reruns that repaired a run.
        commands: to type next.
    """
    runs, n_examples = compared.runs, compared.data.train.n_examples
    steps = sorted({run.config.training.steps for run in runs})
    of_what = (
        f"{' or '.join(str(n) for n in steps)} steps on {compared.data.name}: {n_examples} "
        "examples to train on"
    )
    if (own := runs[0].config.own) is not None:
        of_what = f"{own.program.function} in {own.program.file}"
    facts = (
        f"{len(runs)} runs of {of_what}",
        f"{found.n_oscillating} oscillate; {found.n_trained} reruns from "
        f"{found.n_picked[0]} oscillating and {found.n_picked[1]} quiet runs"
        + ("" if found.is_complete else ", stopped by the time limit: more when it is run again"),
        "a cause is named at a chance of 1 % of naming any false one, over all settings together",
    )
    return PageContent(
        title=study.name,
        facts=facts,
        sentences=sentences_of(study, found),
        evidence=render_answer(found),
        answer=found,
        runs=runs,
        observed=compared.observed,
        pairs=_pairs(runs, spread_out(cures), curves),
        ratios=_ratios(runs, curves.store),
        quality=quality_of(runs),
        repaired_ratios=_repaired_ratios(runs, cures, curves, n_examples),
        combinations=combinations_of(runs, compared.observed),
        addresses=tuple(run_address(curves.store, run.run_id) for run in runs),
        commands=tuple(commands),
    )


def sentences_of(study: PastStudy, found: Answer) -> tuple[str, ...]:
    """The answer, and what it is about where the study is not at its end."""
    part = f"The study is not at its end: this is about the {found.n_runs} runs that it had."
    return (*sentences(found), *([] if study.is_at_end else [part]))


def _pairs(runs: Sequence[PastRun], cures: Sequence[Cure], curves: Curves) -> tuple[CurvePair, ...]:
    return tuple(
        CurvePair(
            name=runs[cure.run].name,
            change=cure.text,
            before=read_points(curves.store, runs[cure.run].run_id, runs[cure.run].metric),
            after=curves.of(cure.repaired),
            verdict=cure.verdict,
        )
        for cure in cures
    )


def _ratios(runs: Sequence[PastRun], store: Store) -> dict[int, ThinCurve]:
    """The stability ratio along runs spread over the study, as far as it was measured."""
    measured = [i for i, run in enumerate(runs) if "stability_ratio_max" in run.metrics]
    step = max(1, -(-len(measured) // _MOST_DRAWN))
    found = {i: read_points(store, runs[i].run_id, "stability_ratio") for i in measured[::step]}
    return {i: curve for i, curve in found.items() if curve.value.size}


def _repaired_ratios(
    runs: Sequence[PastRun], cures: Sequence[Cure], curves: Curves, n_examples: int
) -> tuple[RepairedRatio, ...]:
    """For saturated runs: what their own step is against the curvature of the repaired run."""
    own = [cure for cure in cures if _is_saturated(runs[cure.run])]
    if not own or not curves.goes_on():
        return ()
    measured = {"training.sharpness_points": _SHARPNESS_POINTS}
    results = curves.trainer.results([with_settings(cure.repaired, measured) for cure in own])
    found = (
        repaired_ratio(runs[cure.run], cure, result, n_examples)
        for cure, result in zip(own, results, strict=True)
    )
    return tuple(ratio for ratio in found if ratio is not None)


def _is_saturated(run: PastRun) -> bool:
    """As `stability.ratio` says it, from what was noted of the run."""
    tail = run.metrics.get("stability_ratio_tail")
    return tail is not None and tail < 0.5 and run.config.training.batch_size is None


def unmeasured(config: RunConfig) -> RunConfig:
    """The same training without what is measured on the way, which no bit depends on."""
    return with_settings(
        config,
        {"training.sharpness_points": 0, "training.evaluate_every": Training().evaluate_every},
    )
