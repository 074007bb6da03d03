"""A tracked run trained again: does it come out the same?"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from mlp.config import RunConfig, Value
from mlp.curve import judge
from mlp.door import with_settings
from mlp.engine.result import Ending, Result
from mlp.errors import MissingInputError
from mlp.flow.single import register, train_record
from mlp.settings import settings_of
from mlp.study.domain import typed
from mlp.terminal.screen import say
from mlp.tracking.commands import doctor_command, rerun_command
from mlp.tracking.display import run_name
from mlp.tracking.label import Label
from mlp.tracking.publish import publish_single
from mlp.tracking.record import RunRecord
from mlp.tracking.retry import patiently
from mlp.tracking.store_uri import resolve, sqlite_path

if TYPE_CHECKING:  # importing MLflow takes seconds
    from mlp.tracking.tracked_run import TrackedRun


@dataclass(frozen=True)
class Comparison:
    """How a rerun differs from its original.

    Attributes:
        difference: the first loss or weight that differs, as a sentence; None: identical.
        n_losses: losses that were compared.
        n_weights: weights and biases that were compared.
    """

    difference: str | None
    n_losses: int
    n_weights: int


@dataclass(frozen=True, eq=False)
class Rerun:
    """A run that was trained again.

    Attributes:
        run_id: of the new run.
        record: of the new run.
        comparison: with the original.
        is_plain: whether no setting was changed.
    """

    run_id: str
    record: RunRecord
    comparison: Comparison
    is_plain: bool


def compare(old: Result, new: Result) -> Comparison:
    """Compares two results bit for bit: losses first, then validation accuracies, then weights."""
    n_weights = sum(W.size + b.size for W, b in old.weights)
    difference = next(
        filter(
            None,
            (
                _first_step("loss", old.loss_step, old.loss, new.loss_step, new.loss),
                _first_step(
                    "validation accuracy",
                    old.evaluated_step,
                    old.validation_accuracy,
                    new.evaluated_step,
                    new.validation_accuracy,
                ),
                _first_weight(old, new),
            ),
        ),
        None,
    )
    return Comparison(difference, old.loss.size, n_weights)


def run_rerun(
    run_id: str, local: RunConfig, changed: Mapping[str, Value], console: Console
) -> Rerun:
    """Trains a tracked run again, tracks that too, and says how it differs.

    Args:
        run_id: of the original.
        local: where to track, where the data lie and how wide to train; nothing else is read.
        changed: dotted path -> value of settings to change; empty for a plain rerun.
        console: where the answer is shown.

    Raises:
        MissingInputError: for a run or store that is not there.
        RecordError: for a record that cannot be used.
        DataError: for other data than the run was trained on.
        StoreError, UnavailableError, BusyError: where MLflow does not take it; it is kept then.
    """
    path = sqlite_path(resolve(local.tracking))
    if path is not None and not path.exists():
        raise MissingInputError(f"there is no run {run_id}, because there is no store {path}")

    from mlp.tracking.store import (  # MLflow takes seconds, so not before it is needed
        how_to_look,
        open_store,
    )
    from mlp.tracking.tracked_run import fetch_run

    original = patiently(lambda: fetch_run(open_store(local.tracking), run_id))
    data_config = dataclasses.replace(original.recipe.config.data, root=local.data.root)
    config = dataclasses.replace(
        original.recipe.config,
        data=data_config,
        tracking=local.tracking,
        execution=local.execution,
    )
    config = with_settings(config, changed)
    is_plain = settings_of(config) == settings_of(original.recipe.config)
    is_same_set = config.data.name == original.recipe.config.data.name
    digest = original.recipe.data_digest if is_same_set else None
    was_pruned = is_plain and original.recipe.ending is Ending.PRUNED
    pruned_at = original.recipe.last_step if was_pruned else None
    record = train_record(config, console, expected_digest=digest, pruned_at=pruned_at)
    found = compare(original.result, record.result)
    say(console, *_answer(original, record, found, is_plain=is_plain))
    tags = {"mlp.rerun_of": run_id}
    if is_plain:
        tags["mlp.identical"] = str(found.difference is None).lower()
    label = Label(f"rerun {run_name(record.config)}", tags)
    store, new_id = publish_single(local.tracking, record, label, remedy=doctor_command(local))
    say(console, f"run {new_id}, rerun of {run_id}")
    if is_plain:
        half = f"optimizer.learning_rate={config.optimizer.learning_rate / 2:g}"
        commands = [f"{rerun_command(run_id, local)} {half}"]
    else:
        commands = [rerun_command(new_id, local), *how_to_look(store, run_id=new_id)]
    commands += register(store, new_id, record)
    say(console, "next:", *(f"  {line}" for line in commands))
    return Rerun(new_id, record, found, is_plain)


def _answer(
    original: "TrackedRun", record: RunRecord, found: Comparison, *, is_plain: bool
) -> list[str]:
    """What came out, for a person."""
    if is_plain:
        if found.difference is None:
            return [f"identical: {found.n_losses} losses, {found.n_weights} weights, bit for bit"]
        return [f"different: {found.difference}", *_environment(original.tags)]
    before, after = settings_of(original.recipe.config), settings_of(record.config)
    lines = [
        f"{path} {typed(before[path])} -> {typed(after[path])}"
        for path in after
        if before[path] != after[path]
    ]
    old, new = original.result, record.result
    verdicts = judge(old.loss).verdict, record.judgement.verdict
    lines += [
        f"verdict {verdicts[0].value} -> {verdicts[1].value}",
        f"final loss {old.loss[-1]:.6g} -> {new.loss[-1]:.6g}",
    ]
    if old.validation_accuracy.size and new.validation_accuracy.size:
        accuracies = old.validation_accuracy[-1], new.validation_accuracy[-1]
        lines.append(f"validation accuracy {accuracies[0]:.4f} -> {accuracies[1]:.4f}")
    return [*lines, found.difference or "curve and weights are identical all the same"]


def _environment(tags: Mapping[str, str]) -> list[str]:
    """In what the machine or the programs differ, which is where the bits come from."""
    from mlp.tracking.display import environment_tags

    here = environment_tags()
    names = ("mlp.cpu", "mlp.system", "mlp.python", "mlp.packages", "mlp.version")
    return [
        f"{name.removeprefix('mlp.')}: {tags.get(name)} then, {here[name]} now"
        for name in names
        if tags.get(name) != here[name]
    ]


def _first_step(
    what: str,
    old_steps: NDArray[np.int64],
    old: NDArray[np.float64],
    new_steps: NDArray[np.int64],
    new: NDArray[np.float64],
) -> str | None:
    for step, a, other_step, b in zip_longest(old_steps, old, new_steps, new):
        if step is None or other_step is None:
            if step is None:
                return f"the original has no {what} from step {other_step} on"
            return f"the rerun has no {what} from step {step} on"
        if step != other_step or a.tobytes() != b.tobytes():
            return f"{what} at step {step} was {float(a)!r} and is {float(b)!r}"
    return None


def _first_weight(old: Result, new: Result) -> str | None:
    for layer, (before, after) in enumerate(zip_longest(old.weights, new.weights), start=1):
        if before is None or after is None or before[0].shape != after[0].shape:
            return f"layer {layer} has another shape"
        for name, a, b in zip("Wb", before, after, strict=True):
            differs = np.flatnonzero(a.view(f"u{a.itemsize}") != b.view(f"u{b.itemsize}"))
            if differs.size:
                at = np.unravel_index(differs[0], a.shape)
                place = ",".join(str(int(index)) for index in at)
                return f"{name}{layer}[{place}] was {float(a[at])!r} and is {float(b[at])!r}"
    return None
