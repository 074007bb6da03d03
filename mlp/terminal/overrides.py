"""What was typed, each `setting=value`: whether it names what there is, and would count."""

import difflib
from collections.abc import Sequence
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from mlp.errors import SettingError, shown
from mlp.settings import setting_paths, unknown_setting
from mlp.terminal.yaml_files import read_study_file, read_yaml, shipped, study_files

_FREE = ("study.space", "study.enqueue", "hydra")  # below these a path names what the user wants


def parse_overrides(overrides: Sequence[str]) -> list[Override]:
    """The overrides as Hydra reads them.

    Raises:
        SettingError: for a text that is none.
    """
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


def check_name(override: Override, command: str) -> None:
    """Refuses a setting, group or option that does not exist, with the nearest that does.

    Args:
        override: one that was typed.
        command: `train` or `sweep`, which says what settings there are; Hydra is initialized.
    """
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
            read_study_file(study_files()[option])  # raises for one that cannot be read
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


def check_one_value(override: Override) -> None:
    """Refuses several values at once, which only a multirun can do something with."""
    if override.is_sweep_override():
        raise SettingError(
            f"{shown(override.input_line)} has several values; a list is written in brackets, "
            f"{override.key_or_group}=[...], and --multirun runs one after the other"
        )


def check_not_searched(overrides: Sequence[str], values: Any) -> None:
    """Refuses a typed setting that the study draws anew for each trial: it would do nothing."""
    study = values.get("study") if isinstance(values, dict) else None
    space = study.get("space") if isinstance(study, dict) else None
    for override in parse_overrides(overrides):
        group, _, setting = override.key_or_group.partition(".")
        domains = space.get(group) if isinstance(space, dict) else None
        if setting and isinstance(domains, dict) and setting in domains:
            path = override.key_or_group
            raise SettingError(
                f"{path} is searched by this study; to fix it, add '~study.space.{path}'"
            )


def check_not_overruled(overrides: Sequence[Override], values: Any) -> None:
    """Refuses a typed option of a group where a study file sets something else: it would be lost.

    Settings that are typed one by one go before both.
    """
    typed = {override.key_or_group: override for override in overrides}  # the last of each counts
    for group, override in typed.items():
        option = override.value()
        file = shipped("conf") / group / f"{option}.yaml"
        if not isinstance(option, str) or not group.isidentifier() or not file.is_file():
            continue
        for name, value in read_yaml(file).items():
            found = values[group][name]
            if found != value and f"{group}.{name}" not in typed:
                raise SettingError(
                    f"{group}={option} has {group}.{name}={shown(value)}, but the study file sets "
                    f"it to {shown(found)}; type the one that is meant, {group}.{name}=..."
                )
