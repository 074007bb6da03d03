"""The record of one run: its config, its curves and weights, and what was measured about it.

A record is four files in a folder: `config.json` (all that a rerun needs), `curve.npz`,
`weights.npz`, and `record.json` (times, sizes, the judgement). Whatever does not fit the schema to
the letter is refused with one sentence, because the files may come from a server that anybody could
write to.

`config.json` is plain JSON; nothing in it is resolved, looked up or executed.

An npz file has the same bytes for the same arrays. `numpy.load` allocates what a file claims to
hold. The reader here knows from the caller which arrays must be there, checks the zip directory and
each array's header against that, and only then reads; nothing is unpickled. Members are stored, not
compressed: no two versions of zlib to agree on, and no file that grows when it is opened.
"""

import dataclasses
import functools
import hashlib
import io
import json
import math
import re
import struct
import tokenize
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from mlp.config import MAX_STEPS, Own, RunConfig, canonical_json
from mlp.curve import Judgement, Verdict, judge_curve, judge_run
from mlp.engine.result import Ending, OwnTrace, Result
from mlp.errors import RecordError, SettingError, one_line, shown
from mlp.program import LARGEST_SOURCE, Argument, Program
from mlp.settings import (
    SEED,
    YOUNGER_SETTINGS,
    grouped,
    read_run,
    recorded_settings,
    settings_of,
    with_arguments,
)
from mlp.stability.ratio import Stability, judge_stability, sharpness_steps

Array = NDArray[Any]
_T = TypeVar("_T")

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first moment a zip file can name
_LARGEST_FILE = 1 << 30  # bytes; a config may claim any size
_FIRST_BYTES = b"PK\x03\x04"
_HEADER_ROOM = 1024  # bytes for the names, zip entries and npy header of one array

# A header is a Python literal. What else than our own could stand in it, from minus signs to
# escapes, is refused before NumPy parses it.
_HEADER_BYTES = frozenset(
    b"{'descr': '<|bfiu', 'fortran_order': False, 'shape': (0123456789,), }\n"
)
_BROKEN_FILE = (
    ValueError,
    zipfile.BadZipFile,
    NotImplementedError,  # a method or version that zipfile does not know
    RuntimeError,  # an encrypted member
    OverflowError,
    EOFError,
    struct.error,
    tokenize.TokenError,  # NumPy, for a header that is no literal
)

PIXELS = {"mnist": 784, "digits": 64}  # inputs of a network, by resolved data set
LARGEST_TEXT = 256 * 1024  # bytes; a real one has a few hundred

_VERSION = 1
_DEEPEST = 8
_DIGEST = re.compile(r"[0-9a-f]{64}")
_ARRAY_NAME = re.compile(r"(series|kept)\.[\w.-]{1,100}")
_DTYPE = re.compile(r"\|b1|[<|][iu][1248]|<f[248]")

CONFIG_FILE, CURVE_FILE, WEIGHTS_FILE = "config.json", "curve.npz", "weights.npz"
SOURCE_FILE, PRINTED_FILE = "program.py", "printed.txt"  # of an own function
ARTIFACTS = CONFIG_FILE, CURVE_FILE, WEIGHTS_FILE  # what every tracked run shows of its record
OWN_ARTIFACTS = SOURCE_FILE, PRINTED_FILE
FACTS_FILE = "record.json"
PICTURE_FILE = "loss.svg"  # beside them in MLflow; made of them, and never read back

_N_CLASSES = 2
# Curves of a `Result` in `curve.npz`: the array of their steps -> the values at these steps.
_VALUES_AT = {
    "loss_step": ("loss",),
    "evaluated_step": ("validation_accuracy",),
    "sharpness_step": ("sharpness", "sharpness_residual", "gradient_norm", "stability_ratio"),
    "restored_step": ("restored_to", "restored_share"),
    "layer_step": ("layer_gradient", "layer_update", "layer_idle"),
}
_INTEGERS = (*_VALUES_AT, "restored_to")


@dataclass(frozen=True)
class Expected:
    """What an array must be to be read.

    Attributes:
        dtype: exactly this one, little-endian.
        shape: exactly this one, unless `may_be_shorter`.
        may_be_shorter: whether the first axis may have fewer entries.
        is_optional: whether the array may be missing.
    """

    dtype: str
    shape: tuple[int, ...]
    may_be_shorter: bool = False
    is_optional: bool = False

    @property
    def largest_bytes(self) -> int:
        """Size of the largest array that is allowed."""
        return np.dtype(self.dtype).itemsize * math.prod(self.shape)

    def allows(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of that shape is as expected."""
        if not self.may_be_shorter:
            return shape == self.shape
        return (
            len(shape) == len(self.shape)
            and shape[1:] == self.shape[1:]
            and shape[0] <= self.shape[0]
        )


def pack_arrays(arrays: Mapping[str, Array]) -> bytes:
    """An npz file of the arrays, in their order; `numpy.load` opens it too.

    Example:
        >>> ones = {"b": np.ones(2), "a": np.arange(3)}
        >>> pack_arrays(ones) == pack_arrays(ones)
        True
        >>> sorted(np.load(io.BytesIO(pack_arrays(ones))))
        ['a', 'b']
    """
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            npy.write_array(member, _portable(array), version=(1, 0), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
            info.create_system = 3  # else the bytes would depend on the operating system
            info.external_attr = 0o644 << 16
            archive.writestr(info, member.getvalue())
    return file.getvalue()


def read_arrays(path: Path, expected: Mapping[str, Expected]) -> dict[str, Array]:
    """Reads the expected arrays and nothing else.

    Raises:
        RecordError: for a file that is missing, too large, no npz, or holds other arrays than
            expected; names the file and the reason.
    """
    return unpack_arrays(read_bytes(path, largest_file(expected)), expected, source=path.name)


def largest_file(expected: Mapping[str, Expected]) -> int:
    """The most bytes that a file of these arrays can have."""
    arrays = sum(each.largest_bytes + _HEADER_ROOM for each in expected.values())
    return min(arrays + _HEADER_ROOM, _LARGEST_FILE)


def unpack_arrays(
    data: bytes, expected: Mapping[str, Expected], *, source: str
) -> dict[str, Array]:
    """As `read`, from the bytes of a file that is called `source`."""
    try:
        if not data.startswith(_FIRST_BYTES):  # zipfile itself looks at the end alone
            raise ValueError("it must begin with a zip member")
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = _checked_members(archive, expected)
            return {name: _array(archive, members[name], expected[name]) for name in members}
    except _BROKEN_FILE as error:
        raise RecordError(f"{source} cannot be used: {one_line(error)}") from None


def arrays_digest(arrays: Iterable[Array]) -> str:
    """SHA-256 over the dtype, shape and bytes of each array in turn, 64 hex digits.

    Every NaN counts as the same one: its sign and payload say nothing about a training.

    Example:
        >>> arrays_digest([np.array([np.nan])]) == arrays_digest([np.array([-np.nan])])
        True
    """
    state = hashlib.sha256()
    for array in arrays:
        plain = _portable(array)
        if plain.dtype.kind == "f":
            plain = np.where(np.isnan(plain), plain.dtype.type(np.nan), plain)
        state.update(f"{plain.dtype.str}{list(plain.shape)}".encode())
        state.update(plain.tobytes())
    return state.hexdigest()


def read_bytes(path: Path, most: int) -> bytes:
    """The bytes of a plain file that may not be larger than `most`."""
    if path.is_symlink() or not path.is_file():
        raise RecordError(f"{path.name} is missing or not a plain file")
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise RecordError(f"{path.name} must be at most {most} bytes long, but is longer")
    return data


def _portable(array: Array) -> Array:
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).reshape(array.shape)


def _checked_members(
    archive: zipfile.ZipFile, expected: Mapping[str, Expected]
) -> dict[str, zipfile.ZipInfo]:
    """The archive's members by the name of their array, checked by the zip directory alone."""
    names = [info.filename.removesuffix(".npy") for info in archive.infolist()]
    required = {name for name, each in expected.items() if not each.is_optional}
    if len(set(names)) != len(names) or not required <= set(names) <= set(expected):
        raise ValueError(f"it must hold {', '.join(expected)}, but holds {', '.join(names)}")
    members = dict(zip(names, archive.infolist(), strict=True))
    for name, info in members.items():
        if info.filename != f"{name}.npy" or info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{name} must be a stored npy member")
        if not info.file_size == info.compress_size <= expected[name].largest_bytes + _HEADER_ROOM:
            raise ValueError(f"{name} must not claim {info.file_size} bytes")
    return {name: members[name] for name in expected if name in members}


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, expected: Expected) -> Array:
    """One member, its header checked before its data is looked at."""
    data = io.BytesIO(archive.read(info))
    if npy.read_magic(data) != (1, 0):
        raise ValueError(f"{info.filename} must be an array in version 1.0 of the npy format")
    start, n_header = data.tell(), int.from_bytes(data.read(2), "little")
    if not _HEADER_BYTES.issuperset(data.read(n_header)):
        raise ValueError(f"{info.filename} must have a header such as NumPy writes")
    data.seek(start)
    shape, is_fortran, dtype = npy.read_array_header_1_0(data, max_header_size=_HEADER_ROOM)
    if dtype.str != expected.dtype or is_fortran or not expected.allows(shape):
        limit = "at most " if expected.may_be_shorter else ""
        raise ValueError(
            f"{info.filename} must be {expected.dtype} of shape {limit}{list(expected.shape)}, "
            f"but is {dtype.str} of shape {shown(list(shape))}"
        )
    values = data.read()
    if len(values) != dtype.itemsize * math.prod(shape):
        raise ValueError(f"{info.filename} must hold exactly the data of its shape {list(shape)}")
    return np.frombuffer(values, dtype).reshape(shape).copy()


@dataclass(frozen=True)
class Recipe:
    """How to train a run again, and how it ended.

    Attributes:
        config: the settings; `data.name` is the data set itself, never `auto`. Where the data lies,
            where to track and with how many threads is not part of it.
        data_digest: SHA-256 of the data it was trained on, 64 hex digits.
        last_step: the update it ended after.
        arrays: of an own function: `series.NAME` of `curve.npz` and `kept.NAME` of `weights.npz`.
        fault: of an own function that failed: what went wrong.
    """

    config: RunConfig
    data_digest: str
    ending: Ending
    last_step: int
    arrays: Mapping[str, Expected] = dataclasses.field(default_factory=dict)
    fault: str | None = None


def write_recipe(recipe: Recipe) -> str:
    """The one text of a recipe.

    Raises:
        ValueError: if the data set is still `auto`.

    Example:
        >>> run = read_run({"data": {"name": "digits"}})
        >>> recipe = Recipe(run, "0" * 64, Ending.COMPLETED, 500)
        >>> read_recipe(write_recipe(recipe)) == recipe
        True
    """
    own = recipe.config.own
    if own is None and recipe.config.data.name not in PIXELS:
        raise ValueError(f"data.name must be resolved, but is {recipe.config.data.name!r}")
    values: dict[str, Any] = {
        "version": _VERSION,
        "settings": grouped(recorded_settings(recipe.config)),
        "data_digest": recipe.data_digest,
        "ended": {"ending": recipe.ending.value, "last_step": recipe.last_step},
    }
    if own is not None:
        values["program"] = program_values(own.program)
        values["arrays"] = {n: [each.dtype, list(each.shape)] for n, each in recipe.arrays.items()}
        values["ended"] |= {} if recipe.fault is None else {"fault": recipe.fault}
    return canonical_json(values)


def program_values(program: Program) -> dict[str, Any]:
    """A program as plain values."""
    # What `dataclasses.asdict` gives, without its copies of copies: each run has it twice.
    arguments = tuple({**vars(own)} for own in program.arguments)
    return {**vars(program), "arguments": arguments, "roles": dict(program.roles)}


def read_program_values(values: Any) -> Program:
    """The program of plain values from anywhere; nothing of it is executed."""
    try:
        found = _programs.validate_python(values)
    except ValidationError as error:
        raise RecordError(f"the program of the record cannot be used: {one_line(error)}") from None
    arguments = tuple(Argument(**dataclasses.asdict(own)) for own in found.arguments)
    names = [own.name for own in arguments]
    if len(set(names)) < len(names) or not set(found.roles.values()) <= set(names):
        raise RecordError("the program of the record has an argument twice, or a role of none")
    return Program(found.file, found.function, found.digest, arguments, tuple(found.roles.items()))


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class _Argument:
    name: Annotated[str, Field(pattern=r"^[^\W\d]\w*$", max_length=200)]
    kind: Literal["bool", "int", "float", "str", "list", "any"]
    default: bool | int | float | str | tuple[bool | int | float | str, ...] | None
    is_required: bool
    choices: tuple[str, ...]
    may_be_none: bool


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class _Program:
    file: Annotated[str, Field(pattern=r"^[^/\\\x00-\x1f]+\.py$", max_length=200)]
    function: Annotated[str, Field(pattern=r"^[^\W\d]\w*$", max_length=200)]
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    arguments: tuple[_Argument, ...]
    roles: dict[Literal["learning_rate", "batch_size", "seed", "steps"], str]


_programs = TypeAdapter(_Program)


def read_settings(
    settings: Mapping[str, Any], program: Program | None = None, *, source: str
) -> RunConfig:
    """The config of a run from its settings by their paths, through the schema's own door.

    All must be there, since a default may change one day; one that is younger than the record may
    be missing, and is what was done at that time.

    Args:
        program: of an own function: its signature.
        source: the name of what holds them, for a sentence.
    """
    if program is None:
        settings = {**YOUNGER_SETTINGS, **settings}
        expected = set(settings_of(RunConfig()))
    else:
        expected = {f"own.{own.name}" for own in program.arguments}
        expected |= set() if program.role("seed") else {SEED}
    for path in sorted(settings.keys() ^ expected):
        verb = "have" if path in expected else "not have"
        raise RecordError(f"{source} cannot be used: it must {verb} the setting {one_line(path)}")
    groups: dict[str, Any] = {**grouped(settings)}
    try:
        if program is not None:
            groups["own"] = with_arguments(Own(program, ()), groups.get("own", {}))
        run = read_run(groups)
    except SettingError as error:
        raise RecordError(f"{source} cannot be used: {one_line(error)}") from None
    if program is None and run.data.name not in PIXELS:
        raise RecordError(
            f"{source} cannot be used: data.name must be one of {', '.join(PIXELS)}, but is "
            f"{one_line(run.data.name)!r}"
        )
    return run


def read_recipe(text: str) -> Recipe:
    """Reads the text of a recipe from anywhere.

    Raises:
        RecordError: for a text that is too long, no JSON, ambiguous, or off the schema; one
            sentence that is safe to print.
    """
    values = _parse(text)
    is_own = isinstance(values, dict) and "program" in values
    keys = {"version", "settings", "data_digest", "ended"}
    _check_keys("config.json", values, keys | ({"program", "arrays"} if is_own else set()))
    version, digest, ended = values["version"], values["data_digest"], values["ended"]
    if isinstance(version, bool) or version != _VERSION:
        _refuse(f"version must be {_VERSION}, but is {version!r}")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        _refuse(f"data_digest must be 64 hex digits, but is {digest!r}")
    program = read_program_values(values["program"]) if is_own else None
    run = read_settings(_flat(values["settings"]), program, source=CONFIG_FILE)
    is_fault = is_own and isinstance(ended, dict) and "fault" in ended
    _check_keys("ended", ended, {"ending", "last_step", *(["fault"] if is_fault else [])})
    endings = [ending for ending in Ending if ending == ended["ending"]]
    if not endings:
        _refuse(f"ended.ending must be one of {', '.join(Ending)}, but is {ended['ending']!r}")
    last_step = ended["last_step"]
    if is_fault and (ended["ending"] != Ending.FAILED or not isinstance(ended["fault"], str)):
        _refuse(f"ended.fault must be the text of a failure, but is {shown(ended['fault'])}")
    most = MAX_STEPS if is_own else run.training.steps
    if type(last_step) is not int or not 0 <= last_step <= most:
        _refuse(f"ended.last_step must be a step of the training, but is {last_step!r}")
    arrays = _read_shapes(values["arrays"], last_step + 1) if is_own else {}
    fault = one_line(ended["fault"]) if is_fault else None
    return Recipe(run, digest, endings[0], last_step, arrays, fault)


def _flat(settings: Any) -> dict[str, Any]:
    """Groups of settings as settings by their paths."""
    _check_mapping("settings", settings)
    for group, part in settings.items():
        _check_mapping(f"settings.{group}", part)
        if not part:
            _refuse(f"settings.{group} must have settings")
    return {f"{group}.{name}": v for group, part in settings.items() for name, v in part.items()}


def _read_shapes(values: Any, n_entries: int) -> dict[str, Expected]:
    """What a record says of the arrays of an own function, each within what is read."""
    if not isinstance(values, dict):
        _refuse("arrays must be a mapping")
    found = {}
    for name, own in values.items():
        if not _ARRAY_NAME.fullmatch(name) or not isinstance(own, list) or len(own) != 2:
            _refuse(f"arrays must have names and types, but has {shown(name)}")
        dtype, shape = own
        is_shape = isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape)
        is_series = name.startswith("series.")
        if not isinstance(dtype, str) or not _DTYPE.fullmatch(dtype) or not is_shape:
            _refuse(f"arrays.{name} must be a type of numbers and a shape, but is {shown(own)}")
        if is_series and (dtype != "<f8" or shape != [n_entries]):
            _refuse(f"arrays.{name} must have an entry for each loss, but is {shown(own)}")
        found[name] = Expected(dtype, tuple(shape))
    return found


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


def read_json(text: str, schema: TypeAdapter[_T], *, source: str) -> _T:
    """As `parse_json`, checked against a schema."""
    try:
        return schema.validate_python(parse_json(text, source=source))
    except ValidationError as error:
        raise RecordError(f"{source} cannot be used: {one_line(error)}") from None


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


def _check_mapping(name: str, values: Any) -> None:
    if not isinstance(values, dict):
        _refuse(f"{name} must be a mapping, but is {values!r}")


def _check_keys(name: str, values: Any, expected: set[str]) -> None:
    _check_mapping(name, values)
    for key in sorted(values.keys() ^ expected):
        _refuse(f"{name} must {'have' if key in expected else 'not have'} the key {key!r}")


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


def judge_result(config: RunConfig, result: Result) -> Judgement:
    """Judges the loss of a run.

    Nothing is known of the loss of an own function, so that it is compared with where it began.
    One that came to no end has no verdict on its loss.
    """
    if config.own is None:
        return judge_run(result, config.training.batch_size)
    batch_size = config.own.arguments.get(config.own.program.role("batch_size") or "")
    is_size = isinstance(batch_size, int) and batch_size > 0
    judged = judge_curve(
        result.loss, steps=result.loss_step, batch_size=batch_size if is_size else None
    )
    if result.ending is Ending.FAILED:
        return dataclasses.replace(judged, verdict=Verdict.FAILED, amplitude=0.0, spiked=False)
    return judged


@dataclass(frozen=True, eq=False)
class RunRecord:
    """Everything about one run that is kept.

    Attributes:
        config: its settings; `data.name` is the data set itself, never `auto`.
        data_digest: SHA-256 of the data, 64 hex digits.
        n_validation: examples held out; 0 or more.
        started_ms: when its training began, milliseconds since 1970 in UTC.
        test_accuracy: share of the test part that is right; None where nobody looked.
    """

    config: RunConfig
    data_digest: str
    n_train: int
    n_validation: int
    n_test: int
    result: Result
    judgement: Judgement
    started_ms: int
    ended_ms: int
    threads: int
    test_accuracy: float | None = None

    @functools.cached_property
    def digests(self) -> dict[str, str]:
        """As the function `digests`; of many weights each hash takes its time."""
        return digests(self.result)

    @property
    def stability(self) -> Stability | None:
        """The stability ratio in short, and the mechanism; None where nobody measured."""
        result, verdict = self.result, self.judgement.verdict
        return judge_stability(
            result.sharpness_step, result.stability_ratio, verdict, result.last_step
        )


def config_json(record: RunRecord) -> str:
    """The text of `config.json`; equal runs have equal texts."""
    result = record.result
    arrays, own = {**_series_arrays(result), **_weight_arrays(result)}, result.own
    shapes = {name: Expected(_portable(a).dtype.str, a.shape) for name, a in arrays.items()}
    fault = own.fault if own is not None else None
    ended = result.ending, result.last_step
    return write_recipe(Recipe(record.config, record.data_digest, *ended, shapes, fault))


def curve_digest(result: Result) -> str:
    """SHA-256 over the curves of `curve.npz`; equal for equal training, measured or not."""
    return arrays_digest(_curve_arrays(result).values())


def sharpness_digest(result: Result) -> str:
    """SHA-256 over what `curve.npz` holds of the sharpness; equal for equal measurements."""
    return arrays_digest(_at("sharpness_step", result).values())


def weights_digest(result: Result) -> str:
    """SHA-256 over the arrays of `weights.npz`; equal for equal weights."""
    return arrays_digest(_weight_arrays(result).values())


def digests(result: Result) -> dict[str, str]:
    """What tells whether a run that is read back is the one that was recorded."""
    return {
        "curve_digest": curve_digest(result),
        "sharpness_digest": sharpness_digest(result),
        "weights_digest": weights_digest(result),
    }


def _layers_digest(result: Result) -> str | None:
    """That of the layers, which records of before do not have."""
    layers = _layer_arrays(result)
    return arrays_digest(layers.values()) if layers else None


def write_artifacts(folder: Path, record: RunRecord) -> None:
    """Writes what a tracked run shows: `config.json`, `curve.npz` and `weights.npz`.

    Of an own function also the text of its file, and the end of what it printed.
    """
    (folder / CONFIG_FILE).write_text(config_json(record), encoding="utf-8")
    (folder / CURVE_FILE).write_bytes(pack_arrays(_all_arrays(record)))
    (folder / WEIGHTS_FILE).write_bytes(pack_arrays(_weight_arrays(record.result)))
    if record.result.own is not None:
        (folder / SOURCE_FILE).write_text(record.result.own.source, encoding="utf-8")
        if record.result.own.printed:
            (folder / PRINTED_FILE).write_text(record.result.own.printed, encoding="utf-8")


def artifacts_in(folder: Path) -> list[Path]:
    """The files of a record that a tracked run shows."""
    further = (folder / name for name in (PICTURE_FILE, *OWN_ARTIFACTS))
    return [*(folder / name for name in ARTIFACTS), *(file for file in further if file.exists())]


def read_artifacts(folder: Path) -> tuple[Recipe, Result]:
    """Reads those three files.

    Raises:
        RecordError: for whatever is missing or does not fit; names the file and the reason.
    """
    recipe = read_recipe(read_text(folder / CONFIG_FILE))
    curve = read_arrays(folder / CURVE_FILE, expected_curve(recipe))
    has_weights = recipe.ending is not Ending.CRASHED
    expected = expected_weights(recipe) if has_weights else {}  # an own function may keep nothing
    weights = read_arrays(folder / WEIGHTS_FILE, expected) if expected else {}
    _check_curve(curve, _last_step(recipe))
    own = None
    if recipe.config.own is not None:
        source, printed = (_text_beside(folder / name) for name in OWN_ARTIFACTS)
        series = {name[7:]: curve.pop(name) for name in [*curve] if name.startswith("series.")}
        kept = {name[5:]: array for name, array in weights.items()}
        own = OwnTrace(series, kept, recipe.fault, printed=printed, source=source)
    n_layers = recipe.config.model.depth + 1 if has_weights and own is None else 0
    curves: dict[str, Any] = {"step_loss": None, **curve}
    result = Result(
        **curves,
        weights=tuple((weights[f"W{i}"], weights[f"b{i}"]) for i in range(1, n_layers + 1)),
        ending=recipe.ending,
        last_step=recipe.last_step,
        own=own,
    )
    return recipe, result


def _text_beside(path: Path) -> str:
    """A text that is only shown, never executed; empty where it cannot be read."""
    try:
        return read_text(path, LARGEST_SOURCE)
    except RecordError:
        return ""


def _last_step(recipe: Recipe) -> int:
    """The last step that a curve can have."""
    return recipe.config.training.steps if recipe.config.own is None else recipe.last_step


def write_record(folder: Path, record: RunRecord) -> None:
    """Writes the whole record into an existing folder."""
    write_artifacts(folder, record)
    values: dict[str, Any] = {name: getattr(record, name) for name in _FACT_NAMES}
    values |= record.digests | {"layers_digest": _layers_digest(record.result)}
    (folder / FACTS_FILE).write_bytes(_facts.dump_json(_Facts(**values)))


def read_record(folder: Path) -> RunRecord:
    """Reads a whole record; the inverse of `write_record`, but for the settings that say where."""
    recipe, result = read_artifacts(folder)
    facts = read_json(read_text(folder / FACTS_FILE), _facts, source=FACTS_FILE)
    found = {**digests(result), "layers_digest": _layers_digest(result)}
    if any(getattr(facts, name) != digest for name, digest in found.items()):
        raise RecordError(f"the arrays of {folder.name} are not those that were written")
    kept = {name: getattr(facts, name) for name in _FACT_NAMES if name != "judgement"}
    return RunRecord(
        config=recipe.config,
        data_digest=recipe.data_digest,
        result=result,
        **kept,
        judgement=judge_result(recipe.config, result),
    )


def read_text(path: Path, most: int = LARGEST_TEXT) -> str:
    """The text of one of a record's files, of at most so many bytes."""
    try:
        return read_bytes(path, most).decode()
    except UnicodeDecodeError:
        raise RecordError(f"{path.name} must be UTF-8 text") from None


def expected_weights(recipe: Recipe) -> dict[str, Expected]:
    """The arrays of `weights.npz` that fit: `W1` `(fan_in, fan_out)`, `b1`, and so on.

    Of an own function, `kept.NAME` as the recipe says.
    """
    run = recipe.config
    if run.own is not None:
        return {name: own for name, own in recipe.arrays.items() if name.startswith("kept.")}
    dtype = np.dtype(run.training.dtype).newbyteorder("<").str
    sizes = (PIXELS[run.data.name], *run.model.layer_widths, _N_CLASSES)
    arrays: dict[str, Expected] = {}
    for i, (fan_in, fan_out) in enumerate(pairwise(sizes), start=1):
        arrays[f"W{i}"] = Expected(dtype, (fan_in, fan_out))
        arrays[f"b{i}"] = Expected(dtype, (fan_out,))
    return arrays


def expected_curve(recipe: Recipe) -> dict[str, Expected]:
    """The arrays of `curve.npz` that fit; each at most one entry a step, and the first."""
    run, most = recipe.config, (_last_step(recipe) + 1,)
    if run.own is not None:
        series = {name: own for name, own in recipe.arrays.items() if name.startswith("series.")}
        return {
            "loss": Expected("<f8", most),
            "loss_step": Expected("<i8", most),
            "validation_accuracy": Expected("<f8", (0,)),
            "evaluated_step": Expected("<i8", (0,)),
            **series,
        }
    looks, depth = run.training.steps // run.training.evaluate_every + 2, run.model.depth
    n_columns = {"layer_gradient": depth + 1, "layer_update": depth + 1, "layer_idle": depth}
    present = {
        "loss_step": most,
        "evaluated_step": most,
        **({"sharpness_step": (points,)} if (points := len(sharpness_steps(run))) else {}),
        **({"restored_step": most} if run.optimizer.guard != "none" else {}),
        "layer_step": (looks,),
    }
    arrays = {
        name: Expected(
            "<i8" if name in _INTEGERS else "<f8",
            (*shape, n_columns[name]) if name in n_columns else shape,
            may_be_shorter=True,
            is_optional=steps in ("restored_step", "layer_step"),
        )
        for steps, shape in present.items()
        for name in (steps, *_VALUES_AT[steps])
    }
    if run.training.batch_size is not None:
        arrays["step_loss"] = Expected("<f8", most, may_be_shorter=True)
    return arrays


def _at(steps: str, result: Result) -> dict[str, Array]:
    """The array of some steps and those of the values there."""
    return {name: getattr(result, name) for name in (steps, *_VALUES_AT[steps])}


def _series_arrays(result: Result) -> dict[str, Array]:
    series = result.own.series if result.own is not None else {}
    return {f"series.{name}": series[name] for name in sorted(series)}


def _curve_arrays(result: Result) -> dict[str, Array]:
    names = "loss", "loss_step", "validation_accuracy", "evaluated_step"  # the order of digests
    return {
        **_series_arrays(result),
        **{name: getattr(result, name) for name in names},
        **({} if result.step_loss is None else {"step_loss": result.step_loss}),
        **(_at("restored_step", result) if result.restored_step.size else {}),
    }


def _layer_arrays(result: Result) -> dict[str, Array]:
    return _at("layer_step", result) if result.layer_step.size else {}


def _all_arrays(record: RunRecord) -> dict[str, Array]:
    result = record.result
    is_measured = record.config.own is None and sharpness_steps(record.config)
    measured = _at("sharpness_step", result) if is_measured else {}
    return _curve_arrays(result) | measured | _layer_arrays(result)


def _weight_arrays(result: Result) -> dict[str, Array]:
    kept = result.own.kept if result.own is not None else {}
    arrays: dict[str, Array] = {f"kept.{name}": kept[name] for name in sorted(kept)}
    for i, (W, b) in enumerate(result.weights, start=1):
        arrays[f"W{i}"], arrays[f"b{i}"] = W, b
    return arrays


def _check_curve(curve: dict[str, Array], last_step: int) -> None:
    """That each value has its step, and that the steps are those of the training, in order."""
    for steps, values in _VALUES_AT.items():
        if not {steps, *values} & curve.keys():
            continue
        if not {steps, *values} <= curve.keys():
            raise RecordError(f"{CURVE_FILE} must hold {', '.join((steps, *values))}")
        at = curve[steps]
        for name in values:
            if curve[name].shape[:1] != at.shape:
                raise RecordError(f"{CURVE_FILE} must have as many entries of {name} as of {steps}")
        if at.size and (at[0] < 0 or at[-1] > last_step or (np.diff(at) <= 0).any()):
            raise RecordError(f"{CURVE_FILE} must have increasing steps of the training in {steps}")


# A judgement of a huge loss may hold an infinity, which JSON has no number for.
@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid", ser_json_inf_nan="strings"))
class _Facts:
    """`record.json`: the rest of a record, and the digests of its arrays."""

    n_train: Annotated[int, Field(ge=0)]
    n_validation: Annotated[int, Field(ge=0)]
    n_test: Annotated[int, Field(ge=0)]
    judgement: Any  # for people; it is judged anew, by the rule of today
    started_ms: int
    ended_ms: int
    threads: int
    test_accuracy: float | None
    curve_digest: str
    sharpness_digest: str
    weights_digest: str
    layers_digest: str | None = None  # records of before have no such arrays


_FACT_NAMES = tuple(field.name for field in dataclasses.fields(_Facts))[:8]
_facts = TypeAdapter(_Facts)
