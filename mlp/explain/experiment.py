"""Runs of other programs: what was read of them, and whether they come out alike here."""

import dataclasses
import shlex
import time
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from mlp.causes.changes import SEEDS, plain, shown_value
from mlp.causes.observed import complete_space, count_values, parameters_of
from mlp.causes.plan import Results
from mlp.causes.reproduction import (
    JudgedCurve,
    Reproduction,
    compare_curves,
    compare_ends,
    unlike_sentences,
)
from mlp.config import ExplainConfig, RunConfig, canonical_json, digest
from mlp.curve import Judgement, Verdict
from mlp.data.dataset import Dataset
from mlp.engine.result import Result
from mlp.errors import SettingError, one_line
from mlp.settings import settings_for_seeds, settings_of, with_settings
from mlp.study.space import Space, typed
from mlp.terminal.screen import counting, render_verdicts, say
from mlp.tracking.display import explain_command
from mlp.tracking.params import DATA_NAME
from mlp.tracking.read import BroughtRun, PastRun, PastStudy, judge_as_logged
from mlp.tracking.store import Store, how_to_look, open_store
from mlp.training.train_runs import train_runs
from mlp.training.work import Executor

_MOST_GROUPS = 12  # settings that are trained again
_RERUNS = 144  # of all of them
_FEWEST, _MOST = 12, 32  # of one
_POPULATION = 36
_SEEDS_FROM = 2**31  # so that they are no seeds of what is rerun for a cause
_SEEDS_OF_A_GROUP = 256
_MOST_NAMED = 6
_LONG = 600
_LIKELY = (  # what programs do without a param that says it
    "data.scale",
    "initialization.scheme",
    "optimizer.momentum",
    "training.batch_size",
    "data.validation_fraction",
    "model.activation",
    "model.widths",
    "gradient.normalization",
    "optimizer.learning_rate",
)


def check_given(config: ExplainConfig, *, is_brought: bool) -> None:
    """Refuses what only runs of other programs need to be told, and what they cannot be asked.

    Raises:
        SettingError: for what was typed of that.
    """
    fixed = sorted([*config.given, *(f"map.{name}" for name in config.explain.map)])
    if fixed and not is_brought:
        raise SettingError(
            f"{fixed[0]} is read from the runs that are explained and cannot be typed here; "
            "python -m mlp.rerun RUN_ID changes a setting of a run"
        )
    if is_brought and config.explain.verdict not in ("worst", Verdict.OSCILLATING):
        raise SettingError(
            "explain.verdict must be oscillating for runs of another program, whose code is "
            f"compared by its swings, but is {config.explain.verdict}"
        )


def say_what_was_read(study: PastStudy, store: Store, console: Console) -> None:
    """Says which params were read, ignored and not understood, and what was left out."""
    runs = study.brought
    say(console, f"{study.name}: {verdicts_in_words(runs)} of another program in {store.uri}")
    used = dict(pair for run in runs for pair in run.read.used.items())
    # Params that bear their setting's name first.
    same = [path for path, name in used.items() if name.replace("/", ".") == path]
    other = [f"{name} as {path}" for path, name in used.items() if path not in same]
    if used:
        say(console, f"read: {one_line(', '.join([*same, *other]), most=_LONG)}")
    if ignored := dict.fromkeys(name for run in runs for name in run.read.ignored):
        say(console, f"ignored: {one_line(', '.join(ignored), most=_LONG)}")
    known = [run.read for run in runs if run.read.config is not None]
    if defaults := dict.fromkeys(path for read in known for path in read.defaults):
        values = settings_of(known[0].config or RunConfig())
        said = ", ".join(f"{path}={typed(values[path])}" for path in defaults)
        say(console, f"taken as default: {one_line(said, most=_LONG)}")
    if study.n_left_out:
        say(console, f"left out: {study.why_left_out}")
    problems = Counter(run.read.problem for run in runs if run.read.problem)
    for problem, n in problems.most_common(_MOST_NAMED):
        say(console, f"judged only: {n} of {len(runs)} runs, because {problem}")


def verdicts_in_words(runs: Sequence[PastRun | BroughtRun]) -> str:
    """How many there are, and how they ended."""
    counts = Counter(run.judgement.verdict.value for run in runs)
    told = ", ".join(f"{n} {name}" for name, n in counts.most_common())
    return f"{len(runs)} runs ({told})"


def say_verdicts(
    study: PastStudy, store: Store, config: ExplainConfig, console: Console
) -> tuple[str, ...]:
    """Shows how runs ended that can only be judged; what came of it, in sentences."""
    n = sum(run.verdict is Verdict.OSCILLATING for run in study.brought)
    first = f"{n or 'None'} of the {len(study.brought)} runs oscillate{'' if n > 1 else 's'}"
    why = ", and cannot be trained again here, so no cause is known" if n else ""
    sentences = (f"{first}{why}.",)
    say(console, "", *sentences, "")
    params = [run.params for run in study.brought]
    counts = [
        own
        for own in count_values(study.brought)
        if len({typed(each.get(own.parameter)) for each in params}) > 1
    ]
    if counts:
        console.print(render_verdicts(counts))
    commands = [*_what_to_type(study, config), *how_to_look(store)]
    say(console, "next:", *(f"  {line}" for line in commands))
    return sentences


def explain_again(study: PastStudy, config: ExplainConfig) -> str:
    """The command that was typed, with what it says about the runs."""
    words = shlex.split(explain_command(study.name, config.local))
    if study.brought:
        own = {f"map.{name}": path for name, path in config.explain.map.items()}
        own |= {path: typed(value) for path, value in config.given.items()}
        if config.explain.metric != "loss":
            own = {"metric": config.explain.metric} | own
        words += [f"{name}={value}" for name, value in own.items()]
    if config.explain.verdict != "worst":
        words.append(f"explain.verdict={config.explain.verdict}")
    return shlex.join(words)


def store_of_reruns(study: PastStudy, store: Store, config: ExplainConfig) -> Store:
    """Where reruns go: another program's experiment stays as it is."""
    if not study.brought:
        return store
    name = f"{store.client.get_experiment(study.experiment_id).name} reruns"
    return open_store(dataclasses.replace(config.local.tracking, experiment=name))


def _what_to_type(study: PastStudy, config: ExplainConfig) -> list[str]:
    """The command that says what the params stand for; none where nothing would be won."""
    reads = [run.read for run in study.brought if run.read.config is None]
    proposed = dict(pair for read in reads for pair in read.proposed.items())
    words = [f"map.{name}={path}" for name, path in proposed.items()]
    is_data_known = DATA_NAME in {*config.given, *proposed.values()}
    lacks_data = not is_data_known and any(DATA_NAME not in read.used for read in reads)
    if lacks_data and (words or any(read.used for read in reads)):
        words.append(f"{DATA_NAME}=digits")
        note = "   # or mnist: what they were trained on"
    else:
        note = ""
    return [f"{explain_again(study, config)} {shlex.join(words)}{note}"] if words else []


def check_code(
    study: PastStudy, data: Dataset, where: Executor, *, end: float, console: Console
) -> tuple[tuple[str, ...], float]:
    """Trains settings of other programs' runs again, unchanged, and compares.

    Args:
        study: of which only the runs of other programs are looked at.
        end: by the monotonic clock; no population is begun after it.

    Returns:
        What was found, in sentences: none where the runs came out alike, so that reruns say
        something about them. And the seconds that a rerun took.
    """
    groups = _groups(study.brought, data)
    n_each = min(_MOST, max(_FEWEST, _RERUNS // max(1, len(groups))))
    n = n_each * len(groups)
    started = time.monotonic()
    with counting(console, "reruns of the settings as they are", n) as told:
        found = _reproduce(groups, n_each, data, where, told=told, end=end)
    passed_s = time.monotonic() - started
    pace_s = passed_s / max(1, n)
    if found is None:
        late = (
            f"The time was up before the runs were trained again as they are, with {n} reruns; "
            "before they come out alike, no cause is looked for. That takes more than "
            f"{passed_s:.0f} s: a larger explain.timeout_s, or none."
        )
        return (late,), pace_s
    if not found.is_alike:
        return _finding(found, study), pace_s
    n_alike = found.n_own - found.n_unlike
    alike = f"{n_alike} of {found.n_own} runs go as the {found.n_reruns} reruns"
    say(console, f"trained again as they are: {alike}")
    return (), pace_s


def contradiction(study: PastStudy, known: Results) -> tuple[str, ...]:
    """What reruns with a changed setting came to that the runs with that setting did not.

    Args:
        known: reruns of any settings.

    Returns:
        The finding in sentences; empty where there is none.
    """
    reruns: dict[str, list[Judgement]] = {}
    for config, judged in known.items():
        reruns.setdefault(_without_seeds(config), []).append(judged)
    own: dict[str, list[BroughtRun]] = {}
    for run in study.brought:
        if run.read.config is not None:
            own.setdefault(_without_seeds(_config(run)), []).append(run)
    space = complete_space([_config(runs[0]) for runs in own.values()])
    compared = []
    for key, runs in own.items():
        if key in reruns:
            words = _in_words(_config(runs[0]), space)
            compared.append(compare_ends(words, [run.judgement for run in runs], reruns[key]))
    together = Reproduction(tuple(compared))
    return () if together.is_alike else _finding(together, study)


def _finding(found: Reproduction, study: PastStudy) -> tuple[str, ...]:
    defaults = {path for run in study.brought if run.read.config for path in run.read.defaults}
    return unlike_sentences(found, [path for path in _LIKELY if path in defaults])


def _in_words(config: RunConfig, space: Space) -> str:
    values = parameters_of(config, space)
    return ", ".join(f"{name}={shown_value(value)}" for name, value in values.items())


def _without_seeds(config: RunConfig) -> str:
    return canonical_json(settings_of(with_settings(plain(config), dict.fromkeys(SEEDS, 0))))


_Group = list[BroughtRun]  # that differ in their seeds alone, at the same steps


def _reproduce(
    groups: Sequence[_Group],
    n_each: int,
    data: Dataset,
    where: Executor,
    *,
    told: Callable[[int, float], None],
    end: float,
) -> Reproduction | None:
    """Trains each with further seeds and compares; None where the time was up before."""
    configs = [config for group in groups for config in _seeded(_config(group[0]), n_each)]
    results: list[Result] = []

    def progress(done: float, _losses: object) -> None:
        told(len(results), done)

    for first in range(0, len(configs), _POPULATION):
        if time.monotonic() > end:
            return None
        records = train_runs(configs[first : first + _POPULATION], data, where, progress=progress)
        results += [record.result for record in records]
    space = complete_space([_config(group[0]) for group in groups])
    comparisons = []
    for place, group in enumerate(groups):
        config, steps = _config(group[0]), _steps_here(group)
        own = [JudgedCurve(run.verdict, run.loss, steps) for run in group]
        again = results[place * n_each : (place + 1) * n_each]
        reruns = [_sampled(result, config, steps) for result in again]
        comparisons.append(compare_curves(_in_words(config, space), own, reruns))
    return Reproduction(tuple(comparisons))


def _groups(runs: Sequence[BroughtRun], data: Dataset) -> list[_Group]:
    """Those to be trained again: first those that swing, then the largest."""
    members: dict[str, list[BroughtRun]] = {}
    for run in runs:
        config = run.read.config
        if config is not None and config.data.name == data.name and run.loss.size > 1:
            key = canonical_json(
                [_without_seeds(config), run.step[[0, -1]].tolist(), run.loss.size]
            )
            members.setdefault(key, []).append(run)
    groups = sorted(members.values(), key=lambda own: -len(own))

    def swings(group: _Group) -> bool:
        return any(run.verdict is Verdict.OSCILLATING for run in group)

    swinging, quiet = [g for g in groups if swings(g)], [g for g in groups if not swings(g)]
    first = swinging[: max(_MOST_GROUPS * 2 // 3, _MOST_GROUPS - len(quiet))]
    return [*first, *quiet[: _MOST_GROUPS - len(first)]]


def _config(run: BroughtRun) -> RunConfig:
    assert run.read.config is not None
    return with_settings(plain(run.read.config), {"training.sharpness_points": 0})


def _seeded(config: RunConfig, n: int) -> list[RunConfig]:
    own = canonical_json(settings_for_seeds(config))
    first = _SEEDS_FROM + int(digest(own)[:5], 16) * _SEEDS_OF_A_GROUP
    paths = SEEDS if config.training.batch_size is not None else SEEDS[:1]
    return [with_settings(config, dict.fromkeys(paths, first + k)) for k in range(n)]


def _steps_here(group: _Group) -> NDArray[np.int64]:
    """The steps at which the runs logged their loss; of epochs, the steps that these stand for."""
    step, wanted = group[0].step, _config(group[0]).training.steps
    last = int(step[-1])
    if last in (wanted, wanted - 1) or last < 1:
        return step
    return np.unique((step * (wanted / last)).round().astype(np.int64)) if last < wanted else step


def _sampled(result: Result, config: RunConfig, steps: NDArray[np.int64]) -> JudgedCurve:
    """A rerun as it would have been logged at these steps."""
    loss, at = result.loss, result.loss_step
    if result.step_loss is not None and np.diff(steps).min(initial=1) < np.diff(at).max(initial=1):
        loss, at = result.step_loss, np.arange(result.step_loss.size)
    if not np.isfinite(loss).all():
        steps = steps[steps <= at[-1]]
    places = np.clip(np.searchsorted(at, steps), 0, loss.size - 1)
    taken = loss[places]
    if not np.isfinite(loss).all() and np.isfinite(taken).all():
        taken = np.append(taken, np.nan)  # it was lost between two of them
        steps = np.append(steps, at[-1])
    return JudgedCurve(judge_as_logged(taken, config).verdict, taken, steps)
