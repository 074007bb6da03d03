"""From what was typed to plain values: Hydra composes, our door checks first.

Hydra alone exits with 1 on a bad override, suggests nothing, and accepts `+group.typo=1`. So every
command line is composed and checked here once before Hydra's own application sees it.
"""

import contextlib
import dataclasses
import difflib
import itertools
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.hydra import Hydra
from hydra._internal.utils import (
    create_config_search_path,
    get_args_parser,  # the parser of the flags that Hydra documents
)
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mlp.config import Explain, RunConfig, Study, text_keys
from mlp.door import setting_paths, unknown_setting
from mlp.errors import SettingError, one_line, shown
from mlp.terminal import completion

_PACKAGE = Path(__file__).resolve().parents[1]
_FAULT = "unreadable"  # in place of the settings of a study file that cannot be read
_MOST_JOBS = 32  # of a --multirun that are checked beforehand; each takes some 50 ms
_FREE = ("study.space", "study.enqueue", "hydra")  # below these a path names what the user wants


def shipped(folder: str) -> Path:
    """The folder `conf` or `sweeps`: inside an installed package, or beside it in a checkout."""
    inside = _PACKAGE / folder
    return inside if inside.is_dir() else _PACKAGE.parent / folder


def study_files() -> dict[str, Path]:
    """Name -> file of every study; one in ./sweeps goes before a shipped one of the same name."""
    folders = (shipped("sweeps"), Path.cwd() / "sweeps")
    return {file.stem: file for folder in folders for file in sorted(folder.glob("*.yaml"))}


def own_study_files() -> list[str]:
    """Names of the shipped studies that a file in ./sweeps replaces."""
    return [
        name
        for name, file in study_files().items()
        if (shipped("sweeps") / file.name).is_file() and not _same(file, shipped("sweeps"))
    ]


def group_options() -> dict[str, list[str]]:
    """Config group -> names of its options, of the shipped ones."""
    return {
        folder.name: sorted(file.stem for file in folder.glob("*.yaml"))
        for folder in sorted(shipped("conf").iterdir())
        if folder.is_dir()
    }


def register() -> None:
    """Makes the schema's defaults and the study files known to Hydra.

    A file that cannot be read is known by its fault, which is met where the file is selected:
    ./sweeps may hold files of other programs.
    """
    store = ConfigStore.instance()
    store.repo.pop("sweeps", None)  # those of the folder that was the working directory before
    store.store(name="schema", node=dataclasses.asdict(RunConfig()))
    store.store(name="study_schema", node={"study": dataclasses.asdict(Study())})
    store.store(name="explain_schema", node={"explain": dataclasses.asdict(Explain())})
    for name, file in study_files().items():
        try:
            node = _read_study_file(file)
        except SettingError as error:
            node = {"study": {_FAULT: str(error).replace("${", "$ {")}}
        store.store(group="sweeps", name=name, node=node, package="_global_")


def compose(
    config_name: str,
    overrides: Sequence[str],
    *,
    config_dir: str | None = None,
    primary: str | None = None,
) -> Any:
    """Composes a config and returns its plain values, every interpolation resolved.

    Args:
        config_name: `train` or `sweep`, which says what settings there are.
        overrides: as typed, such as `["optimizer.learning_rate=0.1", "data=digits"]`.
        config_dir: a further folder of configs, as Hydra's `--config-dir`.
        primary: another config to begin with, as Hydra's `--config-name`.

    Raises:
        SettingError: for whatever Hydra or OmegaConf refuses, and for unknown settings and options.
    """
    register()
    parsed = _parse(overrides)
    with _composer(config_dir):
        for override in parsed:
            _check_name(override, config_name)
            _check_one_value(override)
        with _one_sentence():
            config = hydra.compose(primary or config_name, overrides=list(overrides))
        values = _values(config)
    _check_not_overruled(parsed, values)
    return values


def _values(config: DictConfig) -> Any:
    """The plain values of a composed config."""
    with _one_sentence():
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    study = values.get("study") if isinstance(values, dict) else None
    if isinstance(study, dict) and _FAULT in study:
        raise SettingError(study[_FAULT])
    return values


def typed_settings(
    overrides: Sequence[str], groups: Sequence[str], *, command: str = "train"
) -> dict[str, Any]:
    """Dotted path -> value of the settings of some groups that were typed one by one.

    Raises:
        SettingError: for an option of a whole group (`gradient=sum`), which would say nothing about
            the settings that it leaves alone.
    """
    values = compose(command, overrides)
    typed = {}
    for override in _parse(overrides):
        group, _, name = override.key_or_group.partition(".")
        if group in groups and not name:
            raise SettingError(f"name the settings one by one instead of {override.input_line!r}")
        if group in groups:
            typed[override.key_or_group] = values[group][name]
    return typed


def run_application(
    config_name: str,
    check: Callable[[Any], object],
    task: Callable[[Any], None],
    usage: Callable[[], str],
) -> None:
    """Runs a command that is a Hydra application, its overrides checked before Hydra sees them.

    Args:
        config_name: the primary config, `train` or `sweep`.
        check: raises SettingError for composed values that break a law.
        task: what to do with the composed values.
        usage: the text of `--help`.

    Raises:
        SettingError: for what was typed wrong.
    """
    parser = get_args_parser()
    parser.error = _refuse_flag  # type: ignore[method-assign]
    args = parser.parse_args()
    if args.help:
        print(usage())
        return
    for flag in ("config_path", "experimental_rerun"):
        if getattr(args, flag, None):
            raise SettingError(f"--{flag.replace('_', '-')} is not supported here")
    if (args.resolve or args.package) and not args.cfg:
        raise SettingError("--resolve and --package go with --cfg")
    if args.shell_completion:
        _complete(config_name, args.overrides)
        return
    for overrides in _jobs(args.overrides) if args.multirun else [args.overrides]:
        values = compose(
            config_name, overrides, config_dir=args.config_dir, primary=args.config_name
        )
        _check_not_searched(overrides, values)
        check(values)
    with _no_trace_of_multirun(wanted=args.multirun):
        hydra.main(version_base="1.3", config_path=str(shipped("conf")), config_name=config_name)(
            _plain(task)
        )()


def _complete(config_name: str, what: Sequence[str]) -> None:
    """Prints the script that bash evaluates, or what the line that is typed may go on with."""
    text = completion.script(" ".join(what))
    if text is not None:
        print(text)
        return
    completion.prepare_query()
    register()
    if config_name != "sweep":
        ConfigStore.instance().repo.pop("sweeps")
    hydra.main(version_base="1.3", config_path=str(shipped("conf")), config_name=config_name)(
        _plain(print)
    )()


def _check_not_searched(overrides: Sequence[str], values: Any) -> None:
    """Refuses a typed setting that the study draws anew for each trial: it would do nothing."""
    study = values.get("study") if isinstance(values, dict) else None
    space = study.get("space") if isinstance(study, dict) else None
    for override in _parse(overrides):
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


def _refuse_flag(message: str) -> NoReturn:
    raise SettingError(f"{message}; --hydra-help lists the flags")


def _jobs(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each job of a multirun, at most as many as are worth a check."""
    lists = []
    for override in _parse(overrides):
        if override.is_discrete_sweep() and override.value_type is not ValueType.GLOB_CHOICE_SWEEP:
            values = override.sweep_string_iterator()
            lists.append([f"{override.get_key_element()}={value}" for value in values])
        elif not override.is_sweep_override():
            lists.append([str(override.input_line)])
        elif not override.is_discrete_sweep():
            raise SettingError(f"{shown(override.input_line)} must name the values one by one")
    return [list(job) for job in itertools.islice(itertools.product(*lists), _MOST_JOBS)]


def _plain(task: Callable[[Any], None]) -> Callable[[DictConfig], None]:
    def run(config: DictConfig) -> None:
        task(_values(config))

    return run


@contextlib.contextmanager
def _no_trace_of_multirun(*, wanted: bool) -> Iterator[None]:
    """Hydra writes a multirun.yaml wherever its sweep folder is; so it gets one that goes."""
    if not wanted:
        yield
        return
    folder = tempfile.mkdtemp(prefix="mlp-multirun-")
    sys.argv.append(f"hydra.sweep.dir={folder}")
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _composer(config_dir: str | None) -> Iterator[None]:
    if config_dir is not None and not Path(config_dir).is_dir():
        raise SettingError(f"--config-dir must be a folder, but is {config_dir!r}")
    GlobalHydra.instance().clear()
    conf = str(shipped("conf"))
    with hydra.initialize_config_dir(conf, version_base="1.3"):
        if config_dir is not None:  # as Hydra's own application does it; its API has no way
            search_path = create_config_search_path(conf)
            place = f"file://{Path(config_dir).resolve()}"
            search_path.prepend("command-line", place, anchor="schema")
            GlobalHydra.instance().clear()
            Hydra.create_main_hydra2(task_name="app", config_search_path=search_path)
        yield


def _parse(overrides: Sequence[str]) -> list[Override]:
    parsed = []
    for override in overrides:
        try:
            parsed += OverridesParser.create().parse_overrides([override])
        except (HydraException, ValueError):  # ValueError: an integer of thousands of digits
            raise SettingError(
                f"cannot read {shown(override)}; an override is written setting=value, and a value "
                "with special characters in quotes of its own, setting='\"...\"'"
            ) from None
    return parsed


def _check_name(override: Override, command: str) -> None:
    """Refuses a setting, group or option that does not exist, with the nearest that does."""
    path = override.key_or_group
    if any(path == free or path.startswith((f"{free}.", f"{free}/")) for free in _FREE):
        return
    loader = GlobalHydra.instance().config_loader()
    groups = [group for group in loader.list_groups("") if group != "hydra"]
    if command != "sweep":
        groups.remove("sweeps")
    if path in groups:
        options = sorted(loader.get_group_options(path))
        option = override.value()
        if path == "sweeps" and isinstance(option, str) and option in study_files():
            _read_study_file(study_files()[option])  # raises for one that cannot be read
        if override.is_delete():
            is_fit = option is None or isinstance(option, str)
        else:
            is_fit = override.is_sweep_override() or _is_option(option)
        if not is_fit:
            raise SettingError(
                f"{path} must be one of {', '.join(options)}, but is {shown(option)}; "
                f"its settings are written {path}.setting=value"
            )
        if isinstance(option, str) and option not in options and not override.is_delete():
            near = difflib.get_close_matches(option, options, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise SettingError(
                f"{path} must be one of {', '.join(options)}, but is '{option}'{hint}"
            )
        return
    known = setting_paths(command)
    if path not in known:
        raise SettingError(unknown_setting(path, known if "." in path else [*known, *groups]))
    if override.is_delete():
        raise SettingError(f"{path} cannot be removed; give it a value")


def _is_option(value: object) -> bool:
    """Whether Hydra can take a value for the name of an option, or of several."""
    return all(isinstance(v, str) for v in (value if isinstance(value, list) else [value]))


def _check_one_value(override: Override) -> None:
    if override.is_sweep_override():
        raise SettingError(
            f"{shown(override.input_line)} has several values; a list is written in brackets, "
            f"{override.key_or_group}=[...], and --multirun runs one after the other"
        )


@contextlib.contextmanager
def _one_sentence() -> Iterator[None]:
    """Turns what Hydra and OmegaConf refuse into one sentence."""
    try:
        yield
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
        message = " ".join(str(cause).split("\n")[0].split())
        place = getattr(cause, "full_key", None)
        if place and str(place) not in message:
            message = f"{place}: {message}"
        if message.startswith("study.space.") and "Cannot merge" in message:
            message += f"; '~{place}' '+{place}=...' puts another domain in its place"
        raise SettingError(message) from None


def _read_study_file(file: Path) -> dict[str, Any]:
    """The values of a study file; its space in groups, its name in it."""
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
    try:
        values = OmegaConf.to_container(OmegaConf.load(file))
    except (YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
        raise SettingError(f"cannot read the study file {file}: {one_line(error)}") from None
    if not isinstance(values, dict):
        raise SettingError(f"the study file {file} must be a mapping with a group 'study'")
    return {str(key): value for key, value in values.items()}


def _nested(space: Mapping[Any, Any]) -> dict[str, Any]:
    """Dotted paths as nested groups, so that the command line reaches into a space by its paths."""
    nested: dict[str, Any] = {}
    for path, domain in text_keys(space).items():
        group, _, setting = path.partition(".")
        new = {setting: domain} if setting else domain
        if group not in nested:
            nested[group] = new
            continue
        inside = nested[group]
        if not isinstance(inside, dict) or not isinstance(new, dict) or inside.keys() & new.keys():
            raise ValueError(f"must name each setting once, but has {path} twice")
        inside.update(new)
    return nested


def _same(file: Path, folder: Path) -> bool:
    return file.resolve().parent == folder.resolve()
