"""The one door from plain values to configs.

Every value that reaches the training passes here: what was typed on the command line, what the
search drew, and what a rerun read back from a record. Nothing is resolved, instantiated or guessed;
plain mappings come in, frozen dataclasses come out, or one `SettingError`.

A run's settings stand here by dotted path as well: those that determine its result, and what is
recorded of them.
"""

import dataclasses
import difflib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from mlp.config import (
    OBJECTIVES,
    RESULT_GROUPS,
    RUN_GROUPS,
    Explain,
    ExplainConfig,
    Own,
    OwnSettings,
    RunConfig,
    Study,
    SweepConfig,
    Value,
)
from mlp.errors import DataError, SettingError, did_you_mean, one_line, shown
from mlp.program import difference, read_program

# Settings that are younger than the first records, and what was done before there were any: no
# defaults, which may change one day.
YOUNGER_SETTINGS: dict[str, Value] = {
    "data.scale": 1.0,
    "initialization.bias": 0.0,
    "optimizer.decay": "none",
    "optimizer.guard": "none",
    "training.shift": 0,
}

_AFTER_SEEDS = ("optimizer.guard",)  # younger than the choice of further seeds

_SHORT = {"lr": "learning_rate", "bs": "batch_size", "width": "widths"}
"""What others call a setting -> what it is called here."""

_RUN, _STUDY, _EXPLAIN = TypeAdapter(RunConfig), TypeAdapter(Study), TypeAdapter(Explain)
_OWN = TypeAdapter(OwnSettings)
_OF_OWN = tuple(field.name for field in dataclasses.fields(OwnSettings))  # the rest: arguments
SEED = "training.seed"
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
    own = config.own
    if own is None:
        flat = leaves({name: vars(getattr(config, name)) for name in RESULT_GROUPS})
        del flat["data.root"]  # it says where
    else:
        flat = {f"own.{name}": value for name, value in own.arguments.items()}
        if own.program.role("seed") is None:
            flat[SEED] = config.training.seed  # of the global random streams
    return {path: list(v) if isinstance(v, tuple) else v for path, v in flat.items()}


def seeds_of(config: RunConfig) -> tuple[str, ...]:
    """The settings of a run that say which random numbers it draws.

    Example:
        >>> seeds_of(RunConfig())
        ('training.seed',)
    """
    if config.own is not None:
        return (_argument_for(config.own, "seed") or SEED,)
    return (SEED, "training.order_seed") if config.training.batch_size is not None else (SEED,)


def learning_rate_of(config: RunConfig) -> str | None:
    """The setting that is the learning rate; None where an own function has none."""
    if config.own is None:
        return "optimizer.learning_rate"
    return _argument_for(config.own, "learning_rate")


def _argument_for(own: Own, role: str) -> str | None:
    argument = own.program.role(role)
    return f"own.{argument}" if argument else None


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


def settings_for_seeds(config: RunConfig) -> dict[str, Value]:
    """The settings by which the further seeds of a run's reruns are chosen: all but its own seeds.

    One that came later counts only where it is not as always, so that reruns of before are found.
    """
    own = seeds_of(config)
    return {
        path: value
        for path, value in settings_of(config).items()
        if path not in (*own, "training.order_seed", SEED)
        and (path not in _AFTER_SEEDS or value != YOUNGER_SETTINGS[path])
    }


def read_run(values: Mapping[str, Any]) -> RunConfig:
    """Checks plain values against the schema; the one door to a run.

    Args:
        values: group -> setting -> value, as composed by Hydra or read from a record. Missing
            settings take the schema's defaults. `own` has the file of an own function, whose
            signature is read, and values of its arguments; or it is an `Own`.

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
    own = values.get("own")
    if own is None:
        return _read(_RUN, dict(values))
    if not isinstance(own, Mapping | Own):
        raise SettingError(f"own must be a group of settings, but is {shown(own)}")
    return _read(_RUN, {**values, "own": own if isinstance(own, Own) else _read_own(own)})


def _read_own(values: Mapping[str, Any]) -> Own | None:
    named = read_named_file(values)
    arguments = {name: value for name, value in values.items() if name not in _OF_OWN}
    if named is not None:
        return with_arguments(named, arguments)
    for name in arguments:
        raise SettingError(f"own.{name} needs own.file=FILE.py, the file of your function")
    return None


def read_named_file(values: Mapping[str, Any]) -> Own | None:
    """An own function that was only named, beside a run whose arguments are known.

    Args:
        values: of the group `own`.

    Returns:
        The function without values; None where no file was named.
    """
    typed = _read(_OWN, {name: values[name] for name in _OF_OWN if name in values}, "own")
    if typed.file is None:
        return None
    program, path = read_program(typed.file, typed.roles)
    return Own(program, (), str(path), typed.timeout_s, typed.changed)


def located(recorded: Own, named: Own | None, source: Callable[[], str]) -> Own:
    """A run's own function, where its file was named on this command line or by a study file.

    Args:
        recorded: as the record tells of it.
        named: the file; None: nobody named one, and it cannot be trained.
        source: gives the text that the file had; empty where it is not known.

    Raises:
        DataError: for a file that is not what it was, unless `own.changed` is true.
        SettingError: for arguments that the changed function refuses.
    """
    if named is None:
        return dataclasses.replace(recorded, path=None)
    if named.program.digest == recorded.program.digest:
        program = recorded.program
        return Own(program, recorded.values, named.path, named.timeout_s, named.changed)
    if not named.changed:
        assert named.path is not None
        before = source()
        text = before and difference(before, Path(named.path).read_text(encoding="utf-8"))
        where = f": {text}" if text else ", or what it imports beside it is not"
        raise DataError(
            f"{named.program.file} is not what the run was trained by{where}; own.changed=true "
            "trains it all the same"
        )
    return with_arguments(named, recorded.arguments)


def with_arguments(own: Own, changes: Mapping[str, Any]) -> Own:
    """The same function with some arguments set, the others as they were or by default.

    Raises:
        SettingError: for an argument that it does not have, that it misses, or a wrong value.
    """
    program = own.program
    for name in changes:
        if program.argument(name) is None:
            known = [f"own.{each.name}" for each in program.arguments]
            there_are = f"there are {', '.join(known) or 'none'}"
            unknown = unknown_setting(f"own.{name}", known, otherwise=there_are)
            raise SettingError(f"{unknown} ({program.file}:{program.function})")
    before = own.arguments if own.values else {}
    values = []
    for argument in program.arguments:
        if argument.name in changes:
            values.append(argument.checked(changes[argument.name]))
        elif argument.name in before:
            values.append(before[argument.name])
        elif argument.is_required:
            raise SettingError(
                f"own.{argument.name} must be given: {program.function} in {program.file} has no "
                "default for it"
            )
        else:
            values.append(argument.default)
    return dataclasses.replace(own, values=tuple(values))


def read_sweep(values: Mapping[str, Any]) -> SweepConfig:
    """Checks a composed sweep: the groups of a run beside a group `study`.

    The search space's own laws are checked by `mlp.study.space.read_space`.
    """
    base = read_run({group: value for group, value in values.items() if group != "study"})
    config = SweepConfig(base=base, study=_read(_STUDY, values.get("study", {}), "study"))
    if base.own is None and config.objective not in OBJECTIVES:
        hint = did_you_mean(config.objective, OBJECTIVES)
        raise SettingError(
            f"study.objective must be one of {', '.join(OBJECTIVES[:-1])} or {OBJECTIVES[-1]}, "
            f"but is {shown(config.objective)}{hint}"
        )
    # It is part of what a study is, so that it stands there also where nobody typed it.
    return dataclasses.replace(
        config, study=dataclasses.replace(config.study, objective=config.objective)
    )


def read_explain(
    values: Mapping[str, Any], given: Mapping[str, Any] | None = None
) -> ExplainConfig:
    """Checks a composed explanation: the groups of a run beside a group `explain`.

    Args:
        given: setting -> value, of those that hold where another program's runs do not say it.
    """
    own = values.get("own")
    named = read_named_file(own) if isinstance(own, Mapping) else None
    rest = {group: v for group, v in values.items() if group not in ("explain", "own")}
    local = dataclasses.replace(read_run(rest), own=named)
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

    Example:
        >>> with_settings(RunConfig(), {"model.depth": 3}).model.depth
        3
    """
    groups = [group for group in RUN_GROUPS if group != "own"]
    values: dict[str, Any] = {group: {**vars(getattr(config, group))} for group in groups}
    own = config.own
    for path, value in changes.items():
        group, _, name = path.partition(".")
        if group == "own" and own is not None and name:
            own = with_arguments(own, {name: value})
            continue
        if group not in values or not name:
            raise SettingError(unknown_setting(path, setting_paths()))
        values[group][name] = value
    return read_run({**values, "own": own})


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
    groups = {name: getattr(RunConfig(), name) or OwnSettings() for name in RUN_GROUPS}
    return groups | _FURTHER.get(command, {})


def grouped(settings: Mapping[str, Value]) -> dict[str, dict[str, Value]]:
    """Settings by their groups: what `settings_of` made flat."""
    groups: dict[str, dict[str, Value]] = {}
    for path, value in settings.items():
        group, _, name = path.partition(".")
        groups.setdefault(group, {})[name] = value
    return groups


def leaves(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Mappings within mappings, of any depth, as dotted paths.

    Example:
        >>> leaves({"study": {"space": {"a": 1}, "seed": 0}})
        {'study.space.a': 1, 'study.seed': 0}
    """
    flat: dict[str, Any] = {}
    for name, value in values.items():
        path = f"{prefix}{name}"
        flat |= leaves(value, f"{path}.") if isinstance(value, Mapping) else {path: value}
    return flat


def unknown_setting(
    path: str, known: Collection[str], *, otherwise: str = "--help lists the settings"
) -> str:
    """The sentence for a setting that does not exist, with the nearest one that does."""
    inside = [name for name in known if name.startswith(f"{path}.")] if path else []
    if inside:
        return f"unknown setting {shown(path)}; it is a group of settings, such as {inside[0]}"
    group, _, typed = path.rpartition(".")
    last = _SHORT.get(typed, typed)
    same = [name for name in known if name.rpartition(".")[2] == last]
    near = same if not group or typed in _SHORT else []
    near = near or difflib.get_close_matches(path, known, n=1)
    near = near or same  # the right name in the wrong group
    names = " or ".join(f"'{name}'" for name in near[:3])
    hint = f"did you mean {names}?" if near else otherwise
    return f"unknown setting {shown(path)}; {hint}"


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
    "int_type": "an integer",
    "float_type": "a number",
    "string_type": "a text",
}


def _sentence(error: ErrorDetails, prefix: tuple[str, ...]) -> str:
    """One sentence: the setting, the law, the value."""
    path = ".".join(str(part) for part in (*prefix, *error["loc"]))
    kind, value = error["type"], error["input"]
    if kind in ("unexpected_keyword_argument", "invalid_key"):
        return _unknown(path)
    if kind == "value_error":
        message = one_line(error["ctx"]["error"])
        return message if not message.startswith("must") else f"{path} {message}"
    if kind == "literal_error":
        expected = str(error["ctx"]["expected"]).replace("'", "")
        names = expected.replace(" or ", ", ").split(", ")
        among = f"one of {expected}" if len(names) > 2 else expected
        return f"{path} must be {among}, but is {shown(value)}{did_you_mean(value, names)}"
    if kind == "string_type" and isinstance(value, bool | int | float):
        return f"{path} must be a text, but is {shown(value)}; in quotes it is one"
    limits = {  # as a person writes them: 0, not 0.0
        name: int(limit) if isinstance(limit, float) and limit.is_integer() else limit
        for name, limit in error.get("ctx", {}).items()
    }
    law = _LAWS[kind].format(**limits) if kind in _LAWS else f"valid ({error['msg']})"
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
