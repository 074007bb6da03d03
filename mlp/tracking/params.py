"""Params that other programs have logged, read as settings: by their names, then by their values.

A name counts where it is a setting's path, dots or slashes between its parts, or where somebody
says what it stands for. Other names that are clear are proposed and not used: what is trained is
never guessed.
"""

import ast
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlp.config import RESULT_GROUPS, RunConfig, Value
from mlp.errors import SettingError, one_line
from mlp.settings import (
    default_settings,
    grouped,
    read_run,
    setting_choices,
    setting_paths,
    settings_of,
)
from mlp.study.space import typed

DATA_NAME = "data.name"
_DEPTH, _WIDTHS, _STEPS = "model.depth", "model.widths", "training.steps"
_SEEDS = ("training.seed", "training.order_seed", "data.split_seed")
_NOT_ASKED = (  # which nobody logs, and little hangs on
    *_SEEDS,
    "data.root",
    "training.shift",
    "training.sharpness_points",
    "training.evaluate_every",
    "gradient.clip_norm",
    "gradient.derivative",
)

# What others call a setting; beside these, its own last name where no other setting has it.
_OTHER_NAMES = {
    "lr": "optimizer.learning_rate",
    "eta": "optimizer.learning_rate",
    "step_size": "optimizer.learning_rate",
    "bs": "training.batch_size",
    "batch": "training.batch_size",
    "hidden": _WIDTHS,
    "hidden_size": _WIDTHS,
    "hidden_sizes": _WIDTHS,
    "hidden_units": _WIDTHS,
    "hidden_layers": _WIDTHS,
    "width": _WIDTHS,
    "units": _WIDTHS,
    "n_steps": _STEPS,
    "epochs": _STEPS,
    "n_epochs": _STEPS,
    "iterations": _STEPS,
    "reduction": "gradient.normalization",
    "random_seed": "training.seed",
    "random_state": "training.seed",
    "init": "initialization.scheme",
    "dataset": DATA_NAME,
    "data": DATA_NAME,
}
_OTHER_WORDS = {"logistic": "sigmoid", "average": "mean", "xavier_uniform": "glorot_uniform"}

# What changes a training and has no setting here.
_CHANGES_TRAINING = re.compile(
    r"optim|solver|beta|adam|decay|regulari[sz]|penalty|dropout|_norm\b|batchnorm|schedul|warmup"
    r"|nesterov|smoothing|augment|loss_f|criterion|clip|n_classes|momentum|(^|\W)(l1|l2|loss)$"
)
_OF_THE_TRAINING = ("optimizer.", "model.", "gradient.", "initialization.")
_CHANGES_NOTHING = frozenset(
    ("", "0", "0_0", "2", "none", "null", "false", "no", "off", "constant", "sgd", "gd")
).union(("gradient_descent", "cross_entropy", "nll"))


@dataclass(frozen=True)
class ReadParams:
    """What the params of a run say about its training.

    Attributes:
        config: its settings; None where they are not all known.
        problem: why there is no config; else empty.
        used: setting -> param that it was read from.
        ignored: params that say nothing about the training, as far as can be told.
        defaults: settings that nobody named, at their defaults.
        proposed: param -> setting that it may stand for.
    """

    config: RunConfig | None
    problem: str
    used: Mapping[str, str]
    ignored: tuple[str, ...]
    defaults: tuple[str, ...]
    proposed: Mapping[str, str]


def read_params(
    params: Mapping[str, str],
    *,
    names: Mapping[str, str] | None = None,
    given: Mapping[str, Value] | None = None,
) -> ReadParams:
    """Reads the params of a run as settings.

    Args:
        params: name -> text, as MLflow keeps them.
        names: param -> path of the setting that it stands for.
        given: path -> value of settings that hold where the params say nothing.

    Example:
        >>> read = read_params({"data.name": "digits", "model/widths": "(4, 3)", "lr": "0.1"})
        >>> read.used["model.widths"], read.proposed
        ('model/widths', {'lr': 'optimizer.learning_rate'})
    """
    given = given or {}
    meant = {name: (names or {}).get(name) or _path_of(name) for name in params}
    used = {path: name for name, path in meant.items() if path}
    values = {**given, **{path: value_of(path, params[name]) for path, name in used.items()}}
    widths = values.get(_WIDTHS)
    if isinstance(widths, list) and _DEPTH not in values:
        values[_DEPTH] = len(widths)
    rest = [name for name, path in meant.items() if path is None]
    proposed = _proposals(rest, params, values)
    unknown = [
        name for name in rest if name not in proposed and _is_of_training(name, params[name])
    ]
    config, problem = _config_of(values, is_named=bool(used))
    if config is not None and unknown:
        said = ", ".join(_shown(name, params[name]) for name in unknown[:3])
        verbs = "changes the training, and is" if len(unknown) == 1 else "change it, and are"
        problem = f"{said} {verbs} no setting here"
    elif config is not None:
        found = (_contradiction(name, proposed[name], params[name], config) for name in proposed)
        problem = next(filter(None, found), "")
    known = settings_of(RunConfig())
    return ReadParams(
        config=None if problem else config,
        problem=problem,
        used=used,
        ignored=tuple(name for name in rest if name not in {*proposed, *unknown}),
        defaults=tuple(path for path in known if path not in values and path not in _NOT_ASKED),
        proposed=proposed,
    )


def settings_paths() -> list[str]:
    """Paths of the settings that a param can stand for."""
    return [path for path in setting_paths() if path.partition(".")[0] in RESULT_GROUPS]


def value_of(path: str, text: str) -> Any:
    """What a param was before MLflow made a text of it, as the setting takes it.

    Example:
        >>> value_of("model.widths", "(3, 3)"), value_of("gradient.normalization", "SUM")
        ([3, 3], 'sum')
    """
    text = re.sub(r"^\w+\.\w+\((.*)\)$", r"\1", text.strip())  # np.float64(0.1)
    choices = setting_choices().get(path)
    if choices is not None:
        word = re.sub(r"\W+", "_", text.strip("'\"").lower())
        word = _OTHER_WORDS.get(word, word)
        return word if word in choices else text
    value = parsed(text)
    if path == _WIDTHS and isinstance(value, str) and re.fullmatch(r"\d+(\s*[-x, ]\s*\d+)*", value):
        return [int(part) for part in re.findall(r"\d+", value)]
    is_integer = isinstance(default_settings()[path], int) or path == "training.batch_size"
    if isinstance(value, float) and is_integer and value.is_integer():
        return int(value)
    return value


def parsed(text: str) -> Any:
    """A param as a plain value: MLflow keeps the text that Python shows."""
    known: dict[str, bool | None] = {"none": None, "null": None, "true": True, "false": False}
    if text.lower() in known:
        return known[text.lower()]
    parsers: tuple[Callable[[str], Any], ...] = (
        lambda text: json.loads(text, parse_constant=str),
        ast.literal_eval,
    )
    for parse in parsers:
        try:
            value = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(value, tuple | list):
            return list(value) if "(" in text or "[" in text else text
        return value if isinstance(value, bool | int | float | str | None) else text
    return text


def _path_of(name: str) -> str | None:
    """The setting whose path a name is."""
    path = name.strip().replace("/", ".")
    return path if path in settings_paths() else None


def _proposals(
    rest: Sequence[str], params: Mapping[str, str], values: Mapping[str, Any]
) -> dict[str, str]:
    """What names may stand for: one name a setting, and only where the value fits."""
    paths = settings_paths()
    last = [path.rpartition(".")[2] for path in paths]
    own = {word: path for word, path in zip(last, paths, strict=True) if last.count(word) == 1}
    own = {word: path for word, path in own.items() if word not in ("name", "scale", "root")}
    found: dict[str, str] = {}
    for name in rest:
        word = re.sub(r"\W+", "_", re.split(r"[./:]", name)[-1].strip().lower())
        path = _OTHER_NAMES.get(word) or own.get(word)
        if path is None or path in values or path in found.values():
            continue
        value = value_of(path, params[name])
        further = {_DEPTH: len(value)} if path == _WIDTHS and isinstance(value, list) else {}
        config, _ = _config_of({DATA_NAME: "digits", path: value, **further}, is_named=True)
        if config is not None:
            found[name] = path
    return found


def _config_of(values: Mapping[str, Any], *, is_named: bool) -> tuple[RunConfig | None, str]:
    """The config, through the door, or what is wrong."""
    if not is_named:
        return None, "none of its params is a setting"
    try:
        config = read_run(grouped(values))
    except SettingError as error:
        return None, str(error)
    if config.data.name == "auto":
        return None, f"no param says which data it was trained on, {DATA_NAME}"
    if config.optimizer.learning_rate == "auto":
        return None, "no param says which rate its optimizer.learning_rate, auto, has become"
    return config, ""


def _is_of_training(name: str, text: str) -> bool:
    """Whether a param that is no setting changes what is trained."""
    word = name.replace("/", ".").lower()
    is_meant = _CHANGES_TRAINING.search(word) or word.startswith(_OF_THE_TRAINING)
    return bool(is_meant) and re.sub(r"\W+", "_", text.strip().lower()) not in _CHANGES_NOTHING


def _contradiction(name: str, path: str, text: str, config: RunConfig) -> str:
    """What a param says that the config does not, if it stands for the proposed setting."""
    if path in (*_SEEDS, _STEPS):
        return ""
    own, value = settings_of(config)[path], value_of(path, text)
    if path == _WIDTHS:
        own = list(config.model.layer_widths)
        value = [value] * config.model.depth if isinstance(value, int) else value
    if value == own:
        return ""
    return f"{_shown(name, text)} may be {path}, which would be {typed(own)} without it"


def _shown(name: str, text: str) -> str:
    return f"{one_line(name)}={one_line(text, most=40)}"
