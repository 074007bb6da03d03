"""From what was typed to plain values: Hydra composes, our door checks first.

Hydra alone exits with 1 on a bad override, suggests nothing, and accepts `+group.typo=1`. So every
command line is composed and checked here once before Hydra's own application sees it.
"""

import contextlib
import dataclasses
import itertools
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
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
from hydra.core.override_parser.types import ValueType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mlp.config import Explain, RunConfig, Study
from mlp.errors import SettingError, shown
from mlp.terminal import completion
from mlp.terminal.overrides import (
    check_name,
    check_not_overruled,
    check_not_searched,
    check_one_value,
    parse_overrides,
)
from mlp.terminal.yaml_files import read_study_file, shipped, study_files

_FAULT = "unreadable"  # in place of the settings of a study file that cannot be read
_MOST_JOBS = 32  # of a --multirun that are checked beforehand; each takes some 50 ms


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
            node = read_study_file(file)
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
    parsed = parse_overrides(overrides)
    with _composer(config_dir):
        for override in parsed:
            check_name(override, config_name)
            check_one_value(override)
        with _one_sentence():
            config = hydra.compose(primary or config_name, overrides=list(overrides))
        values = _values(config)
    check_not_overruled(parsed, values)
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
    for override in parse_overrides(overrides):
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
        check_not_searched(overrides, values)
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


def _refuse_flag(message: str) -> NoReturn:
    raise SettingError(f"{message}; --hydra-help lists the flags")


def _jobs(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each job of a multirun, at most as many as are worth a check."""
    lists = []
    for override in parse_overrides(overrides):
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
