"""`config.json`: what a rerun needs of a run, as canonical text, and a reader that trusts nothing.

The text may come from a server that anybody could write to. So it is plain JSON, checked against
the schema to the letter; nothing in it is resolved, looked up or executed.
"""

import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from mlp import door
from mlp.canonical import canonical_json
from mlp.config import RunConfig, Value
from mlp.engine.result import Ending
from mlp.errors import RecordError, SettingError, one_line
from mlp.settings import YOUNGER_SETTINGS, recorded_settings, settings_of

PIXELS = {"mnist": 784, "digits": 64}  # inputs of a network, by resolved data set
LARGEST_TEXT = 256 * 1024  # bytes; a real one has a few hundred

_VERSION = 1
_DEEPEST = 8
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Recipe:
    """How to train a run again, and how it ended.

    Attributes:
        config: the settings; `data.name` is the data set itself, never `auto`. Where the data lies,
            where to track and with how many threads is not part of it.
        data_digest: SHA-256 of the data it was trained on, 64 hex digits.
        ending: how the training ended.
        last_step: the update it ended after.
    """

    config: RunConfig
    data_digest: str
    ending: Ending
    last_step: int


def write_recipe(recipe: Recipe) -> str:
    """The one text of a recipe.

    Raises:
        ValueError: if the data set is still `auto`.

    Example:
        >>> run = door.read_run({"data": {"name": "digits"}})
        >>> recipe = Recipe(run, "0" * 64, Ending.COMPLETED, 500)
        >>> read_recipe(write_recipe(recipe)) == recipe
        True
    """
    if recipe.config.data.name not in PIXELS:
        raise ValueError(f"data.name must be resolved, but is {recipe.config.data.name!r}")
    return canonical_json(
        {
            "version": _VERSION,
            "settings": _grouped(recorded_settings(recipe.config)),
            "data_digest": recipe.data_digest,
            "ended": {"ending": recipe.ending.value, "last_step": recipe.last_step},
        }
    )


def read_recipe(text: str) -> Recipe:
    """Reads the text of a recipe from anywhere.

    Raises:
        RecordError: for a text that is too long, no JSON, ambiguous, or off the schema; one
            sentence that is safe to print.
    """
    values = _parse(text)
    _check_keys("config.json", values, {"version", "settings", "data_digest", "ended"})
    version, digest, ended = values["version"], values["data_digest"], values["ended"]
    if isinstance(version, bool) or version != _VERSION:
        _refuse(f"version must be {_VERSION}, but is {version!r}")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        _refuse(f"data_digest must be 64 hex digits, but is {digest!r}")
    run = _read_settings(values["settings"])
    _check_keys("ended", ended, {"ending", "last_step"})
    endings = [ending for ending in Ending if ending == ended["ending"]]
    if not endings:
        _refuse(f"ended.ending must be one of {', '.join(Ending)}, but is {ended['ending']!r}")
    last_step = ended["last_step"]
    if type(last_step) is not int or not 0 <= last_step <= run.training.steps:
        _refuse(f"ended.last_step must be a step of the training, but is {last_step!r}")
    return Recipe(run, digest, endings[0], last_step)


def parse_json(text: str, *, source: str) -> Any:
    """Plain JSON with no room for a second reading: no NaN, no infinity, no key twice.

    Raises:
        RecordError: naming the source and the reason.
    """
    try:
        return json.loads(
            text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant, parse_float=_finite
        )
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{source} cannot be used: {one_line(error)}") from None


def _grouped(settings: Mapping[str, Value]) -> dict[str, dict[str, Value]]:
    groups: dict[str, dict[str, Value]] = {}
    for path, value in settings.items():
        group, _, name = path.partition(".")
        groups.setdefault(group, {})[name] = value
    return groups


def _parse(text: str) -> Any:
    if len(text.encode(errors="surrogatepass")) > LARGEST_TEXT:
        _refuse(f"it must be at most {LARGEST_TEXT} bytes long, but is longer")
    values = parse_json(text, source="config.json")
    _check_values(values, 1)
    return values


def _check_values(value: Any, depth: int) -> None:
    """No deep nesting, no key that Hydra would obey, no text that OmegaConf would resolve."""
    if depth > _DEEPEST:
        _refuse(f"it must be nested at most {_DEEPEST} deep")
    if isinstance(value, str) and "${" in value:
        _refuse(f"no value may be an interpolation, but one is {value!r}")
    if isinstance(value, dict):
        for key in value:
            if key.startswith("_") or "${" in key:
                _refuse(f"no setting may be called {key!r}")
        value = list(value.values())
    if isinstance(value, list):
        for child in value:
            _check_values(child, depth + 1)


def _check_keys(name: str, values: Any, expected: set[str], optional: Collection[str] = ()) -> None:
    if not isinstance(values, dict):
        _refuse(f"{name} must be a mapping, but is {values!r}")
    for key in sorted((values.keys() | set(optional)) ^ expected):
        _refuse(f"{name} must {'have' if key in expected else 'not have'} the key {key!r}")


def _read_settings(values: Any) -> RunConfig:
    """The schema's own door, but with every setting there: a default may change one day.

    A setting that is younger than the record may be missing, and is what was done at that time.
    """
    expected = _grouped(settings_of(RunConfig()))
    younger = _grouped(YOUNGER_SETTINGS)
    _check_keys("settings", values, set(expected))
    for group, settings in expected.items():
        _check_keys(f"settings.{group}", values[group], set(settings), younger.get(group, ()))
    try:
        run = door.read_run({g: {**younger.get(g, {}), **part} for g, part in values.items()})
    except SettingError as error:
        _refuse(str(error))
    if run.data.name not in PIXELS:
        _refuse(f"data.name must be one of {', '.join(PIXELS)}, but is {run.data.name!r}")
    return run


def _refuse(reason: str) -> NoReturn:
    raise RecordError(f"config.json cannot be used: {one_line(reason)}")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"the key {key!r} is there twice")
        values[key] = value
    return values


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is too large for a number")
    return value
