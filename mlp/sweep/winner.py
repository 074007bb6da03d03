"""The end of a sweep: its winner named, tested, made a model; what to type next.

With `study.confirm_seeds` the winner's settings are tested with further seeds, on all examples but
the test part. Such a network is kept in the spool until MLflow has it, and each look at the test
part is stored with the search: a sweep that was killed looks at no network twice and loses none.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import floor, log10
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from mlp.causes.observed import DEEDS, count_values
from mlp.config import RunConfig, canonical_json
from mlp.curve import Verdict
from mlp.data.dataset import Dataset, Part, example_images, features, load_data
from mlp.engine.result import Ending
from mlp.errors import SystemLimitError, counted
from mlp.network import Array, Layer, Params, accuracy, forward
from mlp.report.mistakes import render_mistakes, summarise_mistakes
from mlp.settings import settings_of, with_settings
from mlp.study import search
from mlp.study.identity import TrialRow
from mlp.study.search import Search
from mlp.sweep.generation import Keeper, train_again
from mlp.terminal.screen import render_verdicts, say, waiting
from mlp.tracking.display import ThinCurve, doctor_command, explain_command, rerun_command, run_name
from mlp.tracking.drain import Drain
from mlp.tracking.listing import NOTE_TAG, label_of_trial, picture_link, run_link, study_note
from mlp.tracking.picture import study_picture
from mlp.tracking.record import RunRecord
from mlp.training.train_runs import train_runs
from mlp.training.work import Executor

if TYPE_CHECKING:
    from mlp.explain.explain_study import Explanation

FORECASTS = "forecasts.json"  # artifact of the study's run: trial -> ratio at its first weights
_SMALL = 0.001  # of a value: below it four places say little
_MOST_NOTES = 256  # of trials for optuna-dashboard: each takes some milliseconds
LOSSES = "losses.svg"  # artifact of the study's run
WRONG_DIGITS = "wrong_digits.svg"  # likewise
MOST_WRONG = 100  # that are kept of a network
_SEED_END = 2**32
_LOWEST = -7  # power of ten; what sinks below leaves the chart, where it would press the others


@dataclass(frozen=True)
class StudyEnd:
    """How a study ended, or where it was left.

    Attributes:
        n_finite: those whose loss stayed finite.
        n_oscillating: those whose loss oscillates.
        n_bad: those whose loss ended badly in any way.
        is_complete: whether it has all trials that were asked for.
        best_trial: number of the best one; None where there is none.
        best_value: what the objective was there.
        best_run_id: of its run in MLflow; None where MLflow did not take it.
        test_accuracy: of the best one, 0 to 1; None before the study is complete.
        commands: to type next.
        explanation: which settings make runs end badly; None where few do, or nobody asked.
    """

    name: str
    n_trials: int
    n_finite: int
    n_oscillating: int
    n_bad: int
    is_complete: bool
    best_trial: int | None = None
    best_value: float | None = None
    best_run_id: str | None = None
    test_accuracy: float | None = None
    commands: tuple[str, ...] = field(default=(), repr=False)
    explanation: "Explanation | None" = field(default=None, repr=False)


def name_winner(
    opened: Search,
    data: Dataset,
    where: Executor,
    keeper: Keeper,
    *,
    best: RunRecord | None,
    console: Console,
) -> StudyEnd:
    """Names the winner of a study that is trained, and looks at the test part for it.

    Args:
        where: who trains what is needed for the test.
        best: record of the best trial, where it was trained just now.
    """
    table, drain = search.rows(opened), keeper.drain
    row = search.best_of(table, opened.objective)
    verdicts = [each.verdict for each in table]
    n_oscillating = verdicts.count(Verdict.OSCILLATING)
    is_complete = len(table) >= search.n_planned(opened)
    console.print(render_verdicts(count_values(table)))
    if foretold := search.forecasts(opened):
        text = canonical_json({str(number): ratio for number, ratio in sorted(foretold.items())})
        drain.describe(files={FORECASTS: text})
    _draw(table, keeper)
    totals = {"n_trials": len(table), "oscillating_share": n_oscillating / max(1, len(table))}
    said, metrics = "the test part waits for the study's end", dict[str, float]()
    if row is None:
        drain.describe(metrics=totals, tags={NOTE_TAG: study_note(verdicts)})
    else:
        # Only a complete study has its best trial tested, and made a model.
        if is_complete and opened.base.own is None:
            said, metrics = _test(
                opened, row, data, where, keeper=keeper, best=best, console=console
            )
        say(console, *_describe_winner(opened, row, said, {**totals, **metrics}, drain))
    with waiting(console, "the last runs are being recorded"):
        drain.finish("FINISHED")
        links = {n: f"[its run in MLflow]({where})" for n, where in drain.addresses().items()}
        search.add_notes(opened, dict(itertools.islice(links.items(), _MOST_NOTES)))
    say(console, *not_uploaded(opened, keeper))
    return StudyEnd(
        name=opened.name,
        n_trials=len(table),
        n_finite=sum(each not in (Verdict.DIVERGED, Verdict.FAILED) for each in verdicts),
        n_oscillating=n_oscillating,
        n_bad=sum(each in DEEDS for each in verdicts),
        is_complete=is_complete,
        best_trial=row.number if row else None,
        best_value=row.value if row else None,
        best_run_id=drain.run_ids.get(row.number) if row else None,
        test_accuracy=metrics.get("test_accuracy"),
        commands=_what_next(opened, keeper, row.number) if row else (),
    )


def _draw(table: Sequence[TrialRow], keeper: Keeper) -> None:
    """The losses of all trials in one picture, and a chart in MLflow that has room for them."""
    if not keeper.curves and not keeper.drain.n_given:  # nothing is new
        return

    def picture(curve_of: Callable[[int], ThinCurve]) -> str:
        return study_picture(
            {
                row.number: (row.verdict, keeper.curves.get(row.number) or curve_of(row.number))
                for row in table
            }
        )

    keeper.drain.draw(LOSSES, picture)
    losses = [row.numbers["final_loss"] for row in table if row.numbers.get("final_loss")]
    lowest = min(losses, default=1.0)
    keeper.drain.show(keeper.page, max(_LOWEST, min(-1, floor(log10(lowest)))))


def _test(
    opened: Search,
    row: TrialRow,
    data: Dataset,
    where: Executor,
    *,
    keeper: Keeper,
    best: RunRecord | None,
    console: Console,
) -> tuple[str, dict[str, float]]:
    """Looks at the test part for the best trial, and makes a model of it.

    Returns:
        What a person, and what the metrics of the study's run are told of it.
    """
    if opened.config.confirm_seeds:
        with waiting(console, "the winner's settings are trained with further seeds"):
            said, metrics = confirm(opened, row, where, keeper)
        of_run = {"confirmed_test_accuracy": metrics["test_accuracy"]}  # of other networks
    else:
        look = _looks(opened).get((row.number, 0))  # none is looked at twice
        if look is None:
            if best is None:
                [best] = train_again(opened, [row], data, where)
            accuracy = accuracy_on(data.test, best, data)
            search.add_test_look(opened, row.number, accuracy)
        else:
            accuracy = float(look["test_accuracy"])
        metrics = of_run = {"test_accuracy": accuracy}
        said = f"test accuracy {accuracy:.4f}"
    keeper.drain.describe(metrics=of_run, of_trial=row.number)
    register = opened.base.tracking.register
    if opened.objective != "oscillation" or register:  # nobody serves the most unstable one
        keeper.drain.log_model(
            row.number,
            name=f"best of {opened.name}",
            example=example_images(data),
            register=register,
        )
    # A winner that was looked at with further seeds was chosen once all the same.
    n_looks = len({look["trial"] for look in search.test_looks(opened)})
    seen = "" if n_looks == 1 else f" (look {n_looks} at the test part of this study)"
    return said + seen, {**metrics, "test_looks": n_looks}


_Seed = tuple[int, int]
"""A network with the settings of a trial, and which further seed of that it has."""


def confirm(
    opened: Search, best: TrialRow, where: Executor, keeper: Keeper
) -> tuple[str, dict[str, float]]:
    """Trains and tests what is missing, and hands over to MLflow what is not there yet.

    Args:
        opened: a complete study.

    Returns:
        What a person, and what the metrics of the study's run are told of it.
    """
    base = dataclasses.replace(opened.base.data, validation_fraction=0.0)
    data = load_data(base, notice=lambda _line: None)
    n = opened.config.confirm_seeds
    wanted = [(best.number, i + 1) for i in range(n)]
    for seed, record in _records(opened, data, where, keeper, wanted=wanted).items():
        _look(opened, seed, record, data)
        keeper.upload(*seed)
    looks = [_looks(opened)[seed] for seed in wanted]
    wrong = [[(int(place), float(p)) for place, p in look["wrong"]] for look in looks]
    accuracies = [float(look["test_accuracy"]) for look in looks]
    mistakes = summarise_mistakes(wrong, data.test.labels)
    mean, low, high = float(np.mean(accuracies)), min(accuracies), max(accuracies)
    deviation = float(np.std(accuracies, ddof=1)) if n > 1 else 0.0
    n_always = sum(mistake.n_wrong == n for mistake in mistakes)
    keeper.drain.describe(files={WRONG_DIGITS: render_mistakes(mistakes, n, data)})
    said = (
        f"test accuracy {mean:.4f} as the mean of {counted(n, 'further seed')} on all "
        f"{data.train.n_examples} training examples\n  (lowest {low:.4f}, highest {high:.4f}, "
        f"deviation {deviation:.4f}); all get {counted(n_always, 'digit')} wrong, "
        f"some {len(mistakes)}: {WRONG_DIGITS} of the study's run shows them"
    )
    return said, {
        "test_accuracy": mean,
        "test_accuracy_deviation": deviation,
        "test_accuracy_lowest": low,
        "test_accuracy_highest": high,
    }


def _records(
    opened: Search,
    data: Dataset,
    where: Executor,
    keeper: Keeper,
    *,
    wanted: Sequence[_Seed],
) -> dict[_Seed, RunRecord]:
    """The networks not tested or not uploaded yet: those kept, and the others trained."""
    kept_at = {seed: place for seed, place in keeper.waiting().items() if seed[1]}
    seen = _looks(opened)
    unseen = [seed for seed in wanted if seed not in seen]
    configs = {seed: _config(opened, seed) for seed in sorted({*unseen, *kept_at})}
    records = {}
    for seed, place in kept_at.items():
        record = keeper.read(place, _name(seed), configs[seed], data.digest)
        if record is not None:
            records[seed] = record
    missing = [seed for seed in configs if seed not in records]
    crashed = list[_Seed]()

    def finished(made: Mapping[int, RunRecord]) -> None:
        runs = {}
        for place, record in made.items():
            seed = missing[place]
            if record.result.ending is Ending.CRASHED:
                crashed.append(seed)
                continue
            accuracy = accuracy_on(data.test, record, data)
            records[seed] = dataclasses.replace(record, test_accuracy=accuracy)
            name = f"{run_name(record.config, trial=seed[0])} seed +{seed[1]}"
            runs[seed] = records[seed], label_of_trial(keeper.page, seed[0], name, seed[1])
        keeper.keep(runs)

    if missing:
        train_runs([configs[seed] for seed in missing], data, where, finished=finished)
    if crashed:  # the others are kept by now
        raise SystemLimitError(
            f"{_name(crashed[0])} kills the worker that trains it; the test part waits"
        )
    return records


def _name(seed: _Seed) -> str:
    return f"seed +{seed[1]} of trial {seed[0]}"


def _config(opened: Search, seed: _Seed) -> RunConfig:
    """A trial's settings with another seed, nothing held out."""
    config = search.trial_of(opened, search.rows(opened)[seed[0]]).config
    training = config.training
    return with_settings(
        config,
        {
            "training.seed": (training.seed + seed[1]) % _SEED_END,
            "training.order_seed": (training.order_seed + seed[1]) % _SEED_END,
            "data.validation_fraction": 0.0,
        },
    )


def _looks(opened: Search) -> dict[_Seed, dict[str, Any]]:
    """Every look at the test part; of a trial itself the seed is 0."""
    return {(look["trial"], look.get("seed", 0)): look for look in search.test_looks(opened)}


def _look(opened: Search, seed: _Seed, record: RunRecord, data: Dataset) -> None:
    if seed not in _looks(opened):
        assert record.test_accuracy is not None
        further = {"seed": seed[1], "wrong": wrong_on(data.test, record, data)}
        search.add_test_look(opened, seed[0], record.test_accuracy, further)


def accuracy_on(part: Part, record: RunRecord, data: Dataset) -> float:
    """Share of a part of the data that the run's final weights get right, 0 to 1."""
    X = _inputs(part, record, data)
    return accuracy(_params(record), X, part.labels, record.config.model.activation)


def wrong_on(part: Part, record: RunRecord, data: Dataset) -> list[tuple[int, float]]:
    """What the run's final weights get wrong of a part, and how sure they are of it.

    Returns:
        Place in the part, and the probability of the wrong class, 0.5 to 1; the surest first, and
        of more than `MOST_WRONG` those only.
    """
    X = _inputs(part, record, data)
    logits: Array = forward(_params(record), X, record.config.model.activation).logits
    is_wrong = (logits[:, 1] > logits[:, 0]) != part.labels.astype(bool)
    margin = np.abs(np.nan_to_num(logits[:, 1] - logits[:, 0])).astype(np.float64)
    probability = 1 / (1 + np.exp(-margin))
    places = np.flatnonzero(is_wrong)
    surest = places[np.argsort(-probability[places], kind="stable")][:MOST_WRONG]
    return [(int(place), float(probability[place])) for place in surest]


def _inputs(part: Part, record: RunRecord, data: Dataset) -> Array:
    config = record.config
    return features(part.pixels, data.scale / config.data.scale, config.training.dtype)


def _params(record: RunRecord) -> Params:
    return tuple(Layer(W, b) for W, b in record.result.weights)


def _describe_winner(
    opened: Search, row: TrialRow, said: str, metrics: Mapping[str, float], drain: Drain
) -> list[str]:
    """Puts the best trial into the parent run; gives the same for the screen.

    Args:
        said: of the test part.
        metrics: of the parent run, but for those of the best trial.
    """
    named = ", ".join(f"{name}={_short(value)}" for name, value in row.params.items())
    said = f", {said}" if opened.base.own is None else ""
    assert row.value is not None
    value = f"{row.value:.4f}" if abs(row.value) >= _SMALL else f"{row.value:.3g}"
    came_out = f"{opened.objective} {value}{said}"
    best = {"best_trial": float(row.number), f"best_{opened.objective}": row.value}
    if "final_validation_accuracy" in row.numbers:
        best["best_validation_accuracy"] = row.numbers["final_validation_accuracy"]
    drain.describe(metrics={**metrics, **best}, tags={"mlp.best_trial": str(row.number)})
    drain.annotate(_note(opened, row, came_out, drain), row.number)
    first = search.superlative(opened.objective)
    return [f"{first} is trial {row.number}: {came_out}\n  {named}"]


def _note(opened: Search, row: TrialRow, came_out: str, drain: Drain) -> Callable[[str, str], str]:
    """The description of the parent run, once it is known which runs there are."""
    verdicts = [each.verdict for each in search.rows(opened)]
    config = search.trial_of(opened, row).config
    values = settings_of(config)
    first = search.superlative(opened.objective).capitalize()

    def note(experiment_id: str, run_id: str) -> str:
        link = run_link(experiment_id, run_id, run_name(config, row.number))
        shown = picture_link(LOSSES, drain.parent_id or "", "the losses of all runs")
        return study_note(
            verdicts,
            picture=shown,
            winner=f"{first} is {link}: {came_out}.",
            settings={entry.path: values[entry.path] for entry in opened.space},
            commands=[
                explain_command(opened.name, opened.base),
                rerun_command(run_id, opened.base),
            ],
        )

    return note


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _what_next(opened: Search, keeper: Keeper, best: int) -> tuple[str, ...]:
    """What to type next."""
    drain = keeper.drain
    run_id = drain.run_ids.get(best)
    commands = [rerun_command(run_id, opened.base)] if run_id else []
    if drain.parent_id is not None:
        commands.append(explain_command(opened.name, opened.base))
    commands += drain.how_to_look(keeper.page.name)
    if drain.how_to_serve is not None:
        commands.append(drain.how_to_serve)
    return tuple(commands)


def how_to_go_on(opened: Search, keeper: Keeper) -> str:
    """What is kept of a study that is not complete: trials that are stored, or wait to be."""
    done = {row.number for row in search.rows(opened)}
    done |= {number for number, seed in keeper.waiting() if seed == 0}
    n_planned = search.n_planned(opened)
    kept = f"{len(done)} of {counted(n_planned, 'trial')} {'is' if len(done) == 1 else 'are'} kept"
    return f"{kept}, and the same command goes on from there"


def not_uploaded(opened: Search, keeper: Keeper) -> list[str]:
    """What the tracking store did not take, and why."""
    n_waiting, problem = len(keeper.waiting()), keeper.drain.problem
    if n_waiting == 0 and problem is None:
        return []
    reason = f", because {problem}" if problem else ""
    return [
        f"not yet in MLflow: {counted(n_waiting, 'run')}{reason}",
        "they are kept; the same command publishes them, and so does",
        f"  {doctor_command(opened.base, opened.config.storage)}",
    ]
