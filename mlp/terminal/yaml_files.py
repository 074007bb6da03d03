"""The YAML files that a config is composed of: shipped groups, and studies, shipped or here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mlp.config import text_keys
from mlp.errors import SettingError, one_line

_PACKAGE = Path(__file__).resolve().parents[1]


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


def read_study_file(file: Path) -> dict[str, Any]:
    """The values of a study file; its space in groups, its name in it.

    Raises:
        SettingError: for a file that cannot be read, or names a setting of the space twice.
    """
    values = {"study": {}, **read_yaml(file)}
    if isinstance(values["study"], dict):
        values["study"]["file"] = file.stem
        if isinstance(values["study"].get("space"), dict):
            try:
                values["study"]["space"] = _nested(values["study"]["space"])
            except ValueError as error:
                raise SettingError(f"the space of the study file {file} {error}") from None
    return values


def read_yaml(file: Path) -> dict[str, Any]:
    """The values of a file of settings.

    Raises:
        SettingError: for a file that cannot be read, or is no mapping.
    """
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
