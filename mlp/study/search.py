"""The search: a space and Optuna's samplers in, trials to train out, their results back in.

A generation is asked in an in-memory copy of the study that holds only the trials of earlier
generations, by samplers seeded from the study's seed and the trial's number; it reaches the stored
study after its training, in trial order, one transaction a trial. So the stored study never holds a
running trial, a trial's number is its place in the search, and an unfinished generation is asked
again and comes out the same. Grid and quasi-random searches are lists of points, fixed by the space
and the seed.

A trial is pruned where it falls short of what earlier trials had reached at the same step. The bar
is made of earlier generations alone and handed to the training as data, so that a trial is
pruned alike in any population, by any worker, after a resume and in a rerun.
"""

import functools
import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeVar

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from mlp.config import RunConfig, Study, SweepConfig, Value, canonical_json
from mlp.curve import Verdict
from mlp.errors import BusyError, SettingError, counted
from mlp.settings import with_settings
from mlp.study.identity import TrialRow, differences, identity, study_name
from mlp.study.points import enqueued, enqueued_base, list_points
from mlp.study.space import (
    Choice,
    Domain,
    Space,
    Suggest,
    draw,
    flat,
    noted,
    parameters,
    read_space,
    value_or_first,
)
from mlp.study.storage import TEST_LOOKS, Storage, outlast

STARTUP_TRIALS = 5  # as Optuna's percentile pruner: fewer finished trials say too little
WARMUP_SHARE = 0.1  # of the steps: before that even good trials sit at chance level

_IDENTITY = "mlp.identity"  # user attribute of a stored study: what determines its results
NUMBERS = "numbers"  # user attribute of a trial: those in one, since each attribute takes 2 ms
_FORECASTS = "mlp.forecasts/"  # and the number of a generation's first trial
_LESS_IS_BETTER = ("loss", "error", "cost")  # parts of the names of what is minimized

T = TypeVar("T")
_MOST_DIFFERENCES = 5  # that are named


def _distribution(domain: Domain) -> BaseDistribution:
    """A domain as Optuna knows it."""
    if isinstance(domain, Choice):
        return CategoricalDistribution([_encoded(value) for value in domain.values])
    if domain.integer:
        return IntDistribution(
            int(domain.low), int(domain.high), log=domain.log, step=int(domain.step or 1)
        )
    return FloatDistribution(domain.low, domain.high, log=domain.log, step=domain.step)


def _suggest(asked: optuna.Trial, name: str, domain: Domain) -> Value:
    """A value of a domain by the sampler of an asked trial."""
    found = _distribution(domain)
    if isinstance(found, CategoricalDistribution):
        return _plain(domain, asked.suggest_categorical(name, found.choices))
    if isinstance(found, IntDistribution):
        return asked.suggest_int(name, found.low, found.high, step=found.step, log=found.log)
    assert isinstance(found, FloatDistribution)
    drawn = asked.suggest_float(name, found.low, found.high, step=found.step, log=found.log)
    return domain.own(drawn)


def _plain(domain: Domain, stored: Any) -> Value:
    """The value that Optuna stored, as the space has it; its integers may come back as floats."""
    if isinstance(domain, Choice):
        return next(value for value in domain.values if _encoded(value) == stored)
    return int(stored) if domain.integer else float(stored)


def _encoded(value: Value) -> bool | int | float | str | None:
    """The value as Optuna can store it: a list becomes its JSON text."""
    return canonical_json(value) if isinstance(value, list) else value


def thresholds(
    finished: Sequence[Mapping[int, float]], percentile: float, steps: int
) -> dict[int, float]:
    """The validation accuracy that a trial must have at each evaluated step to go on.

    Args:
        finished: of each earlier trial that was trained to its end, step -> validation accuracy.
        percentile: share of them that lies below the bar, 0 to 100; 50 is the median.
        steps: of a training; in the first tenth and at the last step nothing is pruned.

    Returns:
        Step -> accuracy; empty where too few trials are finished.

    Example:
        >>> thresholds([{20: 0.5}, {20: 0.7}, {20: 0.9}, {20: 0.9}, {20: 0.9}], 50, steps=100)
        {20: 0.9}
    """
    if len(finished) < STARTUP_TRIALS:
        return {}
    at_step = sorted({step for curve in finished for step in curve})
    return {
        step: float(np.percentile([curve[step] for curve in finished if step in curve], percentile))
        for step in at_step
        if WARMUP_SHARE * steps < step < steps
    }


@dataclass(frozen=True)
class Trial:
    """One point of the search.

    Attributes:
        number: its place in the search, from 0.
        params: parameter name -> value, as Optuna knows them.
    """

    number: int
    config: RunConfig
    params: Mapping[str, Value]


@dataclass(frozen=True, eq=False)
class Search:
    """An open study.

    Attributes:
        base: the settings that every trial shares, its data resolved.
        points: the whole list of a grid or quasi-random search; None where Optuna samples.
    """

    name: str
    config: Study
    objective: str
    base: RunConfig
    space: Space
    study: optuna.Study
    is_new: bool
    points: Sequence[Mapping[str, Value]] | None


def known_data(storage: Storage, config: SweepConfig) -> str | None:
    """The data set that the newest study with these settings has resolved, or None."""
    wanted = {**identity(config, "", ""), "data": None}
    for _, stored in _newest_first(storage):
        if {**stored, "data": None} == wanted:
            return str(stored["data"]["name"])
    return None


def related_study(
    storage: Storage, config: SweepConfig, what: Mapping[str, Any]
) -> tuple[str, list[str]] | None:
    """The newest other study of the same file, and how the present one differs from it."""
    for name, stored in _newest_first(storage):
        if name.startswith(f"{config.study.file}-") and stored != what:
            return name, differences(stored, what)
    return None


def _newest_first(storage: Storage) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and identity of each study of this program."""
    for summary in reversed(optuna.get_all_study_summaries(storage)):
        if text := summary.user_attrs.get(_IDENTITY):
            yield summary.study_name, json.loads(text)


def direction_of(objective: str) -> Literal["maximize", "minimize"]:
    """Whether a search looks for the highest or the lowest value.

    Example:
        >>> direction_of("oscillation"), direction_of("training_loss"), direction_of("val_error")
        ('maximize', 'minimize', 'minimize')
    """
    is_less = any(part in objective.lower() for part in _LESS_IS_BETTER)
    return "minimize" if is_less else "maximize"


def superlative(objective: str) -> str:
    """What the trial with the highest value is called; with `oscillation` that is no praise."""
    return "most unstable" if objective == "oscillation" else "best"


def open_search(storage: Storage, config: SweepConfig, what: Mapping[str, Any]) -> Search:
    """Opens the study of this identity, or creates it.

    Args:
        what: its `identity`.

    Raises:
        SettingError: for a study of that name with another identity; it names the difference.
    """
    name = study_name(config, what)
    existing = {summary.study_name: summary for summary in optuna.get_all_study_summaries(storage)}
    direction = direction_of(config.objective)
    if name in existing:
        _check_identity(existing[name], direction, what)
    study = optuna.create_study(
        storage=storage, study_name=name, direction=direction, load_if_exists=True
    )
    if _IDENTITY not in study.user_attrs:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names([config.objective])  # else it is called "Objective 0"
        study.set_user_attr(_IDENTITY, json.dumps(what, sort_keys=True))  # its lines may break
    space = read_space(config.study.space, config.base)
    return Search(
        name=name,
        config=config.study,
        objective=config.objective,
        base=config.base,
        space=space,
        study=study,
        is_new=name not in existing,
        points=list_points(config.study, space, config.base),
    )


def _check_identity(
    found: optuna.study.StudySummary, direction: str, what: Mapping[str, Any]
) -> None:
    """Refuses a stored study that is not the one that is wanted."""
    name, text = found.study_name, found.user_attrs.get(_IDENTITY)
    is_empty = not found.n_trials and not found.user_attrs
    if is_empty and found.direction.name == direction.upper():
        return  # made and nothing more, as by a sweep that was killed at that moment
    if text is None:
        raise SettingError(f"study {name} is of another program; choose another study.name")
    if different := differences(json.loads(text), what):
        more = "; ..." if len(different) > _MOST_DIFFERENCES else ""
        raise SettingError(
            f"study {name} exists with other settings "
            f"({'; '.join(different[:_MOST_DIFFERENCES])}{more}); choose another study.name"
        )


def n_planned(search: Search) -> int:
    """How many trials the study has in the end: what was asked for, at most the whole grid."""
    if search.points is None:
        return search.config.n_trials
    return min(search.config.n_trials, len(search.points))


def size_note(study: Study, n_planned: int) -> list[str]:
    """What to say of a grid that has fewer trials than `study.n_trials`."""
    if study.sampler != "grid" or n_planned >= study.n_trials:
        return []
    trials = counted(n_planned, "trial")
    return [f"the grid has {trials} in all, fewer than study.n_trials={study.n_trials}"]


def domains(search: Search) -> dict[str, Domain]:
    """Every parameter that any trial can have, by name, with the values it is drawn from."""
    return parameters(search.space, search.base)


def ask(search: Search) -> list[Trial]:
    """The trials of the next generation; none where the study is complete.

    Pure in the stored trials of earlier generations: asked again, the same generation comes out.
    """
    stored = _stored(search)
    generation = search.config.generation
    first = len(stored) // generation * generation
    numbers = range(first, min(first + generation, n_planned(search)))
    if search.points is not None:
        drawn = [_at_point(search, number, search.points[number]) for number in numbers]
    else:
        drawn = _sample(search, stored[:first], numbers)
    return [trial for trial in drawn if trial.number >= len(stored)]


def trial_of(search: Search, row: TrialRow) -> Trial:
    """A stored trial as it was asked."""
    return _at_point(search, row.number, row.params)


def _sample(search: Search, earlier: Sequence[FrozenTrial], numbers: range) -> list[Trial]:
    """Asks Optuna's sampler, in a copy of the study that holds earlier generations alone."""
    copy = optuna.create_study(direction=direction_of(search.objective))
    copy.add_trials(earlier)
    trials = []
    for number in numbers:
        copy.sampler = _sampler(search.config, number)
        if number < len(search.config.enqueue):
            fixed = enqueued(flat(search.config.enqueue[number]), search.space, search.base)
            copy.enqueue_trial({name: _encoded(v) for name, v in fixed.items()})
        trials.append(_draw(search, number, functools.partial(_suggest, copy.ask())))
    return trials


def _at_point(search: Search, number: int, point: Mapping[str, Value]) -> Trial:
    """The trial at one point; a parameter that the point does not name has its first value."""
    return _draw(search, number, functools.partial(value_or_first, point))


def _draw(search: Search, number: int, suggest: Suggest) -> Trial:
    """A trial of the search; an enqueued point may set more than the space varies."""
    base, points = search.base, search.config.enqueue
    if number < len(points):
        base = enqueued_base(flat(points[number]), search.space, base)
    taken: dict[str, Value] = {}
    drawn = draw(search.space, base, noted(suggest, taken))
    return Trial(number, with_settings(base, drawn), taken)


def _sampler(study: Study, number: int) -> BaseSampler:
    """A sampler whose stream depends on the study's seed and the trial's number alone."""
    seed = int.from_bytes(hashlib.sha256(f"{study.seed}/{number}".encode()).digest()[:4], "big")
    return RandomSampler(seed=seed) if study.sampler == "random" else TPESampler(seed=seed)


def tell(
    search: Search,
    trial: Trial,
    *,
    value: float | None,
    facts: Mapping[str, Any],
    accuracy_at: Mapping[int, float] | None = None,
    times_ms: tuple[int, int] | None = None,
) -> None:
    """Stores a trained trial, whole, in one transaction; trials are told in the order of number.

    Args:
        value: of the objective; None for a run that diverged or was pruned.
        facts: for the store, plain JSON values; its `verdict` and numbers, those below `NUMBERS` as
            well, make the `TrialRow`.
        accuracy_at: step -> validation accuracy, stored for a pruner's sake.
        times_ms: begin and end of its training, milliseconds since 1970 in UTC; None: it took none.

    Raises:
        BusyError: where another sweep, on another machine perhaps, has stored the trial already.
    """
    of_name = domains(search)
    told = create_trial(
        state=TrialState.PRUNED if value is None else TrialState.COMPLETE,
        value=value,
        params={name: _encoded(value) for name, value in trial.params.items()},
        distributions={name: _distribution(of_name[name]) for name in trial.params},
        user_attrs=dict(facts),
        # They cost a row each, and only a pruner reads them.
        intermediate_values=dict(accuracy_at or {}) if search.config.pruner != "none" else None,
    )
    if times_ms is not None:
        told.datetime_start, told.datetime_complete = (
            datetime.fromtimestamp(moment / 1000) for moment in times_ms
        )
    is_first_try = True

    def add() -> None:
        nonlocal is_first_try
        stored = search.study.get_trials(deepcopy=False)
        # A server that went away may have stored it and had no time to say so.
        if not is_first_try and len(stored) == trial.number + 1:
            last = stored[-1]
            if (last.params, last.user_attrs) == (told.params, told.user_attrs):
                return
        if len(stored) != trial.number:
            raise BusyError(
                f"another sweep is at work on the study {search.name}; wait for its end"
            )
        is_first_try = False
        search.study.add_trial(told)

    _patiently(search, add)


def thresholds_at(search: Search, number: int) -> dict[int, float]:
    """The bar for the trials of one generation, by the finished trials of earlier ones.

    Args:
        number: of any trial of the generation.

    Returns:
        Step -> validation accuracy; empty where nothing is pruned.
    """
    study = search.config
    if study.pruner == "none":
        return {}
    n_earlier = number // study.generation * study.generation
    earlier = _stored(search)[:n_earlier]
    finished = [t.intermediate_values for t in earlier if t.state is TrialState.COMPLETE]
    percentile = 50.0 if study.pruner == "median" else study.percentile
    return thresholds(finished, percentile, search.base.training.steps)


def best_of(table: Sequence[TrialRow], objective: str) -> TrialRow | None:
    """The trial with the best value, the earliest of equals; None where all diverged."""
    sign = 1 if direction_of(objective) == "minimize" else -1
    values = [(sign * row.value, row.number) for row in table if row.value is not None]
    return table[min(values)[1]] if values else None


def test_looks(search: Search) -> list[dict[str, Any]]:
    """Every look at the test part so far: `trial`, `n_trials` at that time, `test_accuracy`.

    Where another network of the trial's settings was looked at, also its `seed` and what it got
    `wrong`, as `mlp.sweep.winner.wrong_on` gives it.
    """
    looks: list[dict[str, Any]] = _patiently(
        search, lambda: search.study.user_attrs.get(TEST_LOOKS, [])
    )
    return looks


def add_test_look(
    search: Search, number: int, test_accuracy: float, further: Mapping[str, Any] | None = None
) -> None:
    """Notes a look at the test part for one trial, and further facts about it."""
    look = {"trial": number, "n_trials": len(rows(search)), "test_accuracy": test_accuracy}
    looks = [*test_looks(search), look | dict(further or {})]
    _patiently(search, lambda: search.study.set_user_attr(TEST_LOOKS, looks))


def add_notes(search: Search, notes: Mapping[int, str]) -> None:
    """Notes of trials, Markdown, as optuna-dashboard shows them; one that is there stays."""
    storage, study_id = search.study._storage, search.study._study_id
    known = _patiently(search, lambda: storage.get_study_system_attrs(study_id))
    for trial in _stored(search):
        place = f"dashboard:{trial._trial_id}:note_"
        if trial.number in notes and f"{place}ver" not in known:
            for name, value in (("str:0", notes[trial.number]), ("ver", 1)):
                storage.set_study_system_attr(study_id, place + name, value)


def forecasts(search: Search) -> dict[int, float]:
    """Trial -> its stability ratio at the first weights, as noted before its first step."""
    noted = _patiently(search, lambda: search.study.user_attrs)
    parts = (part for name, part in noted.items() if name.startswith(_FORECASTS))
    return {int(number): ratio for part in parts for number, ratio in part.items()}


def add_forecasts(search: Search, ratios: Mapping[int, float]) -> None:
    """Notes the stability ratios of trials that have made no step yet; trial -> ratio."""
    texts = {str(number): ratio for number, ratio in ratios.items()}
    name = f"{_FORECASTS}{min(ratios):06d}"
    _patiently(search, lambda: search.study.set_user_attr(name, texts))


def rows(search: Search) -> list[TrialRow]:
    """What is stored of the trials, in the order of their numbers."""
    of_name = domains(search)
    found = []
    for trial in _stored(search):
        noted = trial.user_attrs
        numbers = {**noted.get(NUMBERS, {}), **noted}  # studies of before have an attribute each
        found.append(
            TrialRow(
                number=trial.number,
                params={name: _plain(of_name[name], v) for name, v in trial.params.items()},
                verdict=Verdict(noted["verdict"]),
                value=None if trial.state is TrialState.PRUNED else trial.value,
                numbers={name: v for name, v in numbers.items() if isinstance(v, float)},
            )
        )
    return found


def _stored(search: Search) -> list[FrozenTrial]:
    return _patiently(search, lambda: search.study.get_trials(deepcopy=False))


def _patiently(search: Search, call: Callable[[], T]) -> T:
    """The call, begun again where the database server was away for a moment."""
    return outlast(search.config.storage, call)
