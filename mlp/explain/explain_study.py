"""Explains a study: which settings make its runs oscillate, or end badly otherwise, by reruns."""

import dataclasses
import functools
import html
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
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
from mlp.causes.changes import plain, standard_space
from mlp.causes.effects import effects, look
from mlp.causes.evidence import Conclusion
from mlp.causes.observed import DEEDS, StudyRun, complete_space, deed, observe, verdict_to_explain
from mlp.causes.plan import Results, plan_reruns
from mlp.config import Data, ExplainConfig, RunConfig, Training
from mlp.curve import Judgement, Verdict
from mlp.data.dataset import Dataset
from mlp.errors import DataError, RecordError, SettingError, patiently
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
from mlp.explain.reruns import Retrainer, examples_of, norms_of, recorded_explanation
from mlp.program import Program
from mlp.report.page import Figure, figures_of, render_page
from mlp.report.summary import (
    Cure,
    CurvePair,
    PageContent,
    combinations_of,
    find_cures,
    quality_of,
    spread_out,
)
from mlp.run import DEFAULT_EXPERIMENT
from mlp.settings import located, with_settings
from mlp.study.space import Space, read_space
from mlp.terminal.compose import explain_config, named_by_study
from mlp.terminal.screen import counting, say, silent, waiting
from mlp.tracking.display import ThinCurve, explain_command, rerun_command
from mlp.tracking.drain import Drain
from mlp.tracking.read import (
    Meaning,
    PastRun,
    PastStudy,
    busy_s,
    fetch_source,
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
from mlp.training.train_runs import open_executor
from mlp.training.work import Executor

PAGE_FILE = "report.html"
_LEAST_LIMIT_S = 30.0  # a study of seconds leaves no time to show anything
_LEAST_AFTER_SWEEP_S = 2.0  # whoever only wanted a sweep waits no longer than that for a tiny one
_POPULATION = 64  # reruns that are trained at once, at most
_FEWEST = 8  # fill the vectors of the engine: fewer take as long
_MOST_DRAWN = 60  # runs whose stability ratio is drawn; more are a grey cloud
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
        if config.explain.verdict not in ("worst", Verdict.OSCILLATING):
            raise SettingError(
                "explain.verdict must be oscillating for runs of another program, whose code is "
                f"compared by its swings, but is {config.explain.verdict}"
            )
        say_what_was_read(study, store, console)
        if not any(run.judgement.verdict is Verdict.OSCILLATING for run in study.runs):
            sentences = say_verdicts(study, store, config, console)
            return Explanation(study, None, sentences, None, None, "")
    compared = _compared(study, store, config, console)
    least_s = _LEAST_AFTER_SWEEP_S if is_after_sweep else _LEAST_LIMIT_S
    limit_s = config.explain.timeout_s or max(study.duration_s, least_s)
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
        # A rerun that is a run of the study, to the last bit, is not trained once more.
        trained = {} if study.brought else compared.by_config()
        with open_executor(config.local.execution, notice=functools.partial(say, console)) as where:
            inquiry = _Inquiry(study, compared, config, trained, earlier, console, started, limit_s)
            inquiry.check(where)
            trainer = inquiry.ask(where, reruns)
            found = inquiry.answer()
            said = inquiry.finding or sentences_of(study, found)
            _say_answer(said, found, again, console)  # as soon as it is known
            at = study.run_id or run_id  # the study's own run, where there is one
            commands = [] if inquiry.finding else _commands(study, compared, found, config)
            commands += how_to_look(store, run_id=at)
            with waiting(console, "the page is being made"):
                curves = Curves(store, trained | earlier, trainer)
                cures = inquiry.cures(found)
                content = gather(study, compared, found, curves, cures=cures, commands=commands)
                if inquiry.finding:
                    evidence = "\n".join(said)
                    content = dataclasses.replace(content, sentences=said, evidence=evidence)
                page = render_page(content)
        with waiting(console, "the page is being recorded"):
            log_text(own, at, page, PAGE_FILE)
            causes = [name for cause in found.causes for name in cause.settings]
            ids = dict.fromkeys((at, run_id))
            describe_answer(store, ids, sentences=content.sentences, causes=causes)
    say(console, f"the page, while mlflow ui runs: {run_address(own, at, PAGE_FILE)}")
    if not is_after_sweep:
        say(console, "next:", *(f"  {line}" for line in content.commands))
    return Explanation(study, found, content.sentences, run_id, content, page)


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
        shown = self.figures()
        names = [name for name in ("map", "curves-0", "causes") if name in shown]
        said = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in self.sentences)
        return said + "".join(shown[name]._repr_html_() for name in names)

    def figures(self) -> dict[str, Figure]:
        """The figures of the page by name; a notebook shows each as the page does."""
        return figures_of(self.content) if self.content is not None else {}


@dataclass(frozen=True)
class Compared:
    """The runs of a study that can be compared with each other.

    Attributes:
        asked: the verdict that is explained.
        observed: the same as attribution sees them.
        space: of the study, with every further setting in which they differ.
    """

    asked: Verdict
    runs: tuple[PastRun, ...]
    observed: tuple[StudyRun, ...]
    space: Space
    data: Dataset

    def by_config(self) -> dict[RunConfig, PastRun]:
        """The runs by their plain configs."""
        return {own.config: run for own, run in zip(self.observed, self.runs, strict=True)}


def _compared(study: PastStudy, store: Store, config: ExplainConfig, console: Console) -> Compared:
    """The runs that can be compared, their space, and their data."""
    data_config, runs = _comparable(study, console)
    runs = _with_file(runs, study, store, config)
    if not study.brought:
        say(console, f"{study.name}: {verdicts_in_words(runs)} in {store.uri}")
    if study.n_left_out and not study.brought:
        say(console, f"{study.n_left_out} runs are left out; the first: {study.why_left_out}")
    one = dataclasses.replace(runs[0].config, data=data_config)
    digests = {run.data_digest for run in runs}
    data = examples_of(one, config.local.data.root, digests, "study", console)
    configs = [unmeasured(run.config) for run in runs]
    named = read_space(study.sweep.study.space, study.sweep.base) if study.sweep else ()
    # Of one run nothing differs; what may be changed in it is then what `explain RUN_ID` changes.
    space = complete_space(configs, named) if len(runs) > 1 else standard_space(configs[0])
    verdicts = [run.judgement.verdict for run in runs]
    asked = _asked(verdicts, study, config)
    if all(verdict is asked for verdict in verdicts):
        # Whatever is varied: then something that all runs share may do it.
        known = {entry.path for entry in space}
        space += tuple(e for e in standard_space(configs[0]) if e.path not in known)
    return Compared(asked, runs, observe(configs, verdicts, space), space, data)


def _asked(verdicts: Sequence[Verdict], study: PastStudy, config: ExplainConfig) -> Verdict:
    typed = config.explain.verdict
    if study.brought:
        return Verdict.OSCILLATING
    return verdict_to_explain(verdicts) if typed == "worst" else Verdict(typed)


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
    if common[0].name == "auto" and runs[0].config.own is None:
        raise RecordError(f"{study.name} does not say which data its runs were trained on")
    return common[0], runs


def _kind(run: PastRun) -> tuple[Data, str, Program | None]:
    own = run.config.own
    data, dtype = dataclasses.replace(run.config.data, root=None), run.config.training.dtype
    return data, dtype, None if own is None else own.program


def _with_file(
    runs: tuple[PastRun, ...], study: PastStudy, store: Store, config: ExplainConfig
) -> tuple[PastRun, ...]:
    """The runs of an own function, where its file is named: here, or by the study's own file."""
    recorded = runs[0].config.own
    if recorded is None:
        return runs
    named = config.local.own
    if named is None and study.sweep is not None:
        named = named_by_study(study.sweep.study.file)
    own = located(recorded, named, lambda: fetch_source(store, runs[0].run_id))
    if own.program != recorded.program:
        raise DataError(
            f"{own.program.file} is not what the study was trained by; explain a study of the "
            "file as it is: python -m mlp.sweep"
        )
    return tuple(
        dataclasses.replace(
            run,
            config=dataclasses.replace(
                run.config, own=dataclasses.replace(own, values=run.config.own.values)
            ),
        )
        for run in runs
        if run.config.own is not None
    )


class _Inquiry:
    """What is asked of a study in the time there is, and what is known of it.

    Attributes:
        plan: the runs that are changed, and how.
        known: results in the order of their training.
        finding: why nothing is asked of runs of another program, in sentences; else empty.
    """

    def __init__(
        self,
        study: PastStudy,
        compared: Compared,
        config: ExplainConfig,
        trained: Mapping[RunConfig, PastRun],
        earlier: Mapping[RunConfig, PastRun],
        console: Console,
        started: float,
        limit_s: float,
    ) -> None:
        """Trains nothing.

        Args:
            trained: runs of the study that count as reruns of their configs.
            earlier: reruns of earlier calls.
            started: by the monotonic clock, in seconds.
            limit_s: for the reruns; the page comes after it.
        """
        self._study, self._compared, self._console = study, compared, console
        self._started, self._limit_s = started, limit_s
        self._is_limited = bool(config.explain.timeout_s)
        self._norms = norms_of(compared.data)
        self.plan = plan_reruns(
            compared.observed,
            compared.space,
            asked=compared.asked,
            interventions=config.explain.interventions,
            seeds=config.explain.seeds,
            n_examples=compared.data.train.n_examples,
            gradient_norm=self._norms,
        )
        in_order = sorted(
            earlier.items(), key=lambda item: (item[1].started_ms, order_in_population(item[0]))
        )
        self.known = {own: run.judgement for own, run in [*trained.items(), *in_order]}
        self.finding: tuple[str, ...] = ()
        self._n_earlier, self._n_trained, self._n_begun = len(earlier), 0, 0
        self._busy_s = busy_s([run for _, run in in_order])
        # Of one rerun; before any is known, as a run of the study.
        self._pace_s = self._measured_pace_s() or study.duration_s / max(1, len(study.runs))
        self._said: set[str] = set()

    def check(self, where: Executor) -> None:
        """Trains another program's runs as they are: reruns say something only if they do alike."""
        if not self._study.brought:
            return
        end = self._started + self._limit_s if self._is_limited else math.inf
        data = self._compared.data
        finding, self._pace_s = check_code(self._study, data, where, end=end, console=self._console)
        if not self._is_limited:  # the time counts from here then
            self._started = time.monotonic()
        self._give_up(finding)

    def ask(self, where: Executor, reruns: Drain) -> Retrainer:
        """Trains what decides most, population after population, while there is time."""
        self._tell()
        with self._progress() as told:
            trainer = Retrainer(self._compared.data, where, reruns, self._study.key, told)

            def train(configs: Sequence[RunConfig]) -> Sequence[Judgement]:
                before = trainer.seconds
                judged = trainer(configs)
                self._busy_s += trainer.seconds - before
                self._n_trained += len(configs)
                self._pace_s = self._measured_pace_s()
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
                say(self._console, "", *sentences(self.answer()), "")
                raise
        if self._study.brought and not self.finding:
            self._give_up(contradiction(self._study, self.known))
        return trainer

    def answer(self) -> Answer:
        """What is known now."""
        return answer(
            self.plan,
            self.known,
            n_examples=self._compared.data.train.n_examples,
            gradient_norm=self._norms,
            pace_s=self._measured_pace_s() or None,
        )

    def cures(self, found: Answer) -> list[Cure]:
        """Reruns that repaired a run."""
        judged = [run.judgement for run in self._compared.runs]
        return find_cures(self.plan, self.known, found, judged)

    def _give_up(self, finding: tuple[str, ...]) -> None:
        """After a finding nothing is asked, since no rerun would say anything about these runs."""
        if finding:
            self.finding, self.known = finding, {}
            self.plan = dataclasses.replace(self.plan, picks=(), factors=())

    def _tell(self) -> None:
        """Says what was settled since, and when."""
        for effect in effects(self.plan, look(self.plan, self.known)):
            setting, conclusion = effect.factor.setting, effect.conclusion
            is_settled = conclusion in (Conclusion.CAUSE, Conclusion.NO_EFFECT)
            if is_settled and not effect.factor.keeps_step and setting not in self._said:
                self._said.add(setting)
                if self._n_trained:
                    at = f"after {self._passed_s():.0f} s and {self._n_trained} reruns"
                    say(self._console, f"{at}: {setting} {conclusion.words(self.plan.asked)}")

    def _progress(self) -> AbstractContextManager[Callable[[int, float], None]]:
        found = self.answer()
        told = "reruns to train: none"
        if not found.is_complete:
            told = f"reruns to train: {_left(found.n_left, self._pace_s)}"
            if found.n_left * self._pace_s > self._limit_s:
                told += f", of which explain.timeout_s={self._limit_s:.0f} leaves a part for later"
        again = f"; {self._n_earlier} of earlier explanations are used" if self._n_earlier else ""
        say(self._console, told + again)
        return counting(self._console, "reruns", found.n_left)

    def _measured_pace_s(self) -> float:
        """Seconds that a rerun took; 0 before any."""
        return self._busy_s / max(1, self._n_earlier + self._n_trained)

    def _passed_s(self) -> float:
        return time.monotonic() - self._started

    def _population(self) -> int:
        """Reruns to train at once: few enough to look often and to end in time."""
        room_s = min(self._limit_s - self._passed_s(), self._limit_s / _LOOKS)
        self._n_begun += 1
        return max(_FEWEST, min(_POPULATION, int(room_s / max(self._pace_s, 1e-3))))

    def _has_time(self) -> bool:
        """Whether there is time for another rerun; for the first population there always is."""
        half_s = self._pace_s * _FEWEST / 2  # half a population beyond the limit is as near to it
        return self._n_begun == 0 or self._passed_s() + half_s < self._limit_s


def _left(n: int, pace_s: float) -> str:
    return f"about {n}, {max(1.0, n * pace_s):.0f} s"


def _commands(
    study: PastStudy, compared: Compared, found: Answer, config: ExplainConfig
) -> list[str]:
    """What to type next."""
    more = explain_again(study, config)
    if found.is_complete:
        more += f" explain.interventions={2 * config.explain.interventions}   # rests on more"
    commands = [more]
    brought = {run.run_id for run in study.brought}  # what `rerun` cannot read
    for run in compared.runs:
        if run.judgement.verdict is compared.asked and run.run_id not in brought:
            local = dataclasses.replace(config.local, own=run.config.own)
            commands.append(f"{explain_command(run.run_id, local)}   # of {run.name}")
            commands.append(rerun_command(run.run_id, local))
            break
    counts = Counter(run.judgement.verdict for run in compared.runs)
    for verdict in DEEDS:
        if verdict is not compared.asked and counts[verdict] and not study.brought:
            why = f"# why {deed(verdict, counts[verdict])}"
            again = explain_command(study.name, config.local)
            commands.append(f"{again} explain.verdict={verdict.value}   {why}")
    return commands


def _say_answer(said: Sequence[str], found: Answer, again: str, console: Console) -> None:
    table = evidence_table(found)
    say(console, "", *said, "", *table, *([""] if table else []))
    if not found.is_complete:
        left = _left(found.n_left, found.pace_s or 0.0)
        say(console, f"the time was up; reruns left to settle the rest: {left}: {again}")


# What the page shows


@dataclass(frozen=True)
class Curves:
    """Loss curves of reruns: of this explanation, of earlier ones, or trained once more."""

    store: Store
    earlier: Mapping[RunConfig, PastRun]
    trainer: Retrainer

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
    """Everything that the page shows."""
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
        f"{deed(found.asked, found.n_asked)}; {found.n_trained} reruns from "
        f"{found.n_picked[0]} {found.asked.value} and {found.n_picked[1]} healthy runs"
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


def unmeasured(config: RunConfig) -> RunConfig:
    """The same training without what is measured on the way, which no bit depends on."""
    return with_settings(
        config,
        {"training.sharpness_points": 0, "training.evaluate_every": Training().evaluate_every},
    )
