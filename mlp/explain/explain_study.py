"""Explains a study: which settings make its runs oscillate, by reruns, on screen and as a page."""

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
    sentences,
)
from mlp.causes.changes import GradientNorm, plain, standard_space
from mlp.causes.effects import effects
from mlp.causes.evidence import Conclusion
from mlp.causes.observed import complete_space, observe
from mlp.causes.plan import Results, plan_reruns
from mlp.config import Data, Execution, ExplainConfig, RunConfig
from mlp.curve import Judgement, Verdict
from mlp.data.dataset import examples_for
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
from mlp.explain.page_content import Compared, Curves, gather, sentences_of, unmeasured
from mlp.explain.reruns import Retrainer, recorded_explanation
from mlp.program import Program
from mlp.report.figures import Figure, figures_of
from mlp.report.page import render_page
from mlp.report.summary import Cure, PageContent, find_cures
from mlp.run import DEFAULT_EXPERIMENT
from mlp.settings import located, with_settings
from mlp.stability.sharpness import gradient_norms
from mlp.study.space import read_space
from mlp.terminal.compose import explain_config, named_by_study
from mlp.terminal.screen import counting, say, silent, waiting
from mlp.tracking.display import explain_command, rerun_command
from mlp.tracking.read import (
    Meaning,
    PastRun,
    PastStudy,
    busy_s,
    fetch_source,
    read_reruns,
    read_study,
)
from mlp.tracking.runs import describe_answer, log_text
from mlp.tracking.store import Store, how_to_look, open_store, run_address
from mlp.training.train_runs import n_threads, open_executor

PAGE_FILE = "report.html"
_LEAST_LIMIT_S = 30.0  # a study of seconds leaves no time to show anything
_LEAST_AFTER_SWEEP_S = 2.0  # whoever only wanted a sweep waits no longer than that for a tiny one
_POPULATION = 64  # reruns that are trained at once, at most
_FEWEST = 8  # fill the vectors of the engine: fewer take as long
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

    Args:
        name: of a study, the id of its parent run, or of an experiment; None: the last study.
        settings: of the group `explain`, such as `{"seeds": 8, "timeout_s": 600.0}`, with their
            group or without it, and with it of others, such as `{"execution.threads": 1}`; or a
            whole config.
        tracking_uri: of the store; None: MLFLOW_TRACKING_URI, else `mlflow.db` in the working
            directory.
        experiment: name of the MLflow experiment.
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
        inquiry = _Inquiry(compared, config, trained, earlier, console)
        other: tuple[str, ...] = ()
        with open_executor(config.local.execution, notice=inquiry.say) as where:
            clock = _Clock(started, limit_s, inquiry.pace_s(study))
            # Reruns say something about runs of another program only if these come out alike.
            if study.brought:
                end = started + limit_s if config.explain.timeout_s else math.inf
                checked = check_code(study, compared.data, where, end=end, console=console)
                other, clock.pace_s = checked.finding, checked.pace_s
                if not config.explain.timeout_s:  # which counts from here then
                    clock.started = time.monotonic()
            if other:
                inquiry.give_up()
            with _progress(inquiry, clock) as told:
                trainer = Retrainer(compared.data, where, reruns, study.key, told)
                inquiry.ask(trainer, clock)
            if study.brought and not other:
                other = contradiction(study, inquiry.known)
                if other:
                    inquiry.give_up()
            found = inquiry.answer()
            said = other or sentences_of(study, found)
            _say_answer(said, found, again, console)  # as soon as it is known
            at = study.run_id or run_id  # the study's own run, where there is one
            look = how_to_look(store, run_id=at)
            with waiting(console, "the page is being made"):
                content = gather(
                    study,
                    compared,
                    found,
                    Curves(store, trained | earlier, trainer, clock.has_time),
                    cures=inquiry.cures(found),
                    commands=look if other else [*_commands(study, compared, found, config), *look],
                )
                if other:
                    evidence = "\n".join(other)
                    content = dataclasses.replace(content, sentences=other, evidence=evidence)
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

    def _repr_html_(self) -> str:
        shown = self.figures()
        names = [name for name in ("map", "curves-0", "causes") if name in shown]
        said = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in self.sentences)
        return said + "".join(shown[name]._repr_html_() for name in names)

    def figures(self) -> dict[str, Figure]:
        """The figures of the page by name; a notebook shows each as the page does."""
        return figures_of(self.content) if self.content is not None else {}


def _compared(study: PastStudy, store: Store, config: ExplainConfig, console: Console) -> Compared:
    """The runs that can be compared, their space, and their data."""
    data_config, runs = _comparable(study, console)
    runs = _with_file(runs, study, store, config)
    if not study.brought:
        say(console, f"{study.name}: {verdicts_in_words(runs)} in {store.uri}")
    if study.n_left_out and not study.brought:
        say(console, f"{study.n_left_out} runs are left out; the first: {study.why_left_out}")
    one = dataclasses.replace(runs[0].config, data=data_config)
    one = with_settings(one, {"data.root": config.local.data.root})
    _, data = examples_for(one, notice=lambda line: say(console, line))
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
    if all(run.judgement.verdict is Verdict.OSCILLATING for run in runs):
        # Whatever is varied: then something that all runs share may do it.
        known = {entry.path for entry in space}
        space += tuple(e for e in standard_space(configs[0]) if e.path not in known)
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
    """What is asked of a study, and what is known of it.

    Attributes:
        plan: the runs that are changed, and how.
        known: results in the order of their training.
    """

    def __init__(
        self,
        compared: Compared,
        config: ExplainConfig,
        trained: Mapping[RunConfig, PastRun],
        earlier: Mapping[RunConfig, PastRun],
        console: Console,
    ) -> None:
        """Trains nothing.

        Args:
            trained: runs of the study that count as reruns of their configs.
            earlier: reruns of earlier calls.
        """
        data = compared.data
        self._compared, self.console = compared, console
        self._norms: GradientNorm = functools.partial(
            gradient_norms, data=data, threads=n_threads(Execution())
        )
        if data.program is not None:  # what its gradient is, only the function knows
            self._norms = lambda configs: [1.0] * len(configs)
        self.plan = plan_reruns(
            compared.observed,
            compared.space,
            interventions=config.explain.interventions,
            seeds=config.explain.seeds,
            n_examples=data.train.n_examples,
            gradient_norm=self._norms,
        )
        self.known = {own: run.judgement for own, run in trained.items()}
        self.n_earlier = len(earlier)
        in_order = sorted(
            earlier.items(), key=lambda item: (item[1].started_ms, order_in_population(item[0]))
        )
        self.known |= {config: run.judgement for config, run in in_order}
        self._busy_s = busy_s([run for _, run in in_order])
        self._n_trained = 0
        self._said: set[str] = set()

    def say(self, *lines: str) -> None:
        """Shows lines."""
        say(self.console, *lines)

    def give_up(self) -> None:
        """Asks for nothing, since no rerun would say anything about these runs."""
        self.plan = dataclasses.replace(self.plan, picks=(), factors=())
        self.known = {}

    def pace_s(self, study: PastStudy | None = None) -> float:
        """Seconds that a rerun takes, by all that were trained; at first, as a run of the study."""
        n = self.n_earlier + self._n_trained
        if n or study is None:
            return self._busy_s / max(1, n)
        return study.duration_s / max(1, len(study.runs))

    def ask(self, trainer: Retrainer, clock: "_Clock") -> None:
        """Trains what decides most, population after population, while there is time."""

        def train(configs: Sequence[RunConfig]) -> Sequence[Judgement]:
            before = trainer.seconds
            judged = trainer(configs)
            self._busy_s += trainer.seconds - before
            self._n_trained += len(configs)
            clock.pace_s = self.pace_s()
            return judged

        def heard(results: Results) -> None:
            self.known = dict(results)
            self._tell(clock)

        self._tell(clock)
        try:
            investigate(
                self.plan,
                train,
                known=self.known,
                population=clock.population,
                goes_on=clock.has_time,
                heard=heard,
            )
        except KeyboardInterrupt:
            found = self.answer()
            self.say("", *sentences(found), "")
            raise

    def answer(self) -> Answer:
        """What is known now."""
        return answer(
            self.plan,
            self.known,
            n_examples=self._compared.data.train.n_examples,
            gradient_norm=self._norms,
            pace_s=self.pace_s() or None,
        )

    def cures(self, found: Answer) -> list[Cure]:
        """Reruns that repaired a run."""
        judged = [run.judgement for run in self._compared.runs]
        return find_cures(self.plan, self.known, found, judged)

    def _tell(self, clock: "_Clock") -> None:
        """Says what was settled since, and when."""
        for effect in effects(self.plan, self.known):
            setting, conclusion = effect.factor.setting, effect.conclusion
            is_settled = conclusion in (Conclusion.CAUSE, Conclusion.NO_EFFECT)
            if is_settled and not effect.factor.keeps_step and setting not in self._said:
                self._said.add(setting)
                if self._n_trained:
                    at = f"after {clock.seconds:.0f} s and {self._n_trained} reruns"
                    self.say(f"{at}: {setting} {conclusion.value}")


def _progress(
    inquiry: _Inquiry, clock: "_Clock"
) -> AbstractContextManager[Callable[[int, float], None]]:
    found = inquiry.answer()
    told = "reruns to train: none"
    if not found.is_complete:
        told = f"reruns to train: {_left(found.n_left, clock.pace_s)}"
        if found.n_left * clock.pace_s > clock.limit_s:
            told += f", of which explain.timeout_s={clock.limit_s:.0f} leaves a part for later"
    again = f"; {inquiry.n_earlier} of earlier explanations are used" if inquiry.n_earlier else ""
    inquiry.say(told + again)
    return counting(inquiry.console, "reruns", found.n_left)


def _left(n: int, pace_s: float) -> str:
    return f"about {n}, {max(1.0, n * pace_s):.0f} s"


@dataclass
class _Clock:
    """How much time is left.

    Attributes:
        started: by the monotonic clock, in seconds.
        limit_s: for the reruns; the page comes after it.
        pace_s: of one rerun, as far as is known.
        n_begun: populations.
    """

    started: float
    limit_s: float
    pace_s: float
    n_begun: int = 0

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.started

    def population(self) -> int:
        """Reruns to train at once: few enough to look often and to end in time."""
        left_s = self.limit_s - self.seconds
        room_s = min(left_s, self.limit_s / _LOOKS)
        self.n_begun += 1
        return max(_FEWEST, min(_POPULATION, int(room_s / max(self.pace_s, 1e-3))))

    def has_time(self) -> bool:
        """Whether there is time for another rerun; for the first population there always is."""
        half_s = self.pace_s * _FEWEST / 2  # half a population beyond the limit is as near to it
        return self.n_begun == 0 or self.seconds + half_s < self.limit_s


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
        if run.judgement.verdict is Verdict.OSCILLATING and run.run_id not in brought:
            local = dataclasses.replace(config.local, own=run.config.own)
            commands.append(f"{explain_command(run.run_id, local)}   # of {run.name}")
            commands.append(rerun_command(run.run_id, local))
            break
    return commands


def _say_answer(said: Sequence[str], found: Answer, again: str, console: Console) -> None:
    table = evidence_table(found)
    say(console, "", *said, "", *table, *([""] if table else []))
    if not found.is_complete:
        left = _left(found.n_left, found.pace_s or 0.0)
        say(console, f"the time was up; reruns left to settle the rest: {left}: {again}")
