"""What people see of a run in lists and charts: its name, points, numbers and tags."""

import functools
import getpass
import importlib.metadata
import itertools
import math
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlp.addresses import mask
from mlp.config import Own, RunConfig, Study, Tracking, canonical_json
from mlp.curve import VERDICT_SHADES
from mlp.engine.result import Ending, Result
from mlp.errors import RecordError
from mlp.program import FUNCTION
from mlp.settings import learning_rate_of, leaves, settings_of
from mlp.tracking import record
from mlp.tracking.picture import diverged_at, short_number
from mlp.tracking.record import RunRecord, parse_json

_SCRIPT = "mlp-sweep"  # works beside a file of the user's that is called mlp.py
_PACKAGES = ("numpy", "numba", "scipy", "scikit-learn", "hydra-core", "optuna", "mlflow")
_CODE = ("mlp", "conf", "sweeps")  # of a checkout; a user's own files beside them change no run
_PATIENCE_S = 5.0  # for git and sysctl, which answer in milliseconds

_OF_THE_PLACE = ("execution", "tracking")  # groups without effect on results
_MOST_ARGUMENTS = 5  # of an own function, that are part of a run's name
_NOTED = frozenset(  # metrics of every run, which no curve of an own function may overwrite
    """
    loss final_loss test_accuracy amplitude ripples tail_loss flip_rate period_steps largest_rise
    last_rise_step swung_from_step swung_to_step spiked n_weights duration_s learning_rate
    log10_learning_rate diverged_at_step best_validation_accuracy final_validation_accuracy
    """.split()  # noqa: SIM905  a line each would be a page
)
PROGRAM = "mlp.own.program"  # tag: the signature of an own function; its end in PROGRAM.2, ...
LONGEST_TAG = 8000  # characters; MLflow's own limit
LOSS_AT_END = "loss_at_end"  # a tag: MLflow's lists cut 2.861048e-07 to 2.861048
_FURTHER = "mlp.numbers"  # a tag: the numbers that are no metrics, as JSON
_SHOWN = (
    "final_loss",
    "final_validation_accuracy",
    "test_accuracy",
    "amplitude",
    "period_steps",
    "diverged_at_step",
    "stability_ratio_max",
)
CHART_POINTS = 320  # what MLflow's charts ask for; of more they draw evenly spaced ones only


def rerun_command(run_id: str, config: RunConfig) -> str:
    r"""What to type to train a run again.

    Example:
        >>> rerun_command("0f", RunConfig(data={"root": "my digits"}))
        'python -m mlp.rerun 0f \'data.root="my digits"\''
    """
    return shlex.join([*_program("rerun"), run_id, *_places(config)])


def explain_command(which: str, config: RunConfig) -> str:
    """What to type to explain a study or a run."""
    return shlex.join([*_program("explain"), which, *_places(config)])


AUDIT_ASKS = "whether its gradient is right, if it is written by hand"


def audit_command(own: Own) -> str:
    """What to type to have an own function's gradient checked."""
    return shlex.join([*_program("audit"), own_file(own).removesuffix(f":{own.program.function}")])


def doctor_command(config: RunConfig, storage: str | None = None) -> str:
    """What to type to have published what waits.

    Args:
        config: says where to publish.
        storage: of the study; None for a single run, or where nobody named one.

    Example:
        >>> doctor_command(RunConfig())
        'python -m mlp.doctor fix=true'
    """
    words = [*_program("doctor"), "fix=true"]
    if storage not in (None, Study().storage):
        words.append(f"study.storage={_quoted(mask(str(storage)))}")
    words += _tracking(config)
    if config.tracking.experiment != Tracking().experiment:
        words.append(f"tracking.experiment={_quoted(config.tracking.experiment)}")
    return shlex.join(words)


def _program(command: str) -> list[str]:
    """The command's words: as this process was started, if that was by the installed script."""
    script = Path(sys.argv[0]).name
    return [script, command] if script == _SCRIPT else ["python", "-m", f"mlp.{command}"]


def _places(config: RunConfig) -> list[str]:
    root, own = config.data.root, config.own
    file = [f"own.file={_quoted(own_file(own))}"] if own is not None else []
    return [*file, *([] if root is None else [f"data.root={_quoted(root)}"]), *_tracking(config)]


def own_file(own: Own) -> str:
    """What to type as `own.file`: the path from here, and the function where it is another."""
    path = own.program.file if own.path is None else os.path.relpath(own.path)
    function = own.program.function
    return path if function == FUNCTION else f"{path}:{function}"


def _tracking(config: RunConfig) -> list[str]:
    uri = config.tracking.uri
    return [] if uri is None else [f"tracking.uri={_quoted(mask(uri))}"]


def _quoted(text: str) -> str:
    """The text as Hydra's overrides take it: brackets, commas and blanks need quotes."""
    return text if re.fullmatch(r"[\w./:@-]+", text) else '"' + text.replace('"', '\\"') + '"'


@functools.cache
def environment_tags() -> dict[str, str]:
    """What this process trains with, looked up once; in MLflow's own words where it has them."""
    packages = [f"{name} {version}" for name in _PACKAGES if (version := _version(name))]
    return {
        "mlflow.user": _user(),
        "mlflow.source.name": "mlp",
        "mlflow.source.type": "LOCAL",
        "mlp.version": _version("mlp-sweep") or "unknown",
        "mlp.python": platform.python_version(),
        "mlp.packages": ", ".join(packages),
        "mlp.cpu": cpu(),
        "mlp.system": f"{platform.system()} {platform.machine()}",
        **_commit_tags(Path(__file__).resolve().parents[2]),
    }


def _commit_tags(checkout: Path) -> dict[str, str]:
    """The commit of a checkout, and whether its code was changed since.

    A virtual environment often lies inside somebody's repository; that one's commit says nothing.
    """
    if not (checkout / ".git").exists():
        return {}
    asked = "status", "--porcelain=v2", "--branch", "--", *_CODE
    said = _output("git", "--no-optional-locks", "-C", str(checkout), *asked)
    commit = re.match(r"# branch.oid ([0-9a-f]+)\n", said)
    if commit is None:
        return {}
    is_changed = any(not line.startswith("#") for line in said.splitlines())
    return {
        "mlflow.source.git.commit": commit[1],
        "mlflow.source.git.dirty": str(is_changed).lower(),
    }


def _output(*command: str) -> str:
    """What a command prints; nothing where it is missing or fails."""
    # Variables such as GIT_DIR, set inside a git hook, would point git at another repository.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            command,
            env=clean,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def cpu() -> str:
    """Model of this machine's processor."""
    named = None
    with suppress(OSError):  # not there but on Linux
        text = Path("/proc/cpuinfo").read_text(errors="replace")
        named = re.search(r"^model name\s*:\s*(.*\S)", text, re.MULTILINE)
    brand = named[1] if named else _output("sysctl", "-n", "machdep.cpu.brand_string")
    return brand or platform.processor() or platform.machine()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return str(os.getuid())


@dataclass(frozen=True)
class ThinCurve:
    """The points of a curve that a chart shows.

    Attributes:
        value: `(point,)`, finite.
        step: `(point,)`, increasing.
    """

    value: NDArray[np.float64]
    step: NDArray[np.int64]


def run_name(run: RunConfig, trial: int | None = None) -> str:
    """What a person compares runs by, short; minibatches and momentum where a run has them.

    Example:
        >>> run_name(RunConfig(), 12)
        '#12 lr 0.5 mean lecun 2x3'
    """
    number = [f"#{trial}"] if trial is not None else []
    if run.own is not None:
        return " ".join([*number, *_own_words(run.own)])
    batch_size, momentum = run.training.batch_size, run.optimizer.momentum
    rate = run.optimizer.learning_rate  # of a study's settings it may be a word
    widths = run.model.layer_widths
    shape = f"{len(widths)}x{widths[0]}" if len(set(widths)) == 1 else _listed(widths)
    parts = [
        *number,
        f"lr {rate}" if isinstance(rate, str) else f"lr {rate:.3g}",
        run.gradient.normalization,
        run.initialization.scheme.removesuffix("_normal"),
        shape,
        *([f"batch {batch_size}"] if batch_size is not None else []),
        *([f"momentum {momentum:g}"] if momentum else []),
    ]
    return " ".join(parts)


def _own_words(own: Own) -> list[str]:
    """The function, and its arguments that differ from its defaults, else the first ones."""
    program = own.program
    pairs = list(zip(program.arguments, own.values, strict=True))
    differing = [(each, value) for each, value in pairs if value != each.default]
    shown = [f"{each.name}={short_value(value)}" for each, value in (differing or pairs)]
    return [f"{Path(program.file).stem}.{program.function}", *shown[:_MOST_ARGUMENTS]]


def short_value(value: object) -> str:
    """A setting's value in a list of several."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def thin(loss: ArrayLike, loss_step: ArrayLike, max_points: int = CHART_POINTS) -> ThinCurve:
    """The points of a curve to show, so that no spike and no oscillation is lost.

    Evenly spaced points would draw a swing of period 2 as a flat line. So the entries between the
    first and the last are parted into buckets, and each keeps its lowest and its highest value, in
    their order. Non-finite values are left out.

    Args:
        loss: `(entry,)`.
        loss_step: `(entry,)`, increasing.
        max_points: at most so many points, 4 or more.

    Example:
        >>> thin([3.0, 2.0, np.nan, 1.0], [0, 1, 2, 3]).step.tolist()
        [0, 1, 3]
    """
    if max_points < 4:
        raise ValueError(f"max_points must be at least 4, but is {max_points}")
    values = np.asarray(loss, dtype=np.float64)
    finite = np.isfinite(values)
    values, steps = values[finite], np.asarray(loss_step, dtype=np.int64)[finite]
    if values.size <= max_points:
        return ThinCurve(values, steps)
    n_buckets = (max_points - 2) // 2
    edges = np.linspace(1, values.size - 1, n_buckets + 1).astype(int)
    kept = [0, values.size - 1]
    for start, end in pairwise(edges):
        bucket = values[start:end]
        # The first highest and the last lowest, so that a regular swing is shown high, low, high,
        # low, and not with the two lows of neighbouring buckets side by side.
        kept += [start + int(bucket.argmax()), end - 1 - int(bucket[::-1].argmin())]
    chosen = np.unique(kept)
    return ThinCurve(values[chosen], steps[chosen])


def layer_curves(result: Result) -> dict[str, NDArray[np.float64]]:
    """What was measured of the layers, a curve `(m,)` each, at the steps `result.layer_step`.

    The global norm of the mean gradient; then of each layer, the first one first, the norm of an
    update over that of the weights, and of the hidden ones the share of idle units.
    """
    if not result.layer_step.size:
        return {}
    return {
        "gradient_norm": np.linalg.norm(result.layer_gradient, axis=1),
        **{f"update_ratio/layer{i}": own for i, own in enumerate(result.layer_update.T, start=1)},
        **{f"idle_units/layer{i}": own for i, own in enumerate(result.layer_idle.T, start=1)},
    }


def metric_of(series: str) -> str:
    """The metric that a curve of an own function is shown as.

    Example:
        >>> metric_of("accuracy"), metric_of("amplitude")
        ('accuracy', 'own.amplitude')
    """
    return f"own.{series}" if series in _NOTED else series


def numbers(run: RunRecord) -> dict[str, float]:
    """All numbers to compare runs by; finite, and only those that are known.

    A run that went non-finite has `diverged_at_step` in the place of `final_loss`.
    """
    result, judgement, accuracy = run.result, run.judgement, run.result.validation_accuracy
    known: dict[str, float | None] = {
        "final_validation_accuracy": accuracy[-1] if accuracy.size else None,
        "best_validation_accuracy": accuracy.max() if accuracy.size else None,
        "test_accuracy": run.test_accuracy,
        "amplitude": judgement.amplitude,
        "ripples": judgement.ripples,
        "tail_loss": judgement.tail_loss,
        "flip_rate": judgement.flip_rate,
        "period_steps": judgement.period_steps,
        "largest_rise": judgement.largest_rise,
        "last_rise_step": judgement.last_rise_step,
        "swung_from_step": judgement.swung and judgement.swung.first_step,
        "swung_to_step": judgement.swung and judgement.swung.last_step,
        "spiked": float(judgement.spiked),
        "n_weights": sum(W.size + b.size for W, b in result.weights),
        "duration_s": (run.ended_ms - run.started_ms) / 1000,
    }
    if rate := positive_rate(run.config):
        # MLflow's charts have linear axes, and rates differ by factors of ten.
        known |= {"learning_rate": rate, "log10_learning_rate": math.log10(rate)}
    for name, values in (result.own.series if result.own is not None else {}).items():
        if values.size:
            known[f"final_{name}"] = values[-1]
    if run.stability is not None:
        known["stability_ratio_start"] = run.stability.start
        known["stability_ratio_max"] = run.stability.highest
        known["stability_ratio_tail"] = run.stability.tail
    if result.ending is Ending.NON_FINITE:
        known["diverged_at_step"] = diverged_at(result)
    elif result.loss.size:
        known["final_loss"] = result.loss[-1]
    return {
        name: float(value)
        for name, value in known.items()
        if value is not None and math.isfinite(value)
    }


def positive_rate(config: RunConfig) -> float | None:
    """The learning rate of a run, if it has one that is a positive number."""
    path = learning_rate_of(config)
    rate = None if path is None else settings_of(config)[path]
    return rate if isinstance(rate, float) and rate > 0 else None


def shown_numbers(known: Mapping[str, float]) -> dict[str, float]:
    """Those of a run's numbers that a person sorts and filters runs by: MLflow's metrics."""
    return {name: v for name, v in known.items() if name in _SHOWN or name.startswith("final_")}


def read_numbers(tags: Mapping[str, str]) -> dict[str, float]:
    """The further numbers of a run, from its tags; none where there are none to be read."""
    try:
        found = parse_json(tags.get(_FURTHER, "{}"), source=_FURTHER)
    except RecordError:
        return {}
    values = found.items() if isinstance(found, dict) else ()
    return {str(name): float(v) for name, v in values if type(v) in (int, float)}


def study_params(settings: Mapping[str, Any], searched: Mapping[str, Any]) -> dict[str, Any]:
    """What the parent run of a study lists: how it searches, and what all of its trials share.

    A setting that varies is listed by what it is drawn from, not by a value that no trial has.

    Args:
        searched: path of each setting that varies -> what it is drawn from, in words.

    Example:
        >>> study_params(
        ...     {"model": {"depth": 2, "widths": 3}, "study": {"seed": 0, "space": {}}},
        ...     {"model.depth": "1 to 3"},
        ... )
        {'model.widths': 3, 'study.seed': 0, 'study.space.model.depth': '1 to 3'}
    """
    flat = {
        path: value
        for path, value in leaves(settings).items()
        if path not in searched
        and path.split(".")[0] not in _OF_THE_PLACE
        and not path.startswith("own.program")
        and not (searched and path.startswith("study.space"))
    }
    return {**flat, **{f"study.space.{path}": drawn for path, drawn in searched.items()}}


def tags(run: RunRecord) -> dict[str, str]:
    """Verdict, mechanism, digests and sizes, to find runs by and to check a rerun against."""
    stability, ripples, known = run.stability, run.judgement.ripples, numbers(run)
    end = f"lost at {known['diverged_at_step']:.0f}" if "diverged_at_step" in known else "none"
    if "final_loss" in known:
        end = short_number(known["final_loss"])
    further = {name: value for name, value in known.items() if name not in _SHOWN}
    return {
        "verdict": run.judgement.verdict.value,
        LOSS_AT_END: end,
        _FURTHER: canonical_json(further),
        **({"ripples": f"{100 * ripples:.0f} % of its level"} if ripples else {}),
        **({} if stability is None else {"mechanism": stability.mechanism.value}),
        "mlflow.runColor": _color(run),
        "mlp.ending": run.result.ending.value,
        "mlp.data_digest": run.data_digest,
        **{f"mlp.{name}": digest for name, digest in run.digests.items()},
        "mlp.n_train": str(run.n_train),
        "mlp.n_validation": str(run.n_validation),
        "mlp.n_test": str(run.n_test),
        "mlp.threads": str(run.threads),
        **_own_tags(run),
    }


def _own_tags(run: RunRecord) -> dict[str, str]:
    """Of an own function: its signature, by which its runs are read from a list; its fault."""
    own, trace = run.config.own, run.result.own
    if own is None or trace is None:
        return {}
    return {
        **_program_tags(canonical_json(record.program_values(own.program))),
        "mlp.own.file": own.program.file,
        "mlp.own.function": own.program.function,
        "mlp.own.packages": ", ".join(f"{name} {version}" for name, version in trace.versions),
        **({"mlp.own.fault": trace.fault} if trace.fault else {}),
        **({"mlp.own.notes": "; ".join(trace.notes)} if trace.notes else {}),
    }


def _program_tags(text: str) -> dict[str, str]:
    """A signature of many arguments is longer than a tag may be."""
    starts = range(0, len(text), LONGEST_TAG)
    names = [PROGRAM, *(f"{PROGRAM}.{number}" for number in range(2, len(starts) + 1))]
    return {name: text[i : i + LONGEST_TAG] for name, i in zip(names, starts, strict=True)}


def noted_program(tags: Mapping[str, str]) -> str | None:
    """The signature of an own function, from the tags of its run; None: it has none."""
    if PROGRAM not in tags:
        return None
    further = itertools.takewhile(tags.__contains__, (f"{PROGRAM}.{n}" for n in itertools.count(2)))
    return "".join(tags[name] for name in (PROGRAM, *further))


def _color(run: RunRecord) -> str:
    """Of a run in MLflow's charts; the same run has the same one."""
    shades = VERDICT_SHADES[run.judgement.verdict]
    return shades[int(run.digests["weights_digest"][:8], 16) % len(shades)]


def _listed(widths: tuple[int, ...]) -> str:
    shown = ",".join(str(width) for width in widths[:6])
    return f"[{shown}]" if len(widths) <= 6 else f"[{shown},...]x{len(widths)}"
