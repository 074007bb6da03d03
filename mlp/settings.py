"""The one door from plain values to configs.

Every value that reaches the training passes here: what was typed on the command line, what the
search drew, and what a rerun read back from a record. Nothing is resolved, instantiated or guessed;
plain mappings come in, frozen dataclasses come out, or one `SettingError`.

A run's settings stand here by dotted path as well: those that determine its result, and what is
recorded of them.
"""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from mlp.config import (
    RESULT_GROUPS,
    RUN_GROUPS,
    Explain,
    ExplainConfig,
    RunConfig,
    Study,
    SweepConfig,
    Value,
)
from mlp.errors import SettingError, one_line, shown

_LOCAL_SETTINGS = frozenset({"data.root"})
# Settings that are younger than the first records, and what was done before there were any: no
# defaults, which may change one day.
YOUNGER_SETTINGS: dict[str, Value] = {
    "data.scale": 1.0,
    "initialization.bias": 0.0,
    "optimizer.decay": "none",
    "optimizer.guard": "none",
    "training.shift": 0,
}

_SHORT = {"lr": "learning_rate", "bs": "batch_size", "width": "widths"}
"""What others call a setting -> what it is called here."""

_RUN, _STUDY, _EXPLAIN = TypeAdapter(RunConfig), TypeAdapter(Study), TypeAdapter(Explain)
_T = TypeVar("_T")

_FURTHER: dict[str, dict[str, Any]] = {
    "sweep": {"study": Study()},
    "explain": {"explain": Explain()},
}
"""Command -> groups of settings that it has beside those of a run."""


def settings_of(config: RunConfig) -> dict[str, Value]:
    """Every setting that determines the result, by dotted path, in the schema's order.

    Example:
        >>> settings_of(RunConfig())["gradient.normalization"]
        'mean'
    """
    flat: dict[str, Value] = {}
    for group in RESULT_GROUPS:
        for name, value in dataclasses.asdict(getattr(config, group)).items():
            if f"{group}.{name}" not in _LOCAL_SETTINGS:
                flat[f"{group}.{name}"] = list(value) if isinstance(value, tuple) else value
    return flat


def recorded_settings(config: RunConfig) -> dict[str, Value]:
    """As `settings_of`, without younger settings where they ask for what was always done.

    So records, studies and digests of before such a setting came stay what they are.

    Example:
        >>> "training.shift" in recorded_settings(RunConfig())
        False
    """
    return {
        path: value
        for path, value in settings_of(config).items()
        if path not in YOUNGER_SETTINGS or value != YOUNGER_SETTINGS[path]
    }


def read_run(values: Mapping[str, Any]) -> RunConfig:
    """Checks plain values against the schema; the one door to a run.

    Args:
        values: group -> setting -> value, as composed by Hydra or read from a record. Missing
            settings take the schema's defaults.

    Raises:
        SettingError: for an unknown setting, a wrong type, a value out of range, or widths that do
            not match the depth; one sentence.

    Example:
        >>> read_run({"model": {"depth": 2, "widths": [3, 4]}}).model.layer_widths
        (3, 4)
        >>> read_run({"optimizer": {"learnig_rate": 1.0}})
        Traceback (most recent call last):
        mlp.errors.SettingError: unknown setting 'optimizer.learnig_rate'; did you mean \
'optimizer.learning_rate'?
    """
    return _read(_RUN, dict(values))


def read_sweep(values: Mapping[str, Any]) -> SweepConfig:
    """Checks a composed sweep: the groups of a run beside a group `study`.

    The search space's own laws are checked by `mlp.study.space.read_space`.

    Raises:
        SettingError: as `read_run`.
    """
    base = read_run({group: value for group, value in values.items() if group != "study"})
    return SweepConfig(base=base, study=_read(_STUDY, values.get("study", {}), "study"))


def read_explain(
    values: Mapping[str, Any], given: Mapping[str, Any] | None = None
) -> ExplainConfig:
    """Checks a composed explanation: the groups of a run beside a group `explain`.

    Args:
        given: setting -> value, of those that hold where another program's runs do not say it.

    Raises:
        SettingError: as `read_run`.
    """
    local = read_run({group: value for group, value in values.items() if group != "explain"})
    explain = _read(_EXPLAIN, values.get("explain", {}), "explain")
    known = [path for path in setting_paths() if path.partition(".")[0] in RESULT_GROUPS]
    for name, path in explain.map.items():
        if path not in known:
            raise SettingError(f"map.{one_line(name)}: {unknown_setting(path, known)}")
    return ExplainConfig(local=local, explain=explain, given=dict(given or {}))


def _read(schema: TypeAdapter[_T], values: Any, *group: str) -> _T:
    try:
        return schema.validate_python(values)
    except ValidationError as error:
        raise SettingError(_sentence(error.errors()[0], group)) from None


def with_settings(config: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """The config with some settings changed, through the same door.

    Args:
        config: the config to start from; it stays as it is.
        changes: dotted path -> value, such as `{"optimizer.learning_rate": 0.1}`.

    Raises:
        SettingError: as `read_run`.

    Example:
        >>> with_settings(RunConfig(), {"model.depth": 3}).model.depth
        3
    """
    values = dataclasses.asdict(config)
    for path, value in changes.items():
        group, _, name = path.partition(".")
        if group not in values or not name:
            raise SettingError(unknown_setting(path, setting_paths()))
        values[group][name] = value
    return read_run(values)


def setting_paths(command: str = "train") -> dict[str, str]:
    """Dotted path -> description of every setting that can be typed after a command."""
    return {path: _description(annotation) for path, annotation in _annotations(command).items()}


def setting_choices(command: str = "train") -> dict[str, tuple[str, ...]]:
    """Dotted path -> the words that a setting can be, where it is one of a few."""
    return {
        path: get_args(annotated)
        for path, annotation in _annotations(command).items()
        for annotated in get_args(annotation)[:1]
        if get_origin(annotated) is Literal
    }


def text_settings(command: str = "train") -> frozenset[str]:
    """Dotted paths of the settings that may be any text, such as a name or an address."""
    return frozenset(path for path, each in _annotations(command).items() if _allows_text(each))


def _annotations(command: str) -> dict[str, Any]:
    """Dotted path -> type of every setting that can be typed after a command."""
    return {
        f"{group}.{field.name}": field.type
        for group, part in _groups(command).items()
        for field in dataclasses.fields(part)
    }


def _allows_text(annotation: Any) -> bool:
    if annotation is str:
        return True
    return get_origin(annotation) not in (dict, list) and any(
        _allows_text(inner) for inner in get_args(annotation)
    )


def default_settings(command: str = "train") -> dict[str, Any]:
    """Dotted path -> value that a setting has where nobody says otherwise."""
    return {
        f"{group}.{name}": value
        for group, part in _groups(command).items()
        for name, value in dataclasses.asdict(part).items()
    }


def _groups(command: str) -> dict[str, Any]:
    groups = {name: getattr(RunConfig(), name) for name in RUN_GROUPS}
    return groups | _FURTHER.get(command, {})


def grouped(settings: Mapping[str, Value]) -> dict[str, dict[str, Value]]:
    """Settings by their groups: what `settings_of` made flat."""
    groups: dict[str, dict[str, Value]] = {}
    for path, value in settings.items():
        group, _, name = path.partition(".")
        groups.setdefault(group, {})[name] = value
    return groups


def unknown_setting(path: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    """The sentence for a setting that does not exist, with the nearest one that does."""
    inside = [name for name in known if name.startswith(f"{path}.")] if path else []
    if inside:
        return f"unknown setting {shown(path)}; it is a group of settings, such as {inside[0]}"
    group, _, typed = path.rpartition(".")
    last = _SHORT.get(typed, typed)
    same = [name for name in known if name.rpartition(".")[2] == last]
    near = same if not group or typed in _SHORT else []
    near = near or difflib.get_close_matches(path, list(known), n=1, cutoff=0.6)
    near = near or same  # the right name in the wrong group
    names = " or ".join(f"'{name}'" for name in near[:3])
    hint = f"; did you mean {names}?" if near else "; --help lists the settings"
    return f"unknown setting {shown(path)}{hint}"


def _description(annotation: Any) -> str:
    return next(
        (str(m.description) for m in get_args(annotation) if getattr(m, "description", None)), ""
    )


_LAWS = {
    "greater_than": "greater than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "finite_number": "a finite number",
    "too_short": "at least {min_length} character long",
    "too_long": "at most {max_length} characters long",
    "string_pattern_mismatch": "made of letters, digits, '_', '.' and '-', the first no '.' or '-'",
    "list_type": "a list",
    "dict_type": "a mapping",
    "dataclass_type": "a group of settings",
    "bool_type": "true or false",
}
_TYPES = {"int_type": "an integer", "float_type": "a number", "string_type": "a text"}


def _sentence(error: ErrorDetails, prefix: tuple[str, ...]) -> str:
    """One sentence: the setting, the law, the value."""
    path = ".".join(str(part) for part in (*prefix, *error["loc"]))
    kind, value = error["type"], error["input"]
    context = {name: _number(limit) for name, limit in error.get("ctx", {}).items()}
    if kind in ("unexpected_keyword_argument", "invalid_key"):
        return _unknown(path)
    if kind == "value_error":
        message = one_line(context["error"])
        return message if not message.startswith("must") else f"{path} {message}"
    if kind == "literal_error":
        expected = str(context["expected"]).replace("'", "")
        names = expected.replace(" or ", ", ").split(", ")
        near = difflib.get_close_matches(value, names, n=1) if isinstance(value, str) else []
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"{path} must be {_one_of(expected)}, but is {shown(value)}{hint}"
    if kind == "string_type" and isinstance(value, bool | int | float):
        return f"{path} must be a text, but is {shown(value)}; in quotes it is one"
    law = _LAWS.get(kind, "").format(**context) or _TYPES.get(kind, f"valid ({error['msg']})")
    return f"{path} must be {law}, but is {shown(value)}"


def _unknown(path: str) -> str:
    """The sentence for a key of a file or record that names no setting."""
    known = setting_paths("sweep")
    if path == "study":
        return "unknown setting 'study'; only a sweep has one"
    if path in known:  # as in a search space, but here it is a key like any other
        group, _, name = path.partition(".")
        return f"'{path}' must be written as a setting in its group, {group}: {{{name}: ...}}"
    groups = list(_groups("sweep"))
    return unknown_setting(path, known if "." in path else [*groups, *known])


def _number(limit: Any) -> Any:
    """A limit as a person writes it: 0, not 0.0."""
    return int(limit) if isinstance(limit, float) and limit.is_integer() else limit


def _one_of(expected: str) -> str:
    return f"one of {expected}" if "," in expected else expected
