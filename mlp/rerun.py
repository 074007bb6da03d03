"""`python -m mlp.rerun RUN_ID`: trains a tracked run again; does it come out the same?"""

import dataclasses
import functools
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from mlp.config import RESULT_GROUPS, RUN_GROUPS, Own, RunConfig
from mlp.engine.result import Ending, Result
from mlp.errors import SettingError, one_line, patiently
from mlp.run import Run, existing_store
from mlp.settings import (
    learning_rate_of,
    located,
    read_named_file,
    read_run,
    settings_of,
    with_settings,
)
from mlp.study.space import typed
from mlp.terminal.compose import (
    Settings,
    completes_names,
    compose,
    run_config,
    typed_changes,
    typed_settings,
)
from mlp.terminal.console import run_command, usage
from mlp.terminal.screen import Terminal, say, silent, waiting
from mlp.tracking.display import doctor_command, environment_tags, rerun_command, run_name
from mlp.tracking.drain import record_run
from mlp.tracking.listing import Label
from mlp.tracking.record import RunRecord, judge_result
from mlp.train import register_model, train_record

if TYPE_CHECKING:  # importing MLflow takes seconds
    from mlp.tracking.read import TrackedRun


_EXAMPLES = {
    "RUN_ID": "trains it again: identical, or the first step or weight that differs",
    "RUN_ID optimizer.learning_rate=0.1": "with a setting changed: what came out differently",
    "RUN_ID own.file=mine.py": "a run of your own function, by the file that you name",
}

DIFFERENT = 1  # exit code, as of cmp and diff

# Whether these fit together only the original's other settings can tell.
_JOINT = (
    "model.depth",
    "model.widths",
    "model.activation",
    "gradient.derivative",
    "training.shift",
)


def _rerun() -> None:
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        what = "Trains a tracked run again from its own record; exits with 1 if it differs."
        print(usage("rerun", what, _EXAMPLES, first_word="RUN_ID"))
        return
    if completes_names("train", arguments, _runs_that_begin):
        return
    if not arguments:
        raise SettingError("the id of a run is missing: python -m mlp.rerun RUN_ID")
    run_id, *overrides = arguments
    if "=" in run_id:
        raise SettingError(f"the id of a run comes first, but there is {run_id!r}")
    if not re.fullmatch(r"[0-9a-f]{4,32}", run_id):
        raise SettingError(
            f"a run id must be 32 hex digits, or the first of them, but is {one_line(run_id)!r}"
        )
    values = compose("train", overrides)
    typed = typed_settings(overrides, values)
    changed = {path: typed[path] for path in settings_of(RunConfig()) if path in typed}
    with_settings(RunConfig(), {k: v for k, v in changed.items() if k not in _JOINT})
    changed |= typed
    local: dict[str, Any] = {"data": {"root": values["data"]["root"]}}
    local |= {group: values[group] for group in RUN_GROUPS if group not in RESULT_GROUPS}
    local["own"] = read_named_file(values["own"])
    rerun = rerun_network(run_id, changed, local=read_run(local), console=Terminal())
    if not rerun.is_as_expected:
        sys.exit(DIFFERENT)


def _runs_that_begin(typed: str) -> list[str]:
    """The runs of the default store that a shell may complete."""
    from mlp.tracking.read import short_ids  # imports MLflow
    from mlp.tracking.store import find_store

    store = find_store(RunConfig().tracking)
    return short_ids(store, typed) if store is not None else []


@dataclass(frozen=True, eq=False)
class Rerun:
    """A run that was trained again.

    Attributes:
        run: the new one, tracked too.
        difference: the first loss or weight that differs, as a sentence; None: bit for bit the
            same.
        is_plain: whether no setting was changed.
    """

    run: Run
    difference: str | None
    is_plain: bool

    @property
    def is_as_expected(self) -> bool:
        """False for a plain rerun that came out differently."""
        return not self.is_plain or self.difference is None


def rerun_network(
    run_id: str,
    changes: Settings | None = None,
    *,
    local: RunConfig | None = None,
    console: Console | None = None,
) -> Rerun:
    """Trains a tracked run again from its record, as `python -m mlp.rerun` does.

    Args:
        run_id: of the original, or its first digits.
        changes: settings to change, by their paths; None: a plain rerun.
        local: where the runs are tracked, where the data lie and how many threads train, from
            `run_config`; None: the defaults. Nothing else in it is read.
        console: where the answer is shown; None: nowhere.

    Raises:
        MissingInputError: for a run or store that is not there.
        RecordError: for a record that cannot be used.
        DataError: for other data than the run was trained on.
        StoreError, UnavailableError, BusyError: where MLflow does not take it; it is kept then.

    Example:
        >>> import mlp
        >>> run_id = mlp.train_network({"data": "digits", "training.steps": 40}).run_id
        >>> mlp.rerun_network(run_id).difference is None
        True
        >>> mlp.rerun_network(run_id, {"optimizer.learning_rate": 30.0}).run.verdict.value
        'oscillating'
    """
    local, changed = local or run_config(), typed_changes(changes)
    console = console or silent()
    with waiting(console, "reading the run"):
        store = patiently(lambda: existing_store(local.tracking, f"run {run_id}"))
        # MLflow takes seconds, so not before it is needed.
        from mlp.tracking.read import fetch_run, fetch_source
        from mlp.tracking.store import how_to_look, open_store

        original = patiently(lambda: fetch_run(store, run_id))
    run_id, recipe = original.run_id, original.recipe  # the whole id
    before = recipe.config
    own = before.own and located(before.own, local.own, lambda: fetch_source(store, run_id))
    config = dataclasses.replace(
        before,
        data=dataclasses.replace(before.data, root=local.data.root),
        tracking=local.tracking,
        execution=local.execution,
        own=own,
    )
    config = with_settings(config, changed)
    is_same_code = before.own is None or before.own.program == (own and own.program)
    is_plain = is_same_code and settings_of(config) == settings_of(before)
    is_same_set = is_same_code and config.data.name == before.data.name
    was_pruned = is_plain and recipe.ending is Ending.PRUNED
    record = train_record(
        config,
        console,
        expected_digest=recipe.data_digest if is_same_set else None,
        pruned_at=recipe.last_step if was_pruned else None,
    )
    difference = compare(original.result, record.result)
    tags = {"mlp.rerun_of": run_id}
    if is_plain:
        tags["mlp.identical"] = str(difference is None).lower()
        say(console, *_plain_answer(original, record, difference))
    else:
        say(console, *_changed_answer(original, record, difference))
    label = Label(f"rerun {run_name(record.config)}", tags)
    with waiting(console, "the run is being recorded"):
        store, new_id = record_run(
            lambda: open_store(local.tracking), record, label, remedy=doctor_command(local)
        )
    say(console, f"run {new_id}, rerun of {run_id}")
    setting = learning_rate_of(config)
    rate = settings_of(config)[setting] if setting is not None else None
    if is_plain and isinstance(rate, float):
        commands = [f"{rerun_command(run_id, config)} {setting}={rate / 2:g}"]
    else:
        commands = [rerun_command(new_id, config), *how_to_look(store, run_id=new_id)]
    commands += register_model(store, new_id, record)
    say(console, "next:", *(f"  {line}" for line in commands))
    return Rerun(Run(new_id, record.config, record.result), difference, is_plain)


def compare(old: Result, new: Result) -> str | None:
    """The first loss, validation accuracy or weight that differs, as a sentence; None: none does.

    All are compared bit for bit.
    """
    evaluated = "evaluated_step", "validation_accuracy"
    return (
        _first_step("loss", old, new, ("loss_step", "loss"))
        or _first_step("validation accuracy", old, new, evaluated)
        or _first_weight(old, new)
        or _first_of_function(old, new)
    )


def _first_step(what: str, old: Result, new: Result, names: tuple[str, str]) -> str | None:
    """Where a curve differs, by the names of its steps and its values."""
    pairs = (zip(*(getattr(each, name) for name in names), strict=True) for each in (old, new))
    for (step, a), (other_step, b) in zip_longest(*pairs, fillvalue=(None, None)):
        if step is None:
            return f"the original has no {what} from step {other_step} on"
        if other_step is None:
            return f"the rerun has no {what} from step {step} on"
        if step != other_step or a.tobytes() != b.tobytes():
            return f"{what} at step {step} was {float(a)!r} and is {float(b)!r}"
    return None


def _first_weight(old: Result, new: Result) -> str | None:
    for layer, (before, after) in enumerate(zip_longest(old.weights, new.weights), start=1):
        if before is None or after is None or before[0].shape != after[0].shape:
            return f"layer {layer} has another shape"
        for name, a, b in zip("Wb", before, after, strict=True):
            same = a.view(f"u{a.itemsize}") == b.view(f"u{b.itemsize}")
            found = _first_entry(f"{name}{layer}", a, b, same)
            if found is not None:
                return found
    return None


def _first_of_function(old: Result, new: Result) -> str | None:
    """Where what an own function gave beside its loss differs."""
    if old.own is None or new.own is None:
        return None
    if (old.own.fault is None) != (new.own.fault is None):
        faults = old.own.fault or "no fault", new.own.fault or "none"
        return f"it ended with {faults[0]} and ends with {faults[1]}"
    for before, after in ((old.own.series, new.own.series), (old.own.kept, new.own.kept)):
        if before.keys() != after.keys():
            names = [", ".join(each) or "nothing" for each in (before, after)]
            return f"it gave {names[0]} and gives {names[1]}"
        for name, a in before.items():
            b = after[name]
            if a.shape != b.shape or a.dtype != b.dtype:
                return f"{name} has another shape or type"
            found = _first_entry(name, a, b, (a == b) | ((a != a) & (b != b)))
            if found is not None:
                return found
    return None


def _first_entry(
    name: str, a: NDArray[Any], b: NDArray[Any], is_same: NDArray[np.bool_]
) -> str | None:
    """The first entry of two arrays that is not the same, as a sentence."""
    if is_same.all():
        return None
    at = np.unravel_index(int(np.argmin(is_same)), a.shape)
    place = ",".join(str(int(index)) for index in at)
    return f"{name}[{place}] was {a[at].item()!r} and is {b[at].item()!r}"


def _plain_answer(original: "TrackedRun", record: RunRecord, difference: str | None) -> list[str]:
    """What came out of the same settings, for a person."""
    if difference is not None:
        why = [] if record.config.own is None else [_not_deterministic(record.config.own)]
        return [f"different: {difference}", *why, *_environment(original.tags)]
    old = original.result
    arrays = [array for layer in old.weights for array in layer]
    if old.own is not None:
        arrays = [*old.own.kept.values()]
    n_weights = sum(array.size for array in arrays)
    return [f"identical: {old.loss.size} losses, {n_weights} weights, bit for bit"]


def _changed_answer(original: "TrackedRun", record: RunRecord, difference: str | None) -> list[str]:
    """What was changed, and what came out differently, for a person."""
    before, after = settings_of(original.recipe.config), settings_of(record.config)
    lines = [
        f"{path} {typed(before[path])} -> {typed(after[path])}"
        for path in after
        if before[path] != after[path]
    ]
    old, new = original.result, record.result
    verdict = judge_result(original.recipe.config, old).verdict
    lines += [
        f"verdict {verdict.value} -> {record.judgement.verdict.value}",
        f"final loss {old.loss[-1]:.6g} -> {new.loss[-1]:.6g}",
    ]
    if old.validation_accuracy.size and new.validation_accuracy.size:
        accuracies = old.validation_accuracy[-1], new.validation_accuracy[-1]
        lines.append(f"validation accuracy {accuracies[0]:.4f} -> {accuracies[1]:.4f}")
    return [*lines, difference or "curve and weights are identical all the same"]


def _not_deterministic(own: Own) -> str:
    """What was done so that an own function could come out the same."""
    seed = own.program.role("seed")
    how = f"its argument {seed}" if seed else "the global streams of NumPy, random and PyTorch"
    return (
        "your function is not deterministic, or reads other data than then: the same file with "
        f"the same arguments gave something else, though {how} had the same seed"
    )


def _environment(tags: Mapping[str, str]) -> list[str]:
    """In what the machine or the programs differ, which is where the bits come from."""
    here = environment_tags()
    names = ("mlp.cpu", "mlp.system", "mlp.python", "mlp.packages", "mlp.version")
    return [
        f"{name.removeprefix('mlp.')}: {tags.get(name)} then, {here[name]} now"
        for name in names
        if tags.get(name) != here[name]
    ]


main = functools.partial(run_command, _rerun)

if __name__ == "__main__":
    main()
