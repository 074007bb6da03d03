"""From what was typed, or given by a notebook, to configs.

Hydra composes; alone it exits with 1 on a bad override, suggests nothing, and accepts
`+group.typo=1`. So every override is checked here first, and what came out passes the one door.
"""

import argparse
import contextlib
import copy
import dataclasses
import functools
import inspect
import io
import itertools
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import hydra
from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import configure_log
from hydra.errors import HydraException
from omegaconf import Container, DictConfig, OmegaConf
from omegaconf.errors import KeyValidationError, OmegaConfBaseException
from yaml import YAMLError

from mlp.addresses import mask
from mlp.config import (
    RESULT_GROUPS,
    RUN_GROUPS,
    Explain,
    ExplainConfig,
    Own,
    OwnSettings,
    RunConfig,
    Study,
    SweepConfig,
    text_keys,
)
from mlp.errors import SettingError, did_you_mean, one_line, shown, translated
from mlp.settings import (
    SEED,
    grouped,
    read_explain,
    read_named_file,
    read_run,
    read_sweep,
    setting_paths,
    text_settings,
    unknown_setting,
)
from mlp.study.identity import check_study
from mlp.study.space import space_around

Config = TypeVar("Config")

Settings = Mapping[str, Any]
"""Setting or config group -> value or option, as a notebook writes them.

`{"optimizer.learning_rate": 0.6, "model.widths": [3, 4]}` sets settings by their paths, and
`{"gradient": "clip", "data": "digits"}` chooses options of config groups, as on the command line.
"""

_PACKAGE = Path(__file__).resolve().parents[1]
_FAULT = "unreadable"  # in place of the settings of a study file that cannot be read
_OF_OWN = "own"  # the study file of an own function
_MOST_JOBS = 32  # of a --multirun that are read before the first one runs; each takes some 50 ms
_FREE = ("study.space", "study.enqueue")  # below these a path names what the user wants
_OF_HYDRA = ("hydra.verbose", "hydra.searchpath", "hydra/job_logging", "hydra.job_logging")


# -- The configs that a command line asks for


def typed_configs(
    command: str, read: Callable[[Any], Config], usage: Callable[[], str]
) -> Iterator[Config]:
    """The configs that the command line asks for, each composed once and read once.

    One; one for each job of `--multirun`; none where a flag only shows something.

    Args:
        read: the door from composed values to a config; raises SettingError.

    Raises:
        SettingError: for what was typed wrong; in the first 32 jobs before the first one runs.
    """
    parser = _flags()
    args = parser.parse_intermixed_args()
    if (args.resolve or args.package) and not args.cfg:
        raise SettingError("--resolve and --package go with --cfg")
    if args.help:
        print(usage())
    elif args.hydra_help:
        print(parser.format_help(), end="")
    elif args.shell_completion:
        _complete(command, args.overrides)
    else:
        jobs = (
            (words, *_read(command, overrides, args, read))
            for words, overrides in _jobs(args.overrides, args)
        )
        first = list(itertools.islice(jobs, _MOST_JOBS))
        if args.info:
            _ask_hydra(command, [f"--info={args.info}", *_where(args), *args.overrides])
        elif args.cfg:
            print(_config_text(first[0][1], args), end="")
        else:
            for words, _, config in itertools.chain(first, jobs):
                if words:
                    print(words, flush=True)
                yield config


class _Flags(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingError(f"{message}; --hydra-help lists the flags")


def _flags() -> argparse.ArgumentParser:
    """Hydra's flags, as far as they mean something here."""
    flags = _Flags(add_help=False, usage="python -m mlp.COMMAND [flags] [setting=value ...]")
    flags.add_argument("overrides", nargs="*", metavar="setting=value", help="see --help")
    flags.add_argument("--help", "-h", action="store_true", help="what the command does")
    flags.add_argument("--hydra-help", action="store_true", help="these flags")
    flags.add_argument("--version", action="store_true", help="the version of this program")
    modes = flags.add_mutually_exclusive_group()
    modes.add_argument("--run", "-r", action="store_true", help="run once, as without a flag")
    modes.add_argument(
        "--multirun", "-m", action="store_true", help="run for each of the values: setting=1,2,3"
    )
    kinds = ("job", "hydra", "all")
    modes.add_argument("--cfg", "-c", choices=kinds, help="show the config instead of running")
    flags.add_argument("--resolve", action="store_true", help="with --cfg: resolve ${...} first")
    flags.add_argument("--package", "-p", help="with --cfg: the part to show, such as optimizer")
    parts = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
    modes.add_argument(
        "--info", "-i", const="all", nargs="?", choices=parts, help="show how Hydra composes"
    )
    flags.add_argument("--config-name", "-cn", help="another config to begin with")
    flags.add_argument("--config-dir", "-cd", help="a further folder of configs")
    modes.add_argument(
        "--shell-completion",
        "-sc",
        action="store_true",
        help='for bash: eval "$(python -m mlp.train --shell-completion install=bash)"',
    )
    return flags


def _read(
    command: str, overrides: Sequence[str], args: argparse.Namespace, read: Callable[[Any], Config]
) -> tuple[DictConfig, Config]:
    config, values = _composed(command, overrides, args.config_dir, args.config_name)
    _check_not_searched(overrides, values)
    return config, read(values)


def _jobs(
    overrides: Sequence[str], args: argparse.Namespace
) -> Iterator[tuple[str, Sequence[str]]]:
    """Each job's line on the screen and its overrides: every combination of the values listed."""
    if not args.multirun:
        yield "", overrides
        return
    lists: dict[str, list[str]] = {}  # the last of each setting counts
    with _hydra_of(args.config_dir):
        for override in parse_overrides(overrides):
            key = override.get_key_element()
            if not override.is_sweep_override():
                lists[key] = [str(override.input_line)]
            elif override.is_discrete_sweep():
                lists[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
            else:
                raise SettingError(f"{shown(override.input_line)} must name the values one by one")
    n_jobs = math.prod(map(len, lists.values()))
    for number, job in enumerate(itertools.product(*lists.values()), start=1):
        varied = [w for w, each in zip(job, lists.values(), strict=True) if len(each) > 1]
        words = f": {' '.join(varied)}" if varied else ""
        yield mask(f"job {number} of {n_jobs}{words}"), job


def _config_text(config: DictConfig, args: argparse.Namespace) -> str:
    """What `--cfg` shows, as YAML."""
    config = config if args.cfg == "all" else _part(config, of_hydra=args.cfg == "hydra")
    part: Any = config
    with translated(_FAULTS):
        if args.package not in (None, "_global_"):
            part = OmegaConf.select(config, args.package)
        if part is None:
            raise SettingError(f"--package must be a part of the config, but is {args.package!r}")
        if not isinstance(part, Container):
            return f"{part}\n"
        text = OmegaConf.to_yaml(part, resolve=args.resolve)
    return text if part is config else f"# @package {args.package}\n{text}"


def _where(args: argparse.Namespace) -> list[str]:
    names = {"--config-name": args.config_name, "--config-dir": args.config_dir}
    return [f"{flag}={value}" for flag, value in names.items() if value is not None]


def _ask_hydra(command: str, words: Sequence[str]) -> None:
    """Lets Hydra's own application answer what only it can: `--info`, and a shell's query."""
    sys.argv[1:] = words
    conf = str(shipped("conf"))
    hydra.main(version_base="1.3", config_path=conf, config_name=command)(lambda _: None)()


# -- Completion in a shell: Hydra knows the answers, but its script completes `python FILE.py` only

_INSTALL = r"""_mlp_complete() {
    COMPREPLY=()
    local words=($COMP_LINE) word=${COMP_WORDS[COMP_CWORD]} call=
    if [[ ${words[1]} == -m && ${words[2]} == mlp.* && $COMP_CWORD -gt 2 ]]; then
        call="${words[0]} -m ${words[2]}"
    elif [[ ${words[0]##*/} == mlp-sweep && $COMP_CWORD -gt 1 ]]; then
        call="${words[0]} ${words[1]}"
    fi
    if [[ -n $call ]]; then
        local choices=$(COMP_LINE=$COMP_LINE $call -sc query=bash 2> /dev/null)
        COMPREPLY=($(compgen -W "$choices" -- "$word"))
    fi
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o nospace -o default -F _mlp_complete python python3 mlp-sweep"""

_UNINSTALL = """complete -r python python3 mlp-sweep
unset -f _mlp_complete
COMP_WORDBREAKS=$COMP_WORDBREAKS="""


def _complete(command: str, what: Sequence[str]) -> None:
    """Prints the script that bash evaluates, or what the line that is typed may go on with."""
    scripts = {"install=bash": _INSTALL, "uninstall=bash": _UNINSTALL}
    wanted = " ".join(what)
    if wanted in scripts:
        print(scripts[wanted])
    elif wanted == "query=bash":
        # Hydra would take the `-m` of `python -m mlp.train` for --multirun.
        os.environ["COMP_LINE"] = _line_from_command()
        _register(command)
        _ask_hydra(command, ["--shell-completion", wanted])
    else:
        raise SettingError(
            f"--shell-completion must be install=bash or uninstall=bash, but is {wanted!r}; "
            'type eval "$(python -m mlp.train --shell-completion install=bash)"'
        )


def _line_from_command() -> str:
    """What is typed so far, from the command on: `mlp.train data=d`."""
    line = os.environ.get("COMP_LINE", "")
    words = line.split(maxsplit=2)
    if words[1:2] == ["-m"] and len(words) > 2:
        return words[2]
    is_script = bool(words) and Path(words[0]).name == "mlp-sweep"
    return line.split(maxsplit=1)[1] if is_script and len(words) > 1 else line


def completes_names(
    command: str, arguments: Sequence[str], names: Callable[[str], Sequence[str]]
) -> bool:
    """Answers a shell's query about a command whose first word is the name of a study or a run.

    Args:
        command: whose settings may follow.
        arguments: of the command.
        names: those that begin with what is typed.

    Returns:
        Whether it was a query.
    """
    if list(arguments[:1]) not in (["-sc"], ["--shell-completion"]):
        return False
    called, _, typed = _line_from_command().partition(" ")
    name, space, rest = typed.lstrip().partition(" ")
    is_query = arguments[1:] == ["query=bash"]
    if is_query and not space and "=" not in name:
        # The shell expands what it completes from: a stored name must be no command of it.
        print(*filter(re.compile(r"[\w./:@+-]+").fullmatch, names(name)))
    if space and "=" not in name:  # Hydra would take a name for a setting
        os.environ["COMP_LINE"] = f"{called} {rest}"
    if not is_query or space or "=" in name or "." in name:
        _complete(command, arguments[1:])
    return True


# -- From overrides to plain values


def compose(command: str, overrides: Sequence[str], *, config_dir: str | None = None) -> Any:
    """Composes a config and returns its plain values, every interpolation resolved.

    Args:
        command: `train`, `sweep` or `explain`, which says what settings there are.
        overrides: as typed, such as `["optimizer.learning_rate=0.1", "data=digits"]`.
        config_dir: a further folder of configs, as Hydra's `--config-dir`.

    Raises:
        SettingError: for whatever Hydra or OmegaConf refuses, and for unknown settings and options.
    """
    return _composed(command, overrides, config_dir, None)[1]


def typed_settings(overrides: Sequence[str], values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted path -> value of what was typed of what is trained: of a network, or an own function.

    Args:
        values: what `compose` made of the overrides.

    Raises:
        SettingError: for an option of a whole group (`gradient=sum`), which would say nothing about
            the settings that it leaves alone.
    """
    typed = {}
    for override in parse_overrides(overrides):
        path = override.key_or_group
        group, _, name = path.partition(".")
        if group in RESULT_GROUPS and not name:
            raise SettingError(f"name the settings one by one instead of {override.input_line!r}")
        if is_trained(path) or (is_argument(path) and not name.startswith("roles")):
            typed[path] = values[group][name]
    return typed


def parse_overrides(overrides: Sequence[str]) -> list[Override]:
    """The overrides as Hydra reads them.

    Raises:
        SettingError: for a text that is none.
    """
    known = GlobalHydra.instance()
    loader = known.config_loader() if known.is_initialized() else None  # for `model=glob(*)`
    parser = OverridesParser.create(config_loader=loader)
    parsed = []
    for override in overrides:
        try:
            parsed += parser.parse_overrides([override])
        except (HydraException, ValueError):  # ValueError: an integer of thousands of digits
            raise SettingError(
                f"cannot read {shown(override)}; an override is written setting=value, and a value "
                "with special characters in quotes of its own, setting='\"...\"'"
            ) from None
    return parsed


def _composed(
    command: str, overrides: Sequence[str], config_dir: str | None, primary: str | None
) -> tuple[DictConfig, Any]:
    """A config with Hydra's own part in it, and its plain values without that."""
    _register(command)
    with _hydra_of(config_dir), translated(_FAULTS):
        groups = _groups()
        parsed = [_as_text(override, command, groups) for override in parse_overrides(overrides)]
        typed = {override.key_or_group: override.value() for override in parsed}
        if command == "sweep" and typed.get("own.file") and "sweeps" not in typed:
            parsed = [*parse_overrides([f"sweeps={_OF_OWN}"]), *parsed]
        for override in parsed:
            _check_name(override, command, groups)
            _check_one_value(override)
        config = hydra.compose(
            primary or command,
            overrides=[_for_hydra(override) for override in parsed],
            return_hydra_config=True,
        )
        if type(config.hydra.verbose) is int:
            raise SettingError(
                "hydra.verbose must be true, false or the name of a logger, "
                f"but is {config.hydra.verbose}"
            )
        configure_log(config.hydra.job_logging, config.hydra.verbose)
        values = _plain(config)
    study = values.get("study")
    if isinstance(study, dict) and _FAULT in study:
        raise SettingError(study[_FAULT])
    _check_not_overruled(parsed, values)
    _check_acts(parsed, values)
    return config, values


def _plain(config: DictConfig) -> dict[str, Any]:
    own = _part(config, of_hydra=False)
    values = OmegaConf.to_container(own, resolve=True, throw_on_missing=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _part(config: DictConfig, *, of_hydra: bool) -> DictConfig:
    """Hydra's own part of a config, or the rest."""
    keys = [str(key) for key in config if (key == "hydra") == of_hydra]
    return OmegaConf.masked_copy(config, keys)


def _register(command: str) -> None:
    """Makes the schema's defaults, and to a sweep the study files, known to Hydra.

    A file that cannot be read is known by its fault, which is met where the file is selected:
    ./sweeps may hold files of other programs.
    """
    store = ConfigStore.instance()
    store.repo.pop("sweeps", None)  # those of the folder that was the working directory before
    own = dataclasses.asdict(OwnSettings())
    store.store(name="schema", node={**dataclasses.asdict(RunConfig()), "own": own})
    store.store(name="study_schema", node={"study": dataclasses.asdict(Study())})
    store.store(name="explain_schema", node={"explain": dataclasses.asdict(Explain())})
    for name, file in study_files().items() if command == "sweep" else ():
        try:
            node = _read_study_file(file)
        except SettingError as error:
            node = {"study": {_FAULT: str(error).replace("${", "$ {")}}
        store.store(group="sweeps", name=name, node=node, package="_global_")


@contextlib.contextmanager
def _hydra_of(config_dir: str | None) -> Iterator[None]:
    """Hydra, ready to compose what is shipped and, behind that, what is in a further folder."""
    if config_dir is not None and not Path(config_dir).is_dir():
        raise SettingError(f"--config-dir must be a folder, but is {config_dir!r}")
    folders = create_config_search_path(str(shipped("conf")))
    if config_dir is not None:
        where = f"file://{Path(config_dir).resolve()}"
        folders.prepend("command-line", where, anchor="schema")  # which must be the last
    version.setbase("1.3")
    GlobalHydra.instance().clear()
    Hydra.create_main_hydra2("app", folders)
    try:
        yield
    finally:
        GlobalHydra.instance().clear()


def _fault(error: Exception) -> SettingError:
    """One sentence for what Hydra or OmegaConf refuses."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    message = " ".join(str(cause).split("\n")[0].split())
    place = str(getattr(cause, "full_key", None) or "")
    if place not in message:
        message = f"{place}: {message}"
    if place.startswith("study.space."):
        if "Cannot merge" in message:
            message += f"; '~{place}' '+{place}=...' puts another domain in its place"
        elif is_argument(path := place.removeprefix("study.space.")) or path in setting_paths():
            message = (
                f"study.space is typed setting by setting: '+{place}=...' adds this one, "
                f"'~{place}' takes it out, both together replace it"
            )
    return SettingError(message)


_FAULTS = dict.fromkeys((HydraException, OmegaConfBaseException, YAMLError), _fault)


# -- What an override names, and whether it counts


def _groups() -> list[str]:
    """The config groups of all folders; Hydra is ready."""
    groups = GlobalHydra.instance().config_loader().list_groups("")
    return [group for group in groups if group != "hydra"]


def _options(group: str) -> list[str]:
    return sorted(GlobalHydra.instance().config_loader().get_group_options(group))


def _as_text(override: Override, command: str, groups: Sequence[str]) -> Override:
    """The override, in quotes where a text is wanted that Hydra would read as something else.

    `study.name=42` is a text, and `sweeps=2024` the name of a file.
    """
    if not isinstance(override.value(), bool | int | float):
        return override
    path, text = override.key_or_group, str(override.input_line).partition("=")[2].strip()
    is_text = path in text_settings(command) or (path in groups and text in _options(path))
    if not is_text:
        return override
    [quoted] = parse_overrides([f"{override.get_key_element()}='{text}'"])
    return quoted


def _check_name(override: Override, command: str, groups: Sequence[str]) -> None:
    """Refuses a setting, group or option that does not exist, with the nearest that does."""
    path = override.key_or_group
    if path.partition("/")[0].partition(".")[0] == "hydra":
        if not path.startswith(_OF_HYDRA):
            raise SettingError(
                f"{path} would do nothing here; of Hydra's own settings there are hydra.verbose, "
                "hydra.searchpath and hydra/job_logging"
            )
        return
    if any(path == free or path.startswith((f"{free}.", f"{free}/")) for free in _FREE):
        return
    if is_argument(path):  # the file of the function says which there are
        return
    if path in groups:
        _check_option(override, _options(path))
        return
    known = setting_paths(command)
    if path not in known:
        raise SettingError(unknown_setting(path, known if "." in path else [*known, *groups]))
    if override.is_delete():
        raise SettingError(f"{path} cannot be removed; give it a value")


def is_argument(path: str) -> bool:
    """Whether a path names an argument of an own function, or a role of one."""
    return path.startswith("own.") and path not in setting_paths()


def _for_hydra(override: Override) -> str:
    """The override as Hydra takes it: arguments of an own function are new to its schema."""
    line = str(override.input_line)
    path = override.key_or_group
    is_new = (is_argument(path) or path == "own.roles") and not override.is_delete()
    return f"++{line.lstrip('+')}" if is_new else line


def _check_acts(overrides: Sequence[Override], values: Mapping[str, Any]) -> None:
    """Refuses settings of the built-in network where an own function is trained."""
    own = read_named_file(values["own"])
    for override in overrides:
        path = override.key_or_group
        if own is None or not is_trained(path):
            continue
        argument = own.program.role("seed") if path == SEED else path.partition(".")[2]
        if argument is not None:  # a seed that no argument takes seeds the global random streams
            meant = f"; own.{argument} may be meant" if own.program.argument(argument) else ""
            raise SettingError(
                f"{path} is of the built-in network and would do nothing in "
                f"{values['own']['file']}{meant}"
            )


def _check_option(override: Override, options: Sequence[str]) -> None:
    group, option = override.key_or_group, override.value()
    if group == "sweeps" and isinstance(option, str) and option in study_files():
        _read_study_file(study_files()[option])  # raises for one that cannot be read
    sentence = f"{group} must be one of {', '.join(options)}, but is {shown(option)}"
    if override.is_delete():
        is_fit = option is None or isinstance(option, str)
    else:  # the name of an option, or of several
        names = option if isinstance(option, list) else [option]
        is_fit = override.is_sweep_override() or all(isinstance(name, str) for name in names)
    if not is_fit:
        raise SettingError(f"{sentence}; its settings are written {group}.setting=value")
    if isinstance(option, str) and option not in options and not override.is_delete():
        raise SettingError(sentence + did_you_mean(option, options))


def _check_one_value(override: Override) -> None:
    """Refuses several values at once, which only a multirun can do something with."""
    if override.is_sweep_override():
        raise SettingError(
            f"{shown(override.input_line)} has several values; a list is written in brackets, "
            f"{override.key_or_group}=[...], and --multirun runs one after the other"
        )


def _check_not_searched(overrides: Sequence[str], values: Mapping[str, Any]) -> None:
    """Refuses a typed setting that the study draws anew for each trial: it would do nothing."""
    study = values.get("study")
    space = study.get("space") if isinstance(study, dict) else None
    for override in parse_overrides(overrides):
        group, _, setting = override.key_or_group.partition(".")
        domains = space.get(group) if isinstance(space, dict) else None
        if setting and isinstance(domains, dict) and setting in domains:
            path = override.key_or_group
            raise SettingError(
                f"{path} is searched by this study; to fix it, add '~study.space.{path}'"
            )


def _check_not_overruled(overrides: Sequence[Override], values: Any) -> None:
    """Refuses a typed option of a group where a study file sets something else: it would be lost.

    Settings that are typed one by one go before both.
    """
    typed = {override.key_or_group: override for override in overrides}  # the last of each counts
    for group, override in typed.items():
        option = override.value()
        file = shipped("conf") / group / f"{option}.yaml"
        if not isinstance(option, str) or not group.isidentifier() or not file.is_file():
            continue
        for name, value in _read_yaml(file).items():
            found = values[group][name]
            if found != value and f"{group}.{name}" not in typed:
                raise SettingError(
                    f"{group}={option} has {group}.{name}={shown(value)}, but the study file sets "
                    f"it to {shown(found)}; type the one that is meant, {group}.{name}=..."
                )


# -- Settings as a notebook gives them


def run_config(settings: Settings | None = None) -> RunConfig:
    """The config of a run: the defaults, with some settings changed.

    Raises:
        SettingError: for an unknown setting or option, or a value that breaks a law.

    Example:
        >>> import mlp
        >>> mlp.run_config({"gradient": "clip", "model.widths": [5, 4]}).model.widths
        (5, 4)
    """
    return read_run(_with_settings("train", [], settings or {}))


def explain_config(
    settings: dict[str, Any] | ExplainConfig | None, uri: str | None, experiment: str
) -> ExplainConfig:
    """The config of an explanation, from settings of the group `explain` and of others."""
    if isinstance(settings, ExplainConfig):
        return settings
    given: dict[str, Any] = {}
    for key, value in (settings or {}).items():
        path = key if "." in key else f"explain.{key}"
        if path in given:
            raise SettingError(f"{path} is set twice")
        given[path] = value
    values = grouped({"tracking.uri": uri, "tracking.experiment": experiment, **given})
    return read_explain(values, {path: given[path] for path in given if is_trained(path)})


def is_trained(path: str) -> bool:
    """Whether a setting says what is trained, and not where or how much."""
    return path.partition(".")[0] in RESULT_GROUPS and path != "data.root"


def study_config(study: str = "accuracy", settings: Settings | None = None) -> SweepConfig:
    """The config of a study: a study file, with some settings changed.

    Args:
        study: name of a shipped study file or of one in `./sweeps`.
        settings: of the runs and of the study; `study.space` is replaced as a whole.

    Raises:
        SettingError: as `run_config`, and for a space that breaks a law.

    Example:
        >>> import mlp
        >>> config = mlp.study_config("smoke", {"study.n_trials": 8, "training.steps": 30})
        >>> config.study.n_trials, config.base.data.name
        (8, 'digits')
    """
    return sweep_config(_with_settings("sweep", [f"sweeps={study}"], settings or {}))


def sweep_config(values: Mapping[str, Any]) -> SweepConfig:
    """The config of a study from its composed values, with every law that can be checked so early.

    Raises:
        SettingError: as `study_config`.
    """
    config = read_sweep(values)
    if config.base.own is None and config.study.file == _OF_OWN and not config.study.space:
        raise SettingError(f"sweeps={_OF_OWN} needs own.file=FILE.py, the file of your function")
    if config.base.own is not None and not config.study.space and not config.study.enqueue:
        space = space_around(config.base.own)
        config = dataclasses.replace(config, study=dataclasses.replace(config.study, space=space))
    check_study(config)
    return config


def settings_for(function: Callable[..., Any]) -> dict[str, Any]:
    """The setting that names a function: the file that it is written in.

    Raises:
        SettingError: for one that stands in no file, or not at its top level.
    """
    name = getattr(function, "__name__", "")
    file = inspect.getsourcefile(function) if inspect.isfunction(function) else None
    is_top = getattr(function, "__qualname__", "") == name and name.isidentifier()
    if file is None or not Path(file).is_file() or not is_top:
        raise SettingError(
            "train must be a function at the top level of a file, so that it can be trained in "
            "processes of its own and be recorded; in a notebook %%writefile mine.py writes a cell "
            "into one"
        )
    return {"own.file": f"{file}:{name}"}


def typed_changes(settings: Settings | None) -> dict[str, Any]:
    """Settings of a network that a rerun may change, by their paths.

    Raises:
        SettingError: for anything else.
    """
    known = [path for path in setting_paths() if path.partition(".")[0] in RESULT_GROUPS]
    for path in settings or {}:
        if path not in known and not is_argument(path):
            raise SettingError(unknown_setting(path, known))
    return dict(settings or {})


def _with_settings(command: str, overrides: list[str], settings: Settings) -> Any:
    """Groups are composed by Hydra; single settings replace what came of that."""
    options = [f"{key}={option}" for key, option in settings.items() if "." not in key]
    values = compose(command, [*overrides, *options])
    for path, value in settings.items():
        group, _, name = path.partition(".")
        if name:
            values.setdefault(group, {})[name] = value
    return values


# -- The YAML files that a config is composed of


def shipped(folder: str) -> Path:
    """The folder `conf` or `sweeps`: inside an installed package, or beside it in a checkout."""
    inside = _PACKAGE / folder
    return inside if inside.is_dir() else _PACKAGE.parent / folder


def group_options() -> dict[str, list[str]]:
    """Config group -> names of its options, of the shipped ones."""
    return {
        folder.name: sorted(file.stem for file in folder.glob("*.yaml"))
        for folder in sorted(shipped("conf").iterdir())
        if folder.is_dir()
    }


def study_files() -> dict[str, Path]:
    """Name -> file of every study; one in ./sweeps goes before a shipped one of the same name."""
    folders = (shipped("sweeps"), Path.cwd() / "sweeps")
    return {file.stem: file for folder in folders for file in sorted(folder.glob("*.yaml"))}


def own_study_files() -> list[str]:
    """Names of the shipped studies that a file in ./sweeps replaces."""
    folder = shipped("sweeps")
    return [
        name
        for name, file in study_files().items()
        if (folder / file.name).is_file() and file.resolve().parent != folder.resolve()
    ]


def named_by_study(name: str) -> Own | None:
    """The own function that a study file of ./sweeps names; None where it names none.

    Raises:
        SettingError: for a function that is not there.
    """
    file = Path.cwd() / "sweeps" / f"{name}.yaml"
    if not file.is_file():
        return None
    own = _read_study_file(file).get("own")
    return read_named_file(own) if isinstance(own, dict) else None


def _read_study_file(file: Path) -> dict[str, Any]:
    """The values of a study file; its space in groups, its name in it.

    Raises:
        SettingError: for a file that cannot be read, or names a setting of the space twice.
    """
    values = {"study": {}, **_read_yaml(file)}
    if isinstance(values["study"], dict):
        values["study"]["file"] = file.stem
        if isinstance(values["study"].get("space"), dict):
            try:
                values["study"]["space"] = _nested(values["study"]["space"])
            except ValueError as error:
                raise SettingError(f"the space of the study file {file} {error}") from None
    return values


def _read_yaml(file: Path) -> dict[str, Any]:
    """The values of a file of settings.

    Raises:
        SettingError: for a file that cannot be read, or is no mapping.
    """
    try:
        values = copy.deepcopy(_parsed(file.read_text(encoding="utf-8")))
    except (YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
        is_key = isinstance(error, KeyValidationError) and "NoneType" in str(error)
        said = "the key null is written in quotes, 'null': ..." if is_key else one_line(error)
        raise SettingError(f"cannot read the study file {file}: {said}") from None
    if not isinstance(values, dict):
        raise SettingError(f"the study file {file} must be a mapping with a group 'study'")
    return {str(key): value for key, value in values.items()}


@functools.lru_cache(64)
def _parsed(text: str) -> Any:
    """The values of a YAML text; all study files are looked at for each job of a --multirun."""
    return OmegaConf.to_container(OmegaConf.load(io.StringIO(text)))


def _nested(space: Mapping[Any, Any]) -> dict[str, Any]:
    """Dotted paths as nested groups, so that the command line reaches into a space by its paths."""
    nested: dict[str, Any] = {}
    for path, domain in text_keys(space).items():
        group, _, setting = path.partition(".")
        new = {setting: domain} if setting else domain
        if not isinstance(new, dict):
            if group in RUN_GROUPS:
                one = next(path for path in setting_paths() if path.startswith(f"{group}."))
                raise ValueError(
                    f"must vary settings by their paths, such as {one}, "
                    f"but varies the config group {group} as a whole"
                )
            nested[group] = new
            continue
        inside = nested.setdefault(group, {})
        if not isinstance(inside, dict) or inside.keys() & new.keys():
            raise ValueError(f"must name each setting once, but has {path} twice")
        inside.update(new)
    return nested
