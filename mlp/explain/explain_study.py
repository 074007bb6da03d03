"""Explains a study: which settings make its runs oscillate, or end badly otherwise, by reruns."""

import dataclasses
import functools
import html
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from mlp.causes.answer import (
    Answer,
    answer,
    evidence_table,
    investigate,
    order_in_population,
    render_answer,
    sentences,
)
from mlp.causes.changes import GradientNorm, plain, standard_space
from mlp.causes.effects import effects, look
from mlp.causes.evidence import Conclusion
from mlp.causes.observed import DEEDS, complete_space, deed, observe, verdict_to_explain
from mlp.causes.plan import Plan, Results, plan_reruns
from mlp.config import Data, ExplainConfig, Own, RunConfig, Training
from mlp.curve import Judgement, Verdict
from mlp.data.dataset import Dataset
from mlp.errors import RecordError, counted, patiently
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
from mlp.explain.reruns import Retrainer, norms_of, own_function, recorded_explanation
from mlp.program import Program
from mlp.report.page import Figure, figures_of, render_page
from mlp.report.summary import (
    CurvePair,
    PageContent,
    combinations_of,
    find_cures,
    quality_of,
    spread_out,
)
from mlp.run import DEFAULT_EXPERIMENT
from mlp.settings import with_settings
from mlp.study.space import read_space
from mlp.terminal.compose import explain_config, named_by_study
from mlp.terminal.screen import counting, say, silent, waiting
from mlp.tracking.display import (
    AUDIT_ASKS,
    ThinCurve,
    audit_command,
    explain_command,
    rerun_command,
)
from mlp.tracking.drain import Drain
from mlp.tracking.read import (
    Meaning,
    PastRun,
    PastStudy,
    busy_s,
    read_points,
    read_reruns,
    read_study,
)
from mlp.tracking.store import (
    Store,
    describe_answer,
    how_to_look,
    log_text,
    open_store,
    run_address,
)
from mlp.train import load_examples
from mlp.training.train_runs import open_executor
from mlp.training.work import Executor

PAGE_FILE = "report.html"
_LEAST_LIMIT_S = 30.0  # a study of seconds leaves no time to show anything
_LEAST_AFTER_SWEEP_S = 2.0  # whoever only wanted a sweep waits no longer than that for a tiny one
_POPULATION = 64  # reruns that are trained at once, at most
_FEWEST = 8  # fill the vectors of the engine: fewer take as long
_MOST_DRAWN = 60  # runs whose stability ratio is drawn; more are a grey cloud
_TOLD = (Conclusion.CAUSE, Conclusion.NO_EFFECT, Conclusion.NO_STOP)  # as soon as it is known
_OVERRUN = 0.1  # of the limit, where that names the first cause
_LOOKS = 8  # in the time there is, at least: what is known chooses what is trained next


def explain_study(
    name: str | None = None,
    settings: "dict[str, Any] | ExplainConfig | None" = None,
    *,
    tracking_uri: str | None = None,
    experiment: str = DEFAULT_EXPERIMENT,
    console: Console | None = None,
    is_after_sweep: bool = False,
) -> "Explanation":
    """Finds out which settings make the loss of a study's runs oscillate, by reruns.

    Where none oscillates, or most diverge, it asks about the worst end that they have
    (`explain.verdict`).

    Args:
        name: of a study, the id of its parent run, or of an experiment; None: the last study.
        settings: of the group `explain`, such as `{"seeds": 8, "timeout_s": 600.0}`, with their
            group or without it, and with it of others, such as `{"execution.threads": 1}`; or a
            whole config.
        tracking_uri: of the store; None: MLFLOW_TRACKING_URI, else `mlflow.db` in the working
            directory.
        console: where progress and the answer are shown; None: nowhere.
        is_after_sweep: whether a sweep ends with it, which says itself what to type next.

    Returns:
        The answer, its sentences, the page, and `figures()`, which a notebook shows.

    Raises:
        SettingError: for a setting that breaks a law.
        MissingInputError: where there is no such study.
        RecordError: for one whose runs cannot be read.
        DataError: where the data here are not those of the study.

    Example:
        >>> import mlp
        >>> end = mlp.run_study("smoke", {"training.steps": 30, "study.explain": False})
        >>> found = mlp.explain_study(end.name, {"interventions": 1, "seeds": 1})
        >>> found.answer.n_runs, {"causes", "map"} <= found.figures().keys()
        (4, True)
    """
    config = explain_config(settings, tracking_uri, experiment)
    console = console or silent()
    started = time.monotonic()
    if name is None:  # a study is this program's own
        check_given(config, is_brought=False)
    meaning = Meaning(config.explain.metric, config.explain.map, config.given)
    with waiting(console, "reading the runs"):
        opened = patiently(lambda: open_store(config.local.tracking))
        study = patiently(lambda: read_study(opened, name, meaning))
    store = dataclasses.replace(opened, experiment_id=study.experiment_id)  # where its runs are
    check_given(config, is_brought=bool(study.brought))
    if study.brought:
        say_what_was_read(study, store, console)
        if not any(run.judgement.verdict is Verdict.OSCILLATING for run in study.runs):
            said = say_verdicts(study, store, config, console)
            return Explanation(study, None, said, None, None, "")
    runs = _comparable(study, store, config, console)
    own_config = with_settings(runs[0].config, {"data.root": config.local.data.root})
    _, data = load_examples(own_config, console, {run.data_digest for run in runs}, "study")
    configs = [plain(_unmeasured(run.config)) for run in runs]
    norms = norms_of(data, configs)
    plan = _plan(study, runs, data, config, norms=norms)
    least_s = _LEAST_AFTER_SWEEP_S if is_after_sweep else _LEAST_LIMIT_S
    limit_s = config.explain.timeout_s or max(study.duration_s, least_s)
    again = explain_again(study, config)
    own = store_of_reruns(study, store, config)
    with (
        open_executor(config.local.execution, notice=functools.partial(say, console)) as where,
        recorded_explanation(
            own,
            key=study.key,
            name=study.name,
            parent=study.run_id,
            console=console,
            command=again,
        ) as (reruns, run_id),
    ):
        # What earlier explanations have trained, where it was on these data, in that order.
        own_data = [r for r in read_reruns(own, study.key) if r.data_digest == data.digest]
        known = {plain(rerun.config): rerun for rerun in own_data}
        in_turn = sorted(known, key=lambda c: (known[c].started_ms, order_in_population(c)))
        earlier = {config: known[config] for config in in_turn}
        # A rerun that is a run of the study, to the last bit, is not trained once more.
        past = earlier
        if not study.brought:
            past = {seen.config: run for seen, run in zip(plan.runs, runs, strict=True)} | earlier
        finding: tuple[str, ...] = ()
        pace_s = study.duration_s / max(1, len(study.runs))
        if study.brought:
            end = started + limit_s if config.explain.timeout_s else math.inf
            finding, pace_s = check_code(study, data, where, end=end, console=console)
            if not config.explain.timeout_s:  # the time counts from here then
                started = time.monotonic()
        inquiry = _Inquiry(
            plan=plan,
            data=data,
            norms=norms,
            console=console,
            started=started,
            limit_s=limit_s,
            known={config: run.judgement for config, run in past.items()},
            n_earlier=len(earlier),
            busy_s=busy_s([*earlier.values()]),
            first_pace_s=pace_s,
        )
        if finding:
            inquiry.give_up()
        trainer = inquiry.ask(where, reruns, study.key)
        if study.brought and not finding and (finding := contradiction(study, inquiry.known)):
            inquiry.give_up()
        found = inquiry.answer()
        said = finding or _sentences_of(study, found)
        _say_answer(said, found, again, console)  # as soon as it is known
        at = study.run_id or run_id  # the study's own run, where there is one
        commands = [] if finding else _commands(study, runs, found, config)
        commands += how_to_look(store, run_id=at)
        with waiting(console, "the page is being made"):
            content = PageContent(
                title=study.name,
                facts=_facts(runs, data, found),
                sentences=said,
                evidence="\n".join(said) if finding else render_answer(found),
                answer=found,
                runs=runs,
                observed=plan.runs,
                pairs=_pairs(runs, inquiry, found, past, store, trainer),
                ratios=_ratios(runs, store),
                quality=quality_of(runs),
                combinations=combinations_of(runs, plan.runs),
                addresses=tuple(run_address(store, run.run_id) for run in runs),
                commands=tuple(commands),
            )
            page = render_page(content)
        with waiting(console, "the page is being recorded"):
            log_text(own, at, page, PAGE_FILE)
            causes = [name for cause in found.causes for name in cause.settings]
            describe_answer(own, dict.fromkeys((at, run_id)), sentences=said, causes=causes)
    say(console, f"the page, while mlflow ui runs: {run_address(own, at, PAGE_FILE)}")
    if not is_after_sweep:
        say(console, "next:", *(f"  {line}" for line in commands))
    return Explanation(study, found, said, run_id, content, page)


@dataclass(frozen=True)
class Explanation:
    """What was found of a study.

    Attributes:
        answer: which settings cause the bad end, with the evidence; None where the runs, of
            another program, were only judged. Then there are no run, content and page either.
        sentences: the answer for a person.
        run_id: of the explain run in MLflow.
    """

    study: PastStudy
    answer: Answer | None
    sentences: tuple[str, ...]
    run_id: str | None
    content: PageContent | None = field(repr=False)
    page: str = field(repr=False)

    def __str__(self) -> str:
        return "\n".join(self.sentences)

    def _repr_html_(self) -> str:
        drawn = self.figures()
        said = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in self.sentences)
        shown = [drawn[name] for name in ("map", "curves-0", "causes") if name in drawn]
        return said + "".join(figure._repr_html_() for figure in shown)

    def figures(self) -> dict[str, Figure]:
        """The figures of the page by name; a notebook shows each as the page does."""
        return figures_of(self.content) if self.content is not None else {}


def _comparable(
    study: PastStudy, store: Store, config: ExplainConfig, console: Console
) -> tuple[PastRun, ...]:
    """The runs with the data and precision that most have; of an own function with its file."""
    (common, _), *_ = Counter(map(_kind, study.runs)).most_common(1)
    runs = tuple(run for run in study.runs if _kind(run) == common)
    if n_other := len(study.runs) - len(runs):
        say(
            console,
            f"{n_other} with other data or another training.dtype than the rest: shown, but not "
            "compared",
        )
    recorded = runs[0].config.own
    if recorded is None and runs[0].config.data.name == "auto":
        raise RecordError(f"{study.name} does not say which data its runs were trained on")
    if recorded is not None:
        named = config.local.own
        if named is None and study.sweep is not None:
            named = named_by_study(study.sweep.study.file)
        way = "explain a study of the file as it is: python -m mlp.sweep"
        own = own_function(recorded, named, store, runs[0].run_id, what="study", way=way)
        runs = tuple(_trained_by(own, run) for run in runs)
    if not study.brought:
        say(console, f"{study.name}: {verdicts_in_words(runs)} in {store.uri}")
        if study.n_left_out:
            say(console, f"{study.n_left_out} runs are left out; the first: {study.why_left_out}")
    return runs


def _kind(run: PastRun) -> tuple[Data, str, Program | None]:
    own = run.config.own
    data, dtype = dataclasses.replace(run.config.data, root=None), run.config.training.dtype
    return data, dtype, None if own is None else own.program


def _trained_by(own: Own, run: PastRun) -> PastRun:
    """The run with its own function's file."""
    assert run.config.own is not None
    here = dataclasses.replace(own, values=run.config.own.values)
    return dataclasses.replace(run, config=dataclasses.replace(run.config, own=here))


def _plan(
    study: PastStudy,
    runs: Sequence[PastRun],
    data: Dataset,
    config: ExplainConfig,
    *,
    norms: GradientNorm,
) -> Plan:
    """Which verdict is asked about, and what is changed in which runs."""
    configs = [_unmeasured(run.config) for run in runs]
    verdicts = [run.judgement.verdict for run in runs]
    named = read_space(study.sweep.study.space, study.sweep.base) if study.sweep else ()
    # Of one run nothing differs; what may be changed in it is then what `explain RUN_ID` changes.
    space = complete_space(configs, named) if len(runs) > 1 else standard_space(configs[0])
    typed = config.explain.verdict
    asked = verdict_to_explain(verdicts) if typed == "worst" else Verdict(typed)
    if study.brought:
        asked = Verdict.OSCILLATING
    if all(verdict is asked for verdict in verdicts):
        # Whatever is varied: then something that all runs share may do it.
        known = {entry.path for entry in space}
        space += tuple(e for e in standard_space(configs[0]) if e.path not in known)
    return plan_reruns(
        observe(configs, verdicts, space),
        space,
        asked=asked,
        interventions=config.explain.interventions,
        seeds=config.explain.seeds,
        n_examples=data.train.n_examples,
        gradient_norm=norms,
    )


def _unmeasured(config: RunConfig) -> RunConfig:
    """The same training without what is measured on the way, which no bit depends on."""
    return with_settings(
        config,
        {"training.sharpness_points": 0, "training.evaluate_every": Training().evaluate_every},
    )


@dataclass(eq=False, kw_only=True)
class _Inquiry:
    """What is asked of a study in the time there is, and what is known of it.

    Attributes:
        started: by the monotonic clock, in seconds.
        limit_s: for the reruns; the page comes after it.
        known: results in the order of their training.
        n_earlier: reruns of earlier calls, among what is known.
        busy_s: in which reruns were trained, by earlier calls as well.
        first_pace_s: of one rerun, as long as none is measured.
        told: settings with what was said of them.
    """

    plan: Plan
    data: Dataset
    norms: GradientNorm
    console: Console
    started: float
    limit_s: float
    known: Results
    n_earlier: int
    busy_s: float
    first_pace_s: float
    n_trained: int = 0
    n_begun: int = 0
    told: set[tuple[str, Conclusion]] = field(default_factory=set)

    def ask(self, where: Executor, reruns: Drain, key: str) -> Retrainer:
        """Trains what decides most, population after population, while there is time."""
        self._tell()
        n_left = self._say_what_is_left()
        with counting(self.console, "reruns", n_left) as told:
            trainer = Retrainer(self.data, where, reruns, key, told)

            def train(configs: Sequence[RunConfig]) -> Sequence[Judgement]:
                before = trainer.seconds
                judged = trainer(configs)
                self.busy_s += trainer.seconds - before
                self.n_trained += len(configs)
                return judged

            def heard(results: Results) -> None:
                self.known = dict(results)
                self._tell()

            try:
                investigate(
                    self.plan,
                    train,
                    known=self.known,
                    population=self._population,
                    goes_on=self._has_time,
                    heard=heard,
                )
            except KeyboardInterrupt:
                say(self.console, "", *sentences(self.answer()), "")
                raise
        return trainer

    def give_up(self) -> None:
        """Asks nothing, where no rerun would say anything about the runs."""
        self.known, self.plan = {}, dataclasses.replace(self.plan, picks=(), factors=())

    def answer(self) -> Answer:
        """What is known now."""
        return answer(
            self.plan,
            self.known,
            n_examples=self.data.train.n_examples,
            gradient_norm=self.norms,
            pace_s=self._measured_s() or None,
        )

    def _tell(self) -> None:
        """Says what was settled since, and when."""
        for effect in effects(self.plan, look(self.plan, self.known)):
            setting, conclusion = effect.factor.setting, effect.conclusion
            if conclusion not in _TOLD or effect.factor.keeps_step:
                continue
            if (setting, conclusion) not in self.told:
                self.told.add((setting, conclusion))
                if self.n_trained:
                    at = f"after {self._passed_s():.0f} s and {counted(self.n_trained, 'rerun')}"
                    say(self.console, f"{at}: {setting} {conclusion.words(self.plan.asked)}")

    def _say_what_is_left(self) -> int:
        """Says how many reruns are left to train, about, and how long they take; gives how many."""
        found = self.answer()
        told = "reruns to train: none"
        if not found.is_complete and found.n_left == 0:
            told = "reruns to train: those of two settings together"
        elif not found.is_complete:
            told = f"reruns to train: {_left(found.n_left, self._pace_s())}"
            if found.n_left * self._pace_s() > self.limit_s:
                told += f", of which explain.timeout_s={self.limit_s:.0f} leaves a part for later"
        again = f"; {self.n_earlier} of earlier explanations are used" if self.n_earlier else ""
        say(self.console, told + again)
        return found.n_left

    def _measured_s(self) -> float:
        """Seconds that a rerun took; 0 before any."""
        return self.busy_s / max(1, self.n_earlier + self.n_trained)

    def _pace_s(self) -> float:
        return self._measured_s() or self.first_pace_s

    def _passed_s(self) -> float:
        return time.monotonic() - self.started

    def _population(self) -> int:
        """Reruns to train at once: few enough to look often and to end in time."""
        room_s = min(self.limit_s - self._passed_s(), self.limit_s / _LOOKS)
        self.n_begun += 1
        return max(_FEWEST, min(_POPULATION, int(room_s / max(self._pace_s(), 1e-3))))

    def _has_time(self) -> bool:
        """Whether there is time for another rerun; for the first population there always is.

        Where the first cause is a few pairs away, the limit is not what keeps it back.
        """
        half_s = self._pace_s() * _FEWEST / 2  # half a population beyond the limit is as near to it
        if self.n_begun == 0 or self._passed_s() + half_s < self.limit_s:
            return True
        n_pairs = self.answer().n_to_decide
        needed_s = math.inf if n_pairs is None else max(_FEWEST, 2 * n_pairs) * self._pace_s()
        return self._passed_s() + needed_s < (1 + _OVERRUN) * self.limit_s


def _left(n: int, pace_s: float) -> str:
    return f"about {n}, {max(1.0, n * pace_s):.0f} s"


def _sentences_of(study: PastStudy, found: Answer) -> tuple[str, ...]:
    """The answer, and what it is about where the study is not at its end."""
    part = f"The study is not at its end: this is about the {found.n_runs} runs that it had."
    return (*sentences(found), *([] if study.is_at_end else [part]))


def _say_answer(said: Sequence[str], found: Answer, again: str, console: Console) -> None:
    table = evidence_table(found)
    say(console, "", *said, "", *table, *([""] if table else []))
    if not found.is_complete:
        left = f"reruns left to settle the rest: {_left(found.n_left, found.pace_s or 0.0)}"
        if found.n_left == 0:
            left = "whether two settings act only together is left to ask"
        say(console, f"the time was up; {left}: {again}")


def _commands(
    study: PastStudy, runs: Sequence[PastRun], found: Answer, config: ExplainConfig
) -> list[str]:
    """What to type next."""
    more = explain_again(study, config)
    if found.is_complete:
        more += f" explain.interventions={2 * config.explain.interventions}   # rests on more"
    commands = [more]
    if (written := runs[0].config.own) is not None and not found.causes:
        commands.append(f"{audit_command(written)}   # {AUDIT_ASKS}")
    brought = {run.run_id for run in study.brought}  # what `rerun` cannot read
    own = [run for run in runs if run.run_id not in brought]
    for run in [run for run in own if run.judgement.verdict is found.asked][:1]:
        local = dataclasses.replace(config.local, own=run.config.own)
        commands.append(f"{explain_command(run.run_id, local)}   # of {run.name}")
        commands.append(rerun_command(run.run_id, local))
    counts = Counter(run.judgement.verdict for run in runs)
    for verdict in DEEDS:
        if verdict is not found.asked and counts[verdict] and not study.brought:
            why = f"# why {deed(verdict, counts[verdict])}"
            again = explain_command(study.name, config.local)
            commands.append(f"{again} explain.verdict={verdict.value}   {why}")
    return commands


# What the page shows


def _facts(runs: Sequence[PastRun], data: Dataset, found: Answer) -> tuple[str, ...]:
    steps = " or ".join(map(str, sorted({run.config.training.steps for run in runs})))
    of_what = f"{steps} steps on {data.name}: {data.train.n_examples} examples to train on"
    if (own := runs[0].config.own) is not None:
        of_what = f"{own.program.function} in {own.program.file}"
    return (
        f"{len(runs)} runs of {of_what}",
        f"{deed(found.asked, found.n_asked)}; {found.n_trained} reruns from "
        f"{found.n_picked[0]} {found.asked.value} and {found.n_picked[1]} healthy runs"
        + ("" if found.is_complete else ", stopped by the time limit: more when it is run again"),
        "a cause is named at a chance of 1 % of naming any false one, over all settings together",
    )


def _pairs(
    runs: Sequence[PastRun],
    inquiry: _Inquiry,
    found: Answer,
    past: Mapping[RunConfig, PastRun],
    store: Store,
    trainer: Retrainer,
) -> tuple[CurvePair, ...]:
    """Losses that end badly with repaired ones: of reruns here, of past ones, or trained anew."""

    def loss_of(repaired: RunConfig) -> ThinCurve:
        if repaired in past and repaired not in trainer.curves:
            run = past[repaired]
            return run.curve or read_points(store, run.run_id, "loss")
        if repaired not in trainer.curves:
            trainer([repaired])
        return trainer.curves[repaired]

    pairs = []
    known = inquiry.known
    cures = find_cures(inquiry.plan, known, found, [run.judgement for run in runs])
    for pick, change in spread_out(cures):
        run, repaired = runs[pick.run], pick.changed([change], 0)
        assert repaired is not None  # it was trained
        before = read_points(store, run.run_id, run.metric)
        verdict = known[repaired].verdict
        pairs.append(CurvePair(run.name, change.text, before, loss_of(repaired), verdict))
    return tuple(pairs)


def _ratios(runs: Sequence[PastRun], store: Store) -> dict[int, ThinCurve]:
    """The stability ratio along runs spread over the study, as far as it was measured."""
    measured = [i for i, run in enumerate(runs) if "stability_ratio_max" in run.metrics]
    step = max(1, -(-len(measured) // _MOST_DRAWN))
    found = {i: read_points(store, runs[i].run_id, "stability_ratio") for i in measured[::step]}
    return {i: curve for i, curve in found.items() if curve.value.size}
